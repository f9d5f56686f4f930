"""What the routes of files and batches take and answer, as models, in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from flask_openapi3.models.file import FileStorage
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.schemas import WebhookAnswer
from scheduler.errors import ClientError
from scheduler.request import WebhookField, invalid_request
from scheduler.stored_file import FILE_SECONDS, LEAST_SECONDS

FileId = Annotated[str, Field(pattern="^file-[0-9a-z]{26}$")]
BatchId = Annotated[str, Field(pattern="^batch_[0-9a-z]{26}$")]
Lifetime = Annotated[int, Field(ge=LEAST_SECONDS, le=FILE_SECONDS)]
Moment = int | None

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"


class _Taken(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExpiresAfter(_Taken):
    """How long a file is kept, from when it was made."""

    anchor: Literal["created_at"]
    seconds: Lifetime


def _said(**schema: Any) -> Callable[[dict[str, Any]], None]:
    """A part of a form as the document has it: one may be left out, but none can be null."""

    def write(found: dict[str, Any]) -> None:
        found.pop("default", None)
        found.update(schema)

    return write


class FileForm(_Taken):
    """A file to upload. Of OpenAI's purposes only `batch` is taken."""

    model_config = ConfigDict(
        json_schema_extra={"dependentRequired": {_ANCHOR: [_SECONDS], _SECONDS: [_ANCHOR]}}
    )

    file: Annotated[FileStorage, Field(description="JSON lines, each a request.")]
    purpose: Annotated[str, Field(json_schema_extra={"enum": ["batch"]})]
    anchor: Annotated[
        Any,
        Field(
            alias=_ANCHOR,
            description="From when the file's time counts.",
            json_schema_extra=_said(type="string", enum=["created_at"]),
        ),
    ] = None
    seconds: Annotated[
        Any,
        Field(
            alias=_SECONDS,
            description="How long the file is kept.",
            json_schema_extra=_said(type="integer", minimum=LEAST_SECONDS, maximum=FILE_SECONDS),
        ),
    ] = None

    def lifetime_seconds(self) -> int:
        """How long the file is kept.

        Raises:
            ClientError: ``invalid_request``; ``param`` is inside ``expires_after``.
        """
        if self.anchor is None and self.seconds is None:
            return FILE_SECONDS
        try:
            return ExpiresAfter.model_validate({"anchor": self.anchor, "seconds": self.seconds}).seconds
        except ValidationError as error:
            refused = invalid_request(error)
            raise ClientError(
                refused.code, f"expires_after.{refused.message}", param=f"expires_after.{refused.param}"
            ) from None


class FileAnswer(BaseModel):
    """A file; times are Unix seconds."""

    id: FileId
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"]
    data: list[FileAnswer]
    first_id: FileId | None
    last_id: FileId | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file that is gone."""

    id: FileId
    object: Literal["file"]
    deleted: Literal[True]


class FilePath(BaseModel):
    """A file's id in a path; one that is not of our form names none."""

    file_id: Annotated[str, Field(description="A file's id.")]


class FileQuery(_Taken):
    """A page of files and its filter."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    after: Annotated[FileId, Field(description="The last file of the page before.")] | None = None
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class BatchRequest(_Taken):
    """A batch to run. Null says nothing."""

    input_file_id: str
    endpoint: Annotated[
        str,
        Field(json_schema_extra={"enum": ["/v1/chat/completions", "/v1/completions", "/v1/responses"]}),
    ]
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None
    webhook: WebhookField | None = None


class BatchError(BaseModel):
    """Why a batch could not run."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(BaseModel):
    """Why a batch could not run: its first hundred faults."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(BaseModel):
    """Lines: all that ask something, those answered, those in the error file."""

    total: int
    completed: int
    failed: int


class BatchUsage(BaseModel):
    """The tokens of all answers."""

    input_tokens: int
    input_tokens_details: dict[Literal["cached_tokens"], int]
    output_tokens: int
    output_tokens_details: dict[Literal["reasoning_tokens"], int]
    total_tokens: int


class BatchAnswer(BaseModel):
    """A batch; times are Unix seconds."""

    id: BatchId
    object: Literal["batch"]
    endpoint: str
    model: str | None = Field(description="The one that all lines name, if they do.")
    errors: BatchErrors | None
    input_file_id: FileId
    completion_window: Literal["24h"]
    status: Literal[
        "validating",
        "in_progress",
        "finalizing",
        "cancelling",
        "completed",
        "failed",
        "expired",
        "cancelled",
    ]
    output_file_id: FileId | None
    error_file_id: FileId | None
    created_at: int
    expires_at: int
    in_progress_at: Moment
    finalizing_at: Moment
    completed_at: Moment
    failed_at: Moment
    expired_at: Moment
    cancelling_at: Moment
    cancelled_at: Moment
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    webhook: WebhookAnswer | None


class BatchList(BaseModel):
    """A page of batches, newest first."""

    object: Literal["list"]
    data: list[BatchAnswer]
    first_id: BatchId | None
    last_id: BatchId | None
    has_more: bool


class BatchPath(BaseModel):
    """A batch's id in a path; one that is not of our form names none."""

    batch_id: Annotated[str, Field(description="A batch's id.")]


class BatchQuery(_Taken):
    """A page of batches."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    after: Annotated[BatchId, Field(description="The last batch of the page before.")] | None = None


def page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of either, in OpenAI's shape."""
    ends = (
        {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        if data
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": data, **ends, "has_more": has_more}
