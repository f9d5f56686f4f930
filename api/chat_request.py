"""OpenAI's chat request as a job's: its names, what is taken, what is let be, what is refused."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scheduler.errors import ClientError
from scheduler.request import Flag, Integer, JobRequest, Message, Number, invalid_request

_IGNORED: Final = frozenset(
    {
        *(
            "user",
            "store",
            "service_tier",
            "parallel_tool_calls",
            "prompt_cache_key",
            "prompt_cache_retention",
        ),
        *("safety_identifier", "reasoning_effort", "verbosity", "prediction"),
    }
)
"""Fields that change nothing here: hints, and OpenAI's own bookkeeping."""

_OWN: Final = frozenset(
    {
        *("n", "max_completion_tokens", "stream", "stream_options", "logprobs", "top_logprobs"),
        *("response_format", "tool_choice", "modalities"),
    }
)
"""Fields that are read here; every other one is the job's, under the same name."""


class StreamOptions(BaseModel):
    """What a stream has beside the text."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    include_usage: Flag | None = None


class ChatRequest(BaseModel):
    """OpenAI's request for a chat completion, and this queue's own fields. Null says nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    tool_choice: Any = None
    max_tokens: Integer | None = None
    max_completion_tokens: Integer | None = None
    n: Integer | None = None
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    stop: str | tuple[str, ...] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Integer | None = None
    min_p: Number | None = None
    seed: Integer | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = None
    logit_bias: dict[int, Number] | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    modalities: tuple[str, ...] | None = None
    metadata: dict[str, str] | None = None
    priority: Literal["interactive", "standard", "batch"] | None = None
    queue_timeout: Number | None = None
    run_timeout: Number | None = None
    on_insufficient_memory: Literal["wait", "fail"] | None = None
    max_attempts: Integer | None = None
    user: Any = None
    store: Any = None
    service_tier: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    prediction: Any = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_job(self) -> JobRequest:
        """The job that answers it.

        Raises:
            ClientError: ``invalid_request``; ``param`` is the field's name in OpenAI's request.
        """
        self._refuse_unsupported()
        fields: dict[str, Any] = {
            name: value
            for name in type(self).model_fields
            if name not in _OWN | _IGNORED and (value := getattr(self, name)) is not None
        }
        if self.max_completion_tokens is not None:
            fields["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            fields["logprobs"] = self.top_logprobs or 0
        if self.tool_choice == "none":
            fields.pop("tools", None)
        try:
            return JobRequest(**fields)
        except ValidationError as error:
            refused = invalid_request(error)
            if refused.param == "max_tokens" and self.max_completion_tokens is not None:
                message = refused.message.replace("max_tokens", "max_completion_tokens", 1)
                raise ClientError("invalid_request", message, param="max_completion_tokens") from None
            raise refused from None

    def _refuse_unsupported(self) -> None:
        refusals = {
            "n": (self.n in (None, 1), "one choice is made for a request; ask for more in more requests"),
            "response_format": (
                self.response_format is None or self.response_format == {"type": "text"},
                'only {"type": "text"} is supported',
            ),
            "tool_choice": (
                self.tool_choice in (None, "auto", "none"),
                'only "auto" and "none" are supported',
            ),
            "modalities": (self.modalities in (None, ("text",)), "only text is generated"),
            "top_logprobs": (self.top_logprobs is None or bool(self.logprobs), "needs logprobs to be true"),
            "stream_options": (self.stream_options is None or bool(self.stream), "needs stream to be true"),
        }
        for param, (fine, why) in refusals.items():
            if not fine:
                raise ClientError("invalid_request", f"{param}: {why}", param=param)
