"""What OpenAI's requests for chat and for text have in common: fields of the job, hints, and several choices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.openai_fields import Hint, OpenAIFields
from scheduler.errors import ClientError
from scheduler.request import Flag, Integer, JobRequest, MaxTokens, invalid_request

MAX_CHOICES: Final = 8
"""Of one prompt: each is a job."""

_SEEDS: Final = 1 << 64


class StreamOptions(BaseModel):
    """What a stream has beside the text; OpenAI's other options change nothing here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    include_usage: Flag | None = None


class OpenAIRequest(OpenAIFields):
    """OpenAI's fields that are the job's, and this queue's own. Null says nothing."""

    not_the_jobs: ClassVar[frozenset[str]] = frozenset(
        {"n", "stream", "stream_options", "user", "store", "service_tier"}
    )
    """Fields that are read at the API, or change nothing; every other one is the job's, under the same name."""

    jobs_names: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What the job calls fields of its own that clients call otherwise."""

    max_tokens: MaxTokens | None = None
    n: Annotated[Integer, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream_options: StreamOptions | None = None
    user: Hint = None
    store: Hint = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        """How many answers a prompt gets."""
        return self.n or 1

    @abstractmethod
    def to_jobs(self) -> list[JobRequest]:
        """The jobs that answer it, one a choice, those of one prompt one behind the other.

        Raises:
            ClientError: ``invalid_request``; ``param`` is the field's name in OpenAI's request.
        """

    def job_fields(self) -> dict[str, Any]:
        """The job's fields that are said, the class among them.

        Raises:
            ClientError: ``invalid_request``.
        """
        if self.stream_options is not None and not self.stream:
            raise unsupported("stream_options", "needs stream to be true")
        fields = {
            name: value
            for name in type(self).model_fields
            if name not in self.not_the_jobs and (value := getattr(self, name)) is not None
        }
        return fields | self.class_named()

    def jobs_of(self, fields: dict[str, Any], named: dict[str, str] | None = None) -> list[JobRequest]:
        """A prompt's jobs, one a choice; where a seed is given, each next one's is one more.

        Args:
            fields: of the job.
            named: what the client calls fields that the job calls otherwise.

        Raises:
            ClientError: ``invalid_request``; ``param`` is the field's name in the client's request.
        """
        try:
            first = JobRequest(**fields)
        except ValidationError as error:
            refused = invalid_request(error)
            ours, _, rest = (refused.param or "").partition(".")
            if (theirs := (named or {}).get(ours)) is None:
                raise refused from None
            message = refused.message.replace(ours, theirs, 1)
            param = f"{theirs}.{rest}" if rest else theirs
            raise ClientError("invalid_request", message, param=param) from None
        if first.seed is None:
            return [first] * self.choices
        seeds = [first.seed + at for at in range(self.choices)]
        return [first.model_copy(update={"seed": seed if seed < _SEEDS else seed - _SEEDS}) for seed in seeds]


def unsupported(param: str, why: str) -> ClientError:
    """That a field says what cannot be done."""
    return ClientError("invalid_request", f"{param}: {why}", param=param)
