"""`/v1/files`: upload a batch's input, list, look at, read and delete files, in OpenAI's shapes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final, cast

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from werkzeug.datastructures import FileStorage

from api.answers import answer
from api.batch_schemas import FileAnswer, FileDeleted, FileForm, FileList, FilePath, FileQuery, page
from api.caller import caller
from api.services import Services, services
from api.spec import ERRORS
from api.upload import UploadRequest
from scheduler.errors import ClientError
from scheduler.stored_file import StoredFile

_FILENAME_MOST: Final = 255
_AROUND_FILE_BYTES: Final = 64 << 10
"""What a form may have beside its file: names, boundaries, the other fields."""

_PARTS_MOST: Final = 16
_BYTES: Final[dict[str, Any]] = {
    "description": "OK",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}

routes = APIBlueprint("files", __name__, abp_tags=[Tag(name="openai")], abp_responses=ERRORS)


@routes.before_request
def _expect_a_form() -> None:
    """An upload is a form, and longer than other bodies: both are known before any of it is read."""
    if request.method != "POST":
        return
    if request.mimetype != "multipart/form-data":
        said = request.mimetype or "none"
        raise ClientError(
            "unsupported_media_type",
            f"the body must have the content type multipart/form-data; it has {said[:64]}",
        )
    cast("UploadRequest", request).spool = services().spool
    request.max_content_length = services().settings.max_file_bytes + _AROUND_FILE_BYTES
    request.max_form_parts = _PARTS_MOST


@routes.post("/v1/files", responses={200: FileAnswer})
def upload(form: FileForm) -> Response:
    """Upload a file for a batch. It is kept for 30 days, or as `expires_after` says."""
    if form.purpose != "batch":
        reason = f"purpose: only batch is taken; this is {form.purpose[:64]!r}"
        raise ClientError("invalid_request", reason, param="purpose")
    sent: object = form.file
    if not isinstance(sent, FileStorage):
        raise ClientError("invalid_request", "file: this part needs a filename", param="file")
    size = sent.stream.seek(0, os.SEEK_END)
    sent.stream.seek(0)
    name = (sent.filename or "file")[:_FILENAME_MOST]
    seconds, files = form.lifetime_seconds(), services().files
    return answer(files.upload(caller().owner, name, size, sent.stream.read, seconds).view())


@routes.get("/v1/files", responses={200: FileList})
def list_files(query: FileQuery) -> Response:
    """List files, newest first unless `order` is `asc`."""
    found = services().files.page(
        caller().sees_stored,
        limit=query.limit,
        after=query.after,
        order=query.order,
        purpose=query.purpose or "",
    )
    return answer(page([file.view() for file in found.files], found.has_more))


@routes.get("/v1/files/<file_id>", responses={200: FileAnswer})
def get_file(path: FilePath) -> Response:
    """Look at a file."""
    return answer(_find(services(), path).view())


@routes.get("/v1/files/<file_id>/content", responses={200: _BYTES})
def get_content(path: FilePath) -> Response:
    """Read a file."""
    here = services()
    file = _find(here, path)
    headers = {
        "Content-Length": str(file.size_bytes),
        "Content-Disposition": f'attachment; filename="{file.id}.jsonl"',
    }
    first = here.files.chunk(file.id, 0) if file.chunks else b""  # an error is told while it can be
    return Response(_content(here, file, first), 200, headers, mimetype="application/octet-stream")


@routes.delete("/v1/files/<file_id>", responses={200: FileDeleted})
def delete_file(path: FilePath) -> Response:
    """Delete a file; not while a batch that has not ended reads it."""
    here = services()
    file = _find(here, path)
    here.files.delete(file)
    return answer({"id": file.id, "object": "file", "deleted": True})


def _find(here: Services, path: FilePath) -> StoredFile:
    return here.files.get(path.file_id, caller().sees_stored)


def _content(here: Services, file: StoredFile, first: bytes) -> Iterator[bytes]:
    """A file's chunks. One that is deleted meanwhile ends short of its length, which clients notice."""
    yield first
    for number in range(1, file.chunks):
        try:
            yield here.files.chunk(file.id, number)
        except ClientError:
            return
