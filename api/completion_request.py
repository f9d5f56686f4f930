"""OpenAI's older request for a completion as jobs: its prompts, what is taken, what is refused."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, WithJsonSchema, field_validator

from api.openai_request import OpenAIRequest, unsupported
from scheduler.request import Flag, Integer, JobRequest

DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's own for this route, which its clients count on; chat and jobs have the operator's."""

MAX_PROMPTS: Final = 32
"""Of one request; choices of prompts together are no more either, each of them a job that is followed."""


_TEXT: Final = {"type": "string", "minLength": 1}


class CompletionRequest(OpenAIRequest):
    """OpenAI's request for a completion, and this queue's own fields."""

    not_the_jobs: ClassVar[frozenset[str]] = OpenAIRequest.not_the_jobs | {
        "prompt",
        "best_of",
        "echo",
        "suffix",
    }

    prompt: Annotated[
        str | Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_PROMPTS)],
        WithJsonSchema(
            {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_PROMPTS}]}
        ),
    ]
    logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    best_of: Annotated[Integer | None, Field(description="Nothing but what `n` says.")] = None
    echo: Annotated[
        Flag | None,
        Field(description="The prompt is not said again."),
        WithJsonSchema({"enum": [False, None]}),
    ] = None
    suffix: Annotated[
        str | None,
        Field(description="Text is continued, and not filled in."),
        WithJsonSchema({"enum": ["", None]}),
    ] = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
            raise ValueError("token ids are not taken; send the text")
        return value

    def to_jobs(self) -> list[JobRequest]:
        """The jobs that answer it: of each prompt, one a choice."""
        if self.echo:
            raise unsupported("echo", "the prompt is not said again")
        if self.suffix:
            raise unsupported("suffix", "text is continued, and not filled in")
        if self.best_of not in (None, self.choices):
            raise unsupported("best_of", "no more completions are made than are answered; n says how many")
        prompts = (self.prompt,) if isinstance(self.prompt, str) else self.prompt
        if len(prompts) * self.choices > MAX_PROMPTS:
            reason = f"{len(prompts)} prompts of {self.choices} choices each; at most {MAX_PROMPTS} are made"
            raise unsupported("n", reason)
        fields: dict[str, Any] = {"max_tokens": DEFAULT_MAX_TOKENS} | self.job_fields()
        return [job for prompt in prompts for job in self.jobs_of(fields | {"prompt": prompt})]
