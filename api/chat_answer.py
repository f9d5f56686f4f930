"""Jobs in OpenAI's chat shapes: the completion, and the chunks of its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from api.answers import to_json
from api.openai_fields import TIERS
from api.outcomes import result_of, usage_of
from api.sse import data_event
from scheduler.record import JobRecord

_CHUNK: Final = "chat.completion.chunk"


def completion_id(job_id: str) -> str:
    """The id under which OpenAI's clients see a job."""
    return f"chatcmpl-{job_id.removeprefix('job_')}"


def finish_reason(result: dict[str, Any]) -> str:
    """Why it ended, in OpenAI's words; where it was cut, the calls before that are told of beside it."""
    reason = str(result.get("finish_reason"))
    if result.get("tool_calls") and reason != "length":
        return "tool_calls"
    return reason if reason in {"stop", "length", "tool_calls", "content_filter"} else "length"


def completion(rec: JobRecord) -> dict[str, Any]:
    """An ended job as ``chat.completion`` of one choice."""
    return ChatShape(wants_usage=False).whole([rec])


class ChatShape:
    """How jobs answer a chat, as its choices.

    Args:
        wants_usage: whether a stream ends with the count of tokens; until then each chunk says null.
        tells_tier: whether the client named a service tier, and is told which one it got.
    """

    def __init__(self, *, wants_usage: bool, tells_tier: bool = False) -> None:
        self._wants_usage, self._tells_tier = wants_usage, tells_tier

    def whole(self, records: Sequence[JobRecord]) -> dict[str, Any]:
        """The ended jobs as ``chat.completion``."""
        choices = [_choice(result_of(rec), index) for index, rec in enumerate(records)]
        head = _envelope(records[0], "chat.completion") | self._tier(records[0])
        return head | {"choices": choices, "usage": usage_of(records, len(records))}

    def chunks(self, records: Sequence[JobRecord]) -> list[Chunks]:
        """Each job's chunks, all under the name of the first."""
        more = self._tier(records[0])
        return [Chunks(records[0], self._wants_usage, index, more) for index in range(len(records))]

    def counted(self, records: Sequence[JobRecord]) -> bytes:
        """The chunk with the usage, where that was asked for."""
        if not self._wants_usage:
            return b""
        head = _envelope(records[0], _CHUNK) | self._tier(records[0])
        return data_event(head | {"choices": [], "usage": usage_of(records, len(records))})

    def _tier(self, rec: JobRecord) -> dict[str, Any]:
        return {"service_tier": TIERS[rec.meta.priority]} if self._tells_tier else {}


class Chunks:
    """The chunks of one choice, each as the event that carries it.

    Args:
        rec: the job that names the completion.
        wants_usage: as above.
        index: which choice.
        more: fields that each chunk has beside OpenAI's usual ones.
    """

    def __init__(
        self, rec: JobRecord, wants_usage: bool, index: int = 0, more: Mapping[str, Any] | None = None
    ) -> None:
        self._head = _envelope(rec, _CHUNK) | dict(more or {})
        self._index = index
        self._usage: dict[str, Any] = {"usage": None} if wants_usage else {}
        # Chunks of text differ in the text alone: what stands around it, nothing of which is a client's
        # behind it, is made once.
        before, field, self._behind = self._chunk({"content": ""}).rpartition(b'"content":""')
        self._before = before + field[:-2]

    def first(self) -> bytes:
        """The chunk with the role."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def delta(self, data: dict[str, Any]) -> bytes:
        """What an event of the job's log brought; nothing of tokens that make no whole character yet, or a call."""
        text, reasoning, logprobs = data.get("text", ""), data.get("reasoning"), data.get("logprobs")
        if not reasoning and logprobs is None:
            if not text:
                return b""
            return self._before + to_json(text).encode() + self._behind
        delta: dict[str, Any] = {"content": text} if text or not reasoning else {}
        if reasoning:
            delta["reasoning_content"] = reasoning
        return self._chunk(delta, logprobs=logprobs)

    def last(self, rec: JobRecord) -> bytes:
        """The chunks after the text: tool calls, and the reason of the end."""
        result = result_of(rec)
        calls = [{"index": index, **call} for index, call in enumerate(result.get("tool_calls") or ())]
        said = self._chunk({"tool_calls": calls}) if calls else b""
        return said + self._chunk({}, reason=finish_reason(result))

    def _chunk(self, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": _logprobs(logprobs),
            "finish_reason": reason,
        }
        return data_event(self._head | {"choices": [choice]} | self._usage)


def _choice(result: dict[str, Any], index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": result.get("text", ""), "refusal": None}
    if result.get("reasoning"):
        message["reasoning_content"] = result["reasoning"]
    if result.get("tool_calls"):
        message["tool_calls"] = result["tool_calls"]
        message["content"] = message["content"] or None
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(result.get("logprobs")),
        "finish_reason": finish_reason(result),
    }


def _envelope(rec: JobRecord, kind: str) -> dict[str, Any]:
    created = int(rec.created_at)
    return {"id": completion_id(rec.id), "object": kind, "created": created, "model": rec.meta.model}


def _logprobs(content: Any) -> dict[str, Any] | None:
    return None if content is None else {"content": content, "refusal": None}
