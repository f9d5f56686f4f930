"""OpenAI's chat request as a job's: its names, what is taken, what is let be, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import Field, WithJsonSchema

from api.openai_fields import Hint
from api.openai_request import OpenAIRequest, unsupported
from scheduler.answer_form import ResponseFormat, ToolChoice
from scheduler.message import Message
from scheduler.request import Flag, Integer, JobRequest


class ChatRequest(OpenAIRequest):
    """OpenAI's request for a chat completion, and this queue's own fields."""

    not_the_jobs: ClassVar[frozenset[str]] = OpenAIRequest.not_the_jobs | {
        *("max_completion_tokens", "logprobs", "top_logprobs", "modalities"),
        # Hints, and OpenAI's own bookkeeping.
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier"),
        *("reasoning_effort", "verbosity", "prediction"),
    }

    jobs_names: ClassVar[Mapping[str, str]] = MappingProxyType({"max_completion_tokens": "max_tokens"})

    messages: Annotated[tuple[Message, ...], Field(max_length=4096)]
    tools: tuple[dict[str, Any], ...] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Flag | None = None
    response_format: ResponseFormat | None = None
    max_completion_tokens: Integer | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[
        Annotated[Integer, Field(ge=0, le=20)] | None, Field(description="Needs `logprobs` to be true.")
    ] = None
    modalities: Annotated[
        tuple[str, ...] | None, WithJsonSchema({"anyOf": [{"const": ["text"]}, {"type": "null"}]})
    ] = None
    prompt_cache_key: Hint = None
    prompt_cache_options: Hint = None
    prompt_cache_retention: Hint = None
    safety_identifier: Hint = None
    reasoning_effort: Hint = None
    verbosity: Hint = None
    prediction: Hint = None

    def to_jobs(self) -> list[JobRequest]:
        """The jobs that answer it, one a choice."""
        if self.modalities not in (None, ("text",)):
            raise unsupported("modalities", "only text is generated")
        if self.top_logprobs is not None and not self.logprobs:
            raise unsupported("top_logprobs", "needs logprobs to be true")
        fields = self.job_fields()
        named = {}
        if self.max_completion_tokens is not None:
            fields["max_tokens"] = self.max_completion_tokens
            named["max_tokens"] = "max_completion_tokens"
        if self.logprobs:
            fields["logprobs"] = self.top_logprobs or 0
        if self.tool_choice == "none":  # the model is not told of them, so they are no part of the prompt
            fields.pop("tools", None)
        return self.jobs_of(fields, named)
