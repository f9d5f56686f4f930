"""What a client may ask for: the validated request, the same at the API and at the worker.

The worker reads requests back from Redis, so it validates them again with the same model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import takewhile
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from scheduler.answer_form import NamedTool, ResponseFormat, ToolChoice, tool_name
from scheduler.errors import ClientError
from scheduler.message import Message
from scheduler.request_schema import as_it_validates
from scheduler.spelling import meant
from scheduler.webhook_address import Target
from scheduler.webhook_signature import read_secret

MAX_TEXT_BYTES = 4 << 20
"""The largest prompt, in bytes of UTF-8."""

# English makes a token of about 4.5 bytes, code and most other scripts of about 3; templates put about
# five tokens of markers around a message and about thirty before the first.
_BYTES_PER_TOKEN_LIKELY = 3
_BYTES_PER_TOKEN_MOST = 16
_MARKERS_PER_MESSAGE = 8
_MARKERS_PER_PROMPT = 32


Integer = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
"""Numbers and truth values as JSON has them: a string that looks like one, or one for the other, is refused."""

_INDEX_PATTERN = "^(0|[1-9][0-9]{0,8})$"
TokenId = Annotated[int, Field(ge=0, lt=1 << 32)]
"""What an array of indices can hold; whether the model has the token is the worker's to say."""


MaxTokens = Annotated[Integer, Field(ge=1, le=1 << 20)]


Url = Annotated[str, Field(min_length=1, max_length=2048)]


class Webhook(BaseModel):
    """Where to tell of the end of a job, and the secret that signs it: `whsec_` and 24 to 64 bytes in base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Url
    secret: SecretStr | None = None

    @field_validator("url")
    @classmethod
    def _is_sound(cls, value: str) -> str:
        Target.read(value)
        return value

    @field_validator("secret")
    @classmethod
    def _signs(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_secret(value.get_secret_value())
        return value


def _url_alone(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


WebhookField = Annotated[Webhook, BeforeValidator(_url_alone, json_schema_input_type=Url | Webhook)]
"""A webhook as requests have it: an object, or its URL alone."""

StopText = Annotated[str, Field(min_length=1, max_length=256)]
TopLogprobs = Annotated[Integer, Field(ge=0, le=20)]


class JobRequest(BaseModel):
    """One generation request (units: tokens, seconds). Null says nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=as_it_validates)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=4096)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    tools: Annotated[tuple[dict[str, Any], ...], Field(max_length=256)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Flag = True
    response_format: ResponseFormat | None = None
    max_tokens: MaxTokens | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[Integer, Field(ge=0, le=1 << 20)] = 0
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[Number, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[TokenId, Annotated[Number, Field(ge=-100, le=100)]],
            Field(max_length=1024, json_schema_extra={"propertyNames": {"pattern": _INDEX_PATTERN}}),
        ]
        | None
    ) = None
    seed: Annotated[Integer, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: Annotated[tuple[StopText, ...], Field(max_length=16)] = ()
    logprobs: TopLogprobs | None = None
    priority: Literal["interactive", "standard", "batch"] = "standard"
    queue_timeout: Annotated[Number, Field(gt=0, le=604_800)] | None = None
    run_timeout: Annotated[Number, Field(gt=0, le=604_800)] | None = None
    on_insufficient_memory: Literal["wait", "fail"] = "wait"
    max_attempts: Annotated[Integer, Field(ge=1, le=20)] | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=16),
    ] = {}
    webhook: WebhookField | None = None
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

    @field_validator(
        "stop",
        mode="before",
        json_schema_input_type=StopText | Annotated[tuple[StopText, ...], Field(max_length=16)],
    )
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("logprobs", mode="before", json_schema_input_type=TopLogprobs | bool | None)
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
        if self.must_call and not self.tools:
            raise _fault("tool_choice", "it needs tools")
        if isinstance(self.tool_choice, NamedTool) and not self.tools_to_call:
            raise _fault("tool_choice", f"no tool is named {self.tool_choice.function.name[:64]!r}")
        if (size := self.text_bytes) > MAX_TEXT_BYTES:
            field = "prompt" if self.messages is None else "messages"
            raise _fault(field, f"the text is {size:,} bytes; at most {MAX_TEXT_BYTES:,} are taken")
        return self

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a call of a tool."""
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def tools_to_call(self) -> tuple[dict[str, Any], ...]:
        """The tools that the answer may call."""
        if self.tool_choice == "none":
            return ()
        if isinstance(self.tool_choice, NamedTool):
            wanted = self.tool_choice.function.name
            return tuple(tool for tool in self.tools or () if tool_name(tool) == wanted)
        return self.tools or ()

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
        raise invalid_request(error, JobRequest.model_fields) from None
    except RecursionError:
        raise ClientError("invalid_request", "the request is nested too deeply") from None


def invalid_request(error: ValidationError, known: Iterable[str] = ()) -> ClientError:
    """A validation error as the client's: the first fault, as deep inside its field as any is told.

    Args:
        error: pydantic's.
        known: the request's fields, of which one may be meant where another is named.
    """
    faults = error.errors(include_url=False, include_input=False)
    field = _path(faults[0])
    same = takewhile(lambda fault: _path(fault)[: len(field)] == field, faults)  # a union's, one a type
    deepest = max(same, key=lambda fault: len(_path(fault)))
    message = deepest["msg"].removeprefix("Value error, ")
    if deepest["type"] == "extra_forbidden":
        like = meant(field[0], known) if len(deepest["loc"]) == 1 else None
        message = "there is no such field" + (f"; is {like} meant?" if like else "")
    param = ".".join(_path(deepest)) or None
    return ClientError("invalid_request", f"{param}: {message}" if param else message, param=param)


def _fault(field: str, reason: str) -> PydanticCustomError:
    """What a look at the whole request finds wrong with one field."""
    return PydanticCustomError("fault", "{reason}", {"field": field, "reason": reason})


def _path(fault: ErrorDetails) -> list[str]:
    """Where a fault is, without pydantic's names for the types of a union."""
    inside = {"str", "function-before", "constrained-str", "NamedTool"}
    loc = [str(part) for part in fault["loc"]]
    own = loc[-1:] if fault["type"] == "extra_forbidden" else []  # the client's word, whatever it looks like
    path = [part for part in loc[: len(loc) - len(own)] if part not in inside and "[" not in part] + own
    return path or ([fault["ctx"]["field"]] if fault["type"] == "fault" else [])
