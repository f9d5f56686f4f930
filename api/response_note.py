"""What is noted of a response beside its job's request: the fields that OpenAI's clients see again."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from scheduler.record import JobRecord

NAME: Final = "response"
"""Its name in a job's note."""


class ResponseNote(BaseModel):
    """A response as it was asked for; what its job's request has too is read there."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: tuple[dict[str, Any], ...] = ()
    """Its own input, as :func:`api.response_items.read_items` made it, references resolved."""
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = None
    text: dict[str, Any] = {"format": {"type": "text"}}
    reasoning: dict[str, Any] | None = None
    logprobs: bool = False
    """Whether the text comes with its logprobs."""
    top_logprobs: int = 0
    background: bool = False
    store: bool = True
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def to_note(self) -> dict[str, Any]:
        """What :meth:`scheduler.lifecycle.Lifecycle.accept` is to keep."""
        return {NAME: self.model_dump(mode="json", exclude_defaults=True)}


def read_note(rec: JobRecord) -> ResponseNote | None:
    """What was noted of a job; None where it is no response's, or the note is not one of ours."""
    note = rec.envelope.get("note")
    kept = note.get(NAME) if isinstance(note, dict) else None
    if not isinstance(kept, dict) or not isinstance(rec.envelope.get("request"), dict):
        return None
    try:
        return ResponseNote.model_validate(kept)
    except ValidationError:
        return None
