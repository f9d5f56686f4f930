"""Jobs in the shapes of OpenAI's older completions: the completion, and the chunks of its stream."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Any

from api.chat_answer import finish_reason
from api.outcomes import result_of, usage_of
from api.sse import data_event
from scheduler.record import JobRecord


def text_completion(rec: JobRecord) -> dict[str, Any]:
    """An ended job as ``text_completion`` of one choice."""
    return CompletionShape(1, wants_usage=False).whole([rec])


class CompletionShape:
    """How jobs answer a request for completions, as its choices.

    Args:
        choices: how many each prompt has, one behind the other.
        wants_usage: whether a stream ends with the count of tokens; until then each chunk says null.
    """

    def __init__(self, choices: int, *, wants_usage: bool) -> None:
        self._choices, self._wants_usage = choices, wants_usage

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """The ended jobs as ``text_completion``."""
        results = [result_of(rec) for rec in records]
        choices = [
            {
                "text": result.get("text", ""),
                "index": index,
                "logprobs": OldLogprobs().read(result.get("logprobs")),
                "finish_reason": finish_reason(result),
            }
            for index, result in enumerate(results)
        ]
        return _envelope(records[0]) | {"choices": choices, "usage": usage_of(records, self._choices)}

    def chunks(self, records: Sequence[JobRecord]) -> list[TextChunks]:
        """Each job's chunks, all under the name of the first."""
        return [TextChunks(records[0], self._wants_usage, index) for index in range(len(records))]

    def counted(self, records: Sequence[JobRecord]) -> bytes:
        """The chunk with the usage, where that was asked for."""
        if not self._wants_usage:
            return b""
        return data_event(_envelope(records[0]) | {"choices": [], "usage": usage_of(records, self._choices)})


class TextChunks:
    """The chunks of one choice, each as the event that carries it.

    Args:
        rec: the job that names the completion.
        wants_usage: as above.
        index: which choice.
    """

    def __init__(self, rec: JobRecord, wants_usage: bool, index: int) -> None:
        self._head = _envelope(rec)
        self._index = index
        self._usage: dict[str, Any] = {"usage": None} if wants_usage else {}
        self._logprobs = OldLogprobs()

    def first(self) -> bytes:
        """Nothing: text has no role."""
        return b""

    def delta(self, data: dict[str, Any]) -> bytes:
        """What an event of the job's log brought; nothing of tokens that make no whole character yet."""
        text, logprobs = data.get("text", ""), self._logprobs.read(data.get("logprobs"))
        return self._chunk(text, logprobs, None) if text or logprobs else b""

    def last(self, rec: JobRecord) -> bytes:
        """The chunk with the reason of the end."""
        return self._chunk("", None, finish_reason(result_of(rec)))

    def _chunk(self, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> bytes:
        choice = {"text": text, "index": self._index, "logprobs": logprobs, "finish_reason": reason}
        return data_event(self._head | {"choices": [choice]} | self._usage)


class OldLogprobs:
    """Tokens' logarithms of probability as lists side by side; a text's pieces are read in order."""

    def __init__(self) -> None:
        self._offset = 0
        self._characters = getincrementaldecoder("utf-8")("replace")  # a token may be a part of one

    def read(self, entries: Sequence[dict[str, Any]] | None) -> dict[str, Any] | None:
        """The next tokens', with where each begins in the text; None where none were asked for."""
        if entries is None:
            return None
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._characters.decode(bytes(entry.get("bytes") or ())))
        return {
            "tokens": [entry.get("token") for entry in entries],
            "token_logprobs": [entry.get("logprob") for entry in entries],
            "top_logprobs": [
                {each["token"]: each["logprob"] for each in (*entry.get("top_logprobs", ()), entry)}
                for entry in entries
            ],
            "text_offset": offsets,
        }


def _envelope(rec: JobRecord) -> dict[str, Any]:
    return {
        "id": f"cmpl-{rec.id.removeprefix('job_')}",
        "object": "text_completion",
        "created": int(rec.created_at),
        "model": rec.meta.model,
    }
