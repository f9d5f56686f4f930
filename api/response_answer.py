"""A job as OpenAI's response object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from api.openai_fields import TIERS
from api.outcomes import failure, result_of
from api.response_items import Item
from api.response_note import ResponseNote
from api.response_output import Output
from scheduler.errors import ClientError
from scheduler.events import Kind, LoggedEvent
from scheduler.job import TERMINAL, State
from scheduler.record import JobRecord

_CODES: Final = {429: "rate_limit_exceeded", 400: "invalid_prompt", 413: "invalid_prompt"}
"""OpenAI's codes of a failed response are a closed list; every other status is its ``server_error``."""


def response_id(job_id: str) -> str:
    """The id under which OpenAI's clients see a job as a response."""
    return f"resp_{job_id.removeprefix('job_')}"


def new_output(rec: JobRecord, note: ResponseNote) -> Output:
    """The output of a response whose log was not read yet."""
    calls_most = None if note.parallel_tool_calls else 1
    return Output(rec.id, logprobs=note.logprobs, calls_most=calls_most)


def item_status(state: State) -> str:
    """How the last item of a response ends that ended so."""
    return "completed" if state is State.COMPLETED else "incomplete"


def response(rec: JobRecord, note: ResponseNote, log: Iterable[LoggedEvent] = ()) -> dict[str, Any]:
    """A response as it is now.

    Args:
        rec: its job.
        note: what was noted of it.
        log: the job's events, where it ended; what has not ended has no output yet.
    """
    if rec.state not in TERMINAL:
        return response_at(rec, note, rec.wire_state)
    output = new_output(rec, note)
    for event in log:
        if event.kind is Kind.DELTA:
            output.delta(event.data)
    error = failure(rec)
    output.end(None if error else result_of(rec), item_status(rec.state))
    return ended_response(rec, note, output)


def ended_response(rec: JobRecord, note: ResponseNote, output: Output) -> dict[str, Any]:
    """A response whose job ended, with the output that was made of its log."""
    error = failure(rec)
    failed = error if rec.state is not State.CANCELLED else None
    usage = None if error else _usage(result_of(rec), output.reasoning_tokens)
    return response_at(
        rec,
        note,
        rec.state if failed is None else State.FAILED,
        output=output.items,
        usage=usage,
        error=None if failed is None else response_error(failed),
        completed_at=_whole(rec.meta.ended_at) if rec.state is State.COMPLETED else None,
    )


def response_at(
    rec: JobRecord,
    note: ResponseNote,
    state: State,
    *,
    output: Sequence[Item] = (),
    usage: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    completed_at: int | None = None,
) -> dict[str, Any]:
    """A response in one of its states. Of its job only what never changes is read."""
    asked = rec.envelope.get("request") or {}
    return {
        "id": response_id(rec.id),
        "object": "response",
        "created_at": _whole(rec.created_at),
        "completed_at": completed_at,
        "status": state.value,
        "background": note.background,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if state is State.INCOMPLETE else None,
        "instructions": note.instructions,
        "max_output_tokens": asked.get("max_tokens"),
        "max_tool_calls": note.max_tool_calls,
        "metadata": asked.get("metadata") or {},
        "model": rec.meta.model,
        "output": list(output),
        "parallel_tool_calls": note.parallel_tool_calls,
        "previous_response_id": note.previous_response_id,
        "prompt_cache_key": note.prompt_cache_key,
        "reasoning": note.reasoning,
        "safety_identifier": note.safety_identifier,
        "service_tier": TIERS.get(rec.meta.priority, "default"),
        "store": note.store,
        "temperature": asked.get("temperature", 1.0),
        "text": note.text,
        "tool_choice": note.tool_choice,
        "tools": list(note.tools),
        "top_logprobs": note.top_logprobs,
        "top_p": asked.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": usage,
        "user": note.user,
    }


def response_error(error: ClientError) -> dict[str, Any]:
    """Why a response failed: OpenAI's code, ours as ``cause``, and the rest of what our errors say."""
    body = error.body()
    return body | {"code": _CODES.get(error.row.status, "server_error"), "cause": error.code}


def _usage(result: Mapping[str, Any], reasoning_tokens: int) -> dict[str, Any] | None:
    """Tokens, where the result counts them; those of the reasoning as it says, or else as the log lets one guess."""
    usage = result.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    before, after = (usage.get(f"{name}_tokens_details") or {} for name in ("prompt", "completion"))
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": before.get("cached_tokens", 0), "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {
            "reasoning_tokens": min(completion, after.get("reasoning_tokens", reasoning_tokens))
        },
        "total_tokens": prompt + completion,
    }


def _whole(seconds: float | None) -> int | None:
    """Unix seconds as OpenAI says them."""
    return None if seconds is None else int(seconds)
