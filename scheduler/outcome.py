"""How a job ended, and reading it back from where anybody may have written. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from scheduler.job import State


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: its result, or its error's body."""

    state: State
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_Count = Annotated[int, Field(ge=0, le=1 << 53, strict=True)]
_more: Final = with_config(ConfigDict(extra="allow"))


@_more
class _Details(TypedDict, total=False):
    cached_tokens: _Count


@_more
class Usage(TypedDict, total=False):
    """How many tokens a result took."""

    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count
    prompt_tokens_details: _Details


@_more
class _Logprob(TypedDict):
    token: str


@_more
class Result(TypedDict, total=False):
    """What those who answer with a result take apart."""

    text: str
    finish_reason: str
    reasoning: str | None
    usage: Usage
    logprobs: list[_Logprob] | None
    tool_calls: list[dict[str, Any]] | None


@_more
class _Error(TypedDict, total=False):
    """What those who answer with an error take apart."""

    code: str
    message: str
    param: str | None
    retry_after: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None


@_more
class _Ended(TypedDict):
    state: State
    result: Result | None
    error: _Error | None


_ENDED: Final[TypeAdapter[Any]] = TypeAdapter(_Ended)


def read_ended(said: Any) -> Outcome:
    """An outcome from the object of its fields.

    Raises:
        ValueError: it is another object, or none.
    """
    _ENDED.validate_python(said)
    return Outcome(State(said["state"]), said["result"], said["error"])
