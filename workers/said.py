"""What an engine may say: each message checked before anything is done with it, so that nonsense ends that engine alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NotRequired, Required

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from scheduler.card import ModelCard
from scheduler.errors import TABLE
from scheduler.outcome import Result, Usage
from scheduler.stored_json import is_rare, read_json
from workers.wire import Message, WireBroken, decoded


def _known(code: str) -> str:
    if code not in TABLE:
        raise ValueError(f"no code {code[:32]!r}")
    return code


_Count = Annotated[int, Field(strict=True, ge=0, le=1 << 53)]
_Token = Annotated[int, Field(strict=True, ge=0, lt=1 << 31)]
_Tokens = Annotated[int, Field(strict=True, ge=1, lt=1 << 31)]
_Code = Annotated[str, AfterValidator(_known)]
_Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
_Counts = dict[str, _Count]
_Cache = tuple[_Count, _Count, _Count, bool]
_Extent = tuple[_Count, _Count, list[_Cache]] | None

_BEFORE_READY: Final = frozenset({"host", "ready"})
_OF_A_LOAD: Final = frozenset({"loading", "measuring", "loaded", "load_failed"})
_ENDS_A_LOAD: Final = frozenset({"loaded", "load_failed"})

_form: Final = with_config(ConfigDict(extra="allow"))


@_form
class _Memory(TypedDict):
    active_bytes: _Count
    cache_bytes: _Count
    prefix_cache_bytes: NotRequired[_Count]


@_form
class _Any(TypedDict):
    """What is looked for in messages of every kind."""

    memory: NotRequired[_Memory]
    budget_bytes: NotRequired[_Count]
    phase: NotRequired[str]
    key: NotRequired[str]


@_form
class _Host(_Any):
    pools: _Counts


@_form
class _Measured(_Any):
    budget_bytes: Required[_Count]  # type: ignore[misc]
    steady_bytes: _Count
    steady_source: str
    limits_bytes: _Counts
    device: NotRequired[str]


@_form
class _Ready(_Measured):
    device: Required[str]  # type: ignore[misc]


@_form
class _OfModel(_Any):
    model: str


@_form
class _Loaded(_OfModel):
    card: dict[str, Any]
    prompts: _Counts | None
    memory: Required[_Memory]  # type: ignore[misc]
    load_seconds: _Seconds
    probe_seconds: _Seconds


@_form
class _LoadFailed(_OfModel):
    reason: str
    unsupported: bool


@_form
class _OfJob(_Any):
    key: Required[str]  # type: ignore[misc]


@_form
class _Sized(_OfJob):
    prompt_tokens: _Tokens
    max_tokens: _Tokens


@_form
class _Error(TypedDict):
    code: _Code
    message: str
    param: NotRequired[str | None]
    retry_after: NotRequired[_Seconds | None]


@_form
class _Refused(_OfJob):
    error: _Error


@_form
class _Account(_Any):
    need_bytes: _Count


@_form
class _Logprob(TypedDict):
    token: str


@_form
class _Result(Result):
    """What will be read back of it from the queue's server must be as those who read it there want it."""

    text: Required[str]  # type: ignore[misc]
    finish_reason: Required[str]  # type: ignore[misc]
    usage: Required[Usage]  # type: ignore[misc]


@_form
class _JobStep(_OfJob):
    at: _Seconds
    tokens: NotRequired[list[_Token]]
    text: NotRequired[str]
    reasoning: NotRequired[str]
    logprobs: NotRequired[list[_Logprob]]
    result: NotRequired[_Result]
    peak_bytes: NotRequired[_Count]


@_form
class _Step(_Any):
    kind: Literal["step"]
    steps: list[_JobStep]
    memory: Required[_Memory]  # type: ignore[misc]
    computed: NotRequired[_Counts]
    reused: NotRequired[_Counts]
    extents: NotRequired[dict[str, tuple[_Extent, _Extent]]]
    seconds: NotRequired[_Seconds]


@_form
class _Raised(_Any):
    keys: list[str]
    text: str
    memory: Required[_Memory]  # type: ignore[misc]


@_form
class _Learnt(_Any):
    card: dict[str, Any]


_FORMS: Final[dict[str, TypeAdapter[Any]]] = {
    kind: TypeAdapter(form)
    for kind, form in {
        "host": _Host,
        "ready": _Ready,
        "measured": _Measured,
        "loading": _OfModel,
        "measuring": _OfModel,
        "loaded": _Loaded,
        "load_failed": _LoadFailed,
        "counting": _OfJob,
        "sized": _Sized,
        "refused": _Refused,
        "account": _Account,
        "step": _Step,
        "raised": _Raised,
        "shed": _OfJob,
        "removed": _OfJob,
        "learnt": _Learnt,
    }.items()
}


_STEP: Final = b'{"kind":"step",'
_KEPT: Final = frozenset({"result", "logprobs"})
"""Of a job's step, what is kept on the queue's server with whatever is in it."""


def read_said(body: bytes) -> Message:
    """A message, with the fields of its kind.

    Steps come thirty times a second with a part for each job: they are read and checked in one pass.

    Raises:
        WireBroken: no engine sends such a message.
    """
    kind = "step"
    try:
        if body.startswith(_STEP):
            message: Message = _FORMS[kind].validate_json(body)
            if any(each.keys() & _KEPT for each in message["steps"]):
                _see_that_it_can_be_kept(body)
            return message
        message = decoded(body)
        kind = message["kind"][:32]
        form = _FORMS.get(message["kind"])
        if form is None:
            raise WireBroken(f"no message is of the kind {kind!r}")
        form.validate_python(message)
        if "card" in message:
            ModelCard.from_json(message["card"])
        _see_that_it_can_be_kept(body)
    except ValidationError as error:
        raise WireBroken(f"not a message {kind!r}: {first_fault(error)}") from None
    except (ValueError, AttributeError) as error:
        raise WireBroken(f"not a message {kind!r}: {str(error)[:200]}") from None
    return message


def _see_that_it_can_be_kept(body: bytes) -> None:
    try:
        if is_rare(body):
            read_json(body)
    except ValueError as error:
        raise WireBroken(f"not to be kept on the queue's server: {error}") from None


def first_fault(error: ValidationError) -> str:
    """Where it is, and why, without what it quotes."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:64]}: {first['msg'][:200]}"


@dataclass(slots=True)
class Course:
    """How far one engine has come, by what it was told and what it said: no message comes before its time."""

    ready: bool = False
    asked: str | None = None
    """The model that it was told to load, until it says how that ended."""
    loaded: set[str] = field(default_factory=set)
    """Every model that it ever had."""

    def tell(self, message: Message) -> None:
        """Note what it is told."""
        if message["kind"] == "load":
            self.asked = message["model"]

    def hear(self, message: Message) -> None:
        """Note what it said, as :func:`read_said` has it.

        Raises:
            WireBroken: no engine says so now.
        """
        kind = message["kind"]
        if self.ready == (kind in _BEFORE_READY):
            raise WireBroken(f"{kind!r} {'after' if self.ready else 'before'} it was ready")
        if kind == "ready":
            self.ready = True
        elif kind in _OF_A_LOAD:
            if message["model"] != self.asked:
                raise WireBroken(f"{kind!r} of a model that it was not told to load")
            if kind in _ENDS_A_LOAD:
                self.asked = None
            if kind == "loaded":
                self.loaded.add(message["model"])
        if "card" in message and message["card"]["model"] not in self.loaded:
            raise WireBroken(f"{kind!r} with the card of a model that it has not loaded")
