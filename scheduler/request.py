"""What a client may ask for: the validated request, the same at the API and at the worker.

The worker reads requests back from Redis, so it validates them again with the same model.
"""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from scheduler.errors import ClientError

MAX_TEXT_BYTES = 4 << 20
"""The largest prompt, in bytes of UTF-8."""

# English makes a token of about 4.5 bytes, code and most other scripts of about 3; templates put about
# five tokens of markers around a message and about thirty before the first.
_BYTES_PER_TOKEN_LIKELY = 3
_BYTES_PER_TOKEN_MOST = 16
_MARKERS_PER_MESSAGE = 8
_MARKERS_PER_PROMPT = 32


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


TextKind = Literal["text", "input_text", "output_text"]


class TextPart(_Strict):
    """One piece of a message's content."""

    type: TextKind = "text"
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if value not in get_args(TextKind):
            raise ValueError("only text parts are taken")
        return value


class Message(BaseModel):
    """One turn of a conversation; fields beyond these go to the chat template as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[TextPart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[dict[str, Any], ...] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs content or tool_calls")
        return self

    @property
    def text(self) -> str:
        """The content as one string."""
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template reads it; ``developer`` is said as ``system``."""
        fields = self.model_dump(exclude_none=True)
        fields["content"] = self.text
        if self.role == "developer":
            fields["role"] = "system"
        return fields


Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
"""Numbers and truth values as JSON has them: a string that looks like one, or one for the other, is refused."""

TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]
"""What an array of indices can hold; whether the model has the token is the worker's to say."""


class JobRequest(_Strict):
    """One generation request (units: tokens, seconds). Null says nothing."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=4096)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    tools: Annotated[tuple[dict[str, Any], ...], Field(max_length=256)] | None = None
    max_tokens: Annotated[Integer, Field(ge=1, le=1 << 20)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[Integer, Field(ge=0, le=1 << 20)] = 0
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[Number, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[dict[TokenId, Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=1024)] | None
    ) = None
    seed: Annotated[Integer, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=256)], ...], Field(max_length=16)
    ] = ()
    logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    priority: Literal["interactive", "standard", "batch"] = "standard"
    queue_timeout: Annotated[Number, Field(gt=0, le=604_800)] | None = None
    run_timeout: Annotated[Number, Field(gt=0, le=604_800)] | None = None
    on_insufficient_memory: Literal["wait", "fail"] = "wait"
    max_attempts: Annotated[Integer, Field(ge=1, le=20)] | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16),
    ] = {}
    stream: Flag = False

    @model_validator(mode="before")
    @classmethod
    def _null_says_nothing(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in data.items() if value is not None or name not in optional}

    @field_validator("messages", mode="before")
    @classmethod
    def _one_at_least(cls, value: object) -> object:
        if isinstance(value, list | tuple) and not value:
            raise ValueError("at least one message is needed")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("logprobs", mode="before")
    @classmethod
    def _flag_or_count(cls, value: object) -> object:
        return {True: 0, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _one_input(self) -> JobRequest:
        if self.messages is None and self.prompt is None:
            raise _fault("messages", "this or prompt is needed")
        if self.messages is not None and self.prompt is not None:
            raise _fault("prompt", "give this or messages, not both")
        if self.tools is not None and self.messages is None:
            raise _fault("tools", "these need messages")
        if (size := self.text_bytes) > MAX_TEXT_BYTES:
            field = "prompt" if self.messages is None else "messages"
            raise _fault(field, f"the text is {size:,} bytes; at most {MAX_TEXT_BYTES:,} are taken")
        return self

    @property
    def text_bytes(self) -> int:
        """Bytes of everything that becomes prompt text."""
        if self.messages is None:
            return len((self.prompt or "").encode())
        rest = [m.model_dump(exclude={"content"}, exclude_none=True) for m in self.messages]
        return sum(len(m.text.encode()) for m in self.messages) + len(
            json.dumps([rest, self.tools or ()]).encode()
        )

    @property
    def prompt_tokens_likely(self) -> int:
        """About how many prompt tokens this makes; the worker counts them before it computes any."""
        markers = _MARKERS_PER_PROMPT + _MARKERS_PER_MESSAGE * len(self.messages) if self.messages else 1
        return self.text_bytes // _BYTES_PER_TOKEN_LIKELY + markers

    @property
    def prompt_tokens_least(self) -> int:
        """No tokenizer in use makes fewer prompt tokens of ordinary text than this."""
        text = self.prompt if self.messages is None else "".join(m.text for m in self.messages)
        return max(1, len((text or "").encode()) // _BYTES_PER_TOKEN_MOST)


def read_request(data: object) -> JobRequest:
    """Validate what a client sent, or what Redis holds.

    Raises:
        ClientError: ``invalid_request``; ``param`` names the first field at fault.
    """
    try:
        return JobRequest.model_validate(data)
    except ValidationError as error:
        raise invalid_request(error) from None
    except RecursionError:
        raise ClientError("invalid_request", "the request is nested too deeply") from None


def invalid_request(error: ValidationError) -> ClientError:
    """A validation error as the client's: the first fault, as deep inside its field as any is told."""
    faults = error.errors(include_url=False, include_input=False)
    field = _path(faults[0])
    same = takewhile(lambda fault: _path(fault)[: len(field)] == field, faults)  # a union's, one a type
    deepest = max(same, key=lambda fault: len(_path(fault)))
    message = deepest["msg"].removeprefix("Value error, ")
    param = ".".join(_path(deepest)) or None
    return ClientError("invalid_request", f"{param}: {message}" if param else message, param=param)


def _fault(field: str, reason: str) -> PydanticCustomError:
    """What a look at the whole request finds wrong with one field."""
    return PydanticCustomError("fault", "{reason}", {"field": field, "reason": reason})


def _path(fault: ErrorDetails) -> list[str]:
    """Where a fault is, without pydantic's names for the types of a union."""
    inside = {"str", "function-before", "constrained-str"}
    path = [str(part) for part in fault["loc"] if str(part) not in inside and "[" not in str(part)]
    return path or ([fault["ctx"]["field"]] if fault["type"] == "fault" else [])
