"""A job in OpenAI's chat shapes: the completion, and the chunks of its stream."""

from __future__ import annotations

from typing import Any

from api.answers import to_json
from api.outcomes import result_of
from api.sse import data_event
from scheduler.record import JobRecord


def completion_id(job_id: str) -> str:
    """The id under which OpenAI's clients see a job."""
    return f"chatcmpl-{job_id.removeprefix('job_')}"


def completion(rec: JobRecord) -> dict[str, Any]:
    """An ended job as ``chat.completion``."""
    result = result_of(rec)
    message: dict[str, Any] = {"role": "assistant", "content": result.get("text", ""), "refusal": None}
    if result.get("reasoning"):
        message["reasoning_content"] = result["reasoning"]
    if result.get("tool_calls"):
        message["tool_calls"] = result["tool_calls"]
        message["content"] = message["content"] or None
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(result.get("logprobs")),
        "finish_reason": finish_reason(result),
    }
    return _envelope(rec, "chat.completion") | {"choices": [choice], "usage": result.get("usage")}


def finish_reason(result: dict[str, Any]) -> str:
    """Why it ended, in OpenAI's words."""
    if result.get("tool_calls"):
        return "tool_calls"
    reason = str(result.get("finish_reason"))
    return reason if reason in {"stop", "length", "tool_calls", "content_filter"} else "length"


class Chunks:
    """The chunks of one job's stream, each as the event that carries it.

    Args:
        rec: the job.
        wants_usage: whether the stream ends with the count of tokens; until then each chunk says null.
    """

    def __init__(self, rec: JobRecord, wants_usage: bool) -> None:
        self._rec = rec
        self._usage: dict[str, Any] = {"usage": None} if wants_usage else {}
        # Chunks of text differ in the text alone: what stands around it, nothing of which is a client's
        # behind it, is made once.
        before, field, self._behind = self._chunk({"content": ""}).rpartition(b'"content":""')
        self._before = before + field[:-2]

    def role(self) -> bytes:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def delta(self, data: dict[str, Any]) -> bytes:
        """What an event of the job's log brought."""
        text, reasoning, logprobs = data.get("text", ""), data.get("reasoning"), data.get("logprobs")
        if not reasoning and logprobs is None:
            return self._before + to_json(text).encode() + self._behind
        delta: dict[str, Any] = {"content": text} if text or not reasoning else {}
        if reasoning:
            delta["reasoning_content"] = reasoning
        return self._chunk(delta, logprobs=logprobs)

    def last(self, rec: JobRecord) -> list[bytes]:
        """The chunks after the text: tool calls, the reason of the end, the usage where asked for."""
        result = result_of(rec)
        calls = [{"index": index, **call} for index, call in enumerate(result.get("tool_calls") or ())]
        chunks = [self._chunk({"tool_calls": calls})] if calls else []
        chunks.append(self._chunk({}, reason=finish_reason(result)))
        if self._usage:
            usage: dict[str, Any] = {"choices": [], "usage": result.get("usage")}
            chunks.append(data_event(_envelope(self._rec, "chat.completion.chunk") | usage))
        return chunks

    def _chunk(self, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": reason}
        return data_event(_envelope(self._rec, "chat.completion.chunk") | {"choices": [choice]} | self._usage)


def _envelope(rec: JobRecord, kind: str) -> dict[str, Any]:
    created = int(rec.created_at)
    return {"id": completion_id(rec.id), "object": kind, "created": created, "model": rec.meta.model}


def _logprobs(content: Any) -> dict[str, Any] | None:
    return None if content is None else {"content": content, "refusal": None}
