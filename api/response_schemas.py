"""What the routes of responses answer and take beside a response's request, as models for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import EventNumber, Status

ResponseId = Annotated[
    str, Field(pattern="^resp_[0-9a-z]{26}$", examples=["resp_01jd3x0v5f8k2m4n6p8r0s2t4v"])
]


class InputDetails(BaseModel):
    """Where the input's tokens came from."""

    cached_tokens: int = Field(description="Those that were computed for earlier jobs, and kept.")
    cache_write_tokens: Literal[0]


class OutputDetails(BaseModel):
    """What the output's tokens were for."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Tokens, under the names of the Responses API."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseFailure(BaseModel):
    """Why a response failed; `cause` is the code that the same error has over HTTP."""

    model_config = ConfigDict(extra="allow")

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str
    cause: str
    retryable: bool
    retry_after: Annotated[int, Field(ge=1, le=120, description="Seconds.")] | None = None


class ResponseAnswer(BaseModel):
    """OpenAI's response; times are Unix seconds."""

    id: ResponseId
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: ResponseFailure | None
    incomplete_details: dict[str, Literal["max_output_tokens"]] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]] = Field(
        description="`reasoning`, `message` and `function_call` items; empty until the response ended."
    )
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any] | None
    safety_identifier: str | None
    service_tier: Literal["flex", "default", "priority"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class ResponseDeleted(BaseModel):
    """A response that is no more."""

    id: ResponseId
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(BaseModel):
    """A page of a response's input."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponsePath(BaseModel):
    """A response's id in a path; one that is not of our form names no response."""

    response_id: Annotated[str, Field(description="A response's id.")]


class _Query(BaseModel):
    """Parameters; what `include` asks for beyond the answer's own fields is not here to be had."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: list[str] | None = None
    includes: Annotated[
        list[str] | None, Field(alias="include[]", description="As OpenAI's clients write it.")
    ] = None


class ResponseQuery(_Query):
    """Whether the response is streamed, and from where on."""

    stream: bool = False
    starting_after: Annotated[
        EventNumber | None, Field(description="The `sequence_number` of the newest event seen.")
    ] = None
    include_obfuscation: bool | None = None


class InputItemsQuery(_Query):
    """A page of input items."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: Annotated[str | None, Field(description="The id of the last item of the page before.")] = None
