"""The page that a person sees at `/` and `/jobs/{id}`: its shell and its static files, which hold no data.

A browser's request for `/` is answered with the shell; any other with the index (:mod:`api.health`). Whoever may load
the page learns nothing: all that it shows it fetches under `/v1`, with the key that its reader types in. It has no
inline script or style, loads nothing from elsewhere, and its script cannot make HTML of text (trusted types without
a policy).

What tests may go by (roles and labels beside these):

- ``body[data-view=tide|job]``, ``body[data-link=loading|live|reconnecting|trouble|key|forbidden|error|missing]``
- ``article[data-worker=NAME][data-state]`` with ``[role=meter][data-gauge]``, whose ``data-…-bytes`` are its numbers
- ``figure[data-chart=NAME]`` with ``button[data-mark=KIND]``, ``[data-readout]``, ``ol[data-marks]``, ``table[data-numbers]``
- ``[data-class=PRIORITY][data-jobs]``, ``table[data-table=running|ended]``, ``tr[data-job=ID]``, ``td[data-cell]``
- ``form[data-form=try|key]``, ``[data-refusal=CODE]``, ``[data-countdown]``, ``[data-empty]``, ``[data-problem]``
- ``[data-job-page=ID][data-status]`` with ``[data-output]``, ``[data-reasoning]``, ``[data-timeline] [data-event]``,
  ``[data-memory][data-bytes]``, ``[data-error=CODE]``, ``[data-action=cancel|retry]``, ``[data-request]``
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, request

from scheduler.errors import ClientError

FOLDER: Final = Path(__file__).with_name("static")
SHELL: Final = "index.html"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
"""Only this server's own files, and no text that becomes HTML or script."""

_HEADERS: Final = {
    "Cache-Control": "no-cache",  # kept, and asked for again each time: a new release's files never mix with an old's
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_INDEX_FIRST: Final = ("application/json", "text/html")

routes = Blueprint("page", __name__)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent."""

    body: bytes
    media_type: str
    etag: str


@lru_cache(maxsize=1)
def static_files() -> dict[str, StaticFile]:
    """Every file of the page by its name under `/page/`, read once in a process."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            body = path.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:32]
            found[path.relative_to(FOLDER).as_posix()] = StaticFile(body, _TYPES[path.suffix], digest)
    return found


def wants_page() -> bool:
    """Whether the present request would rather have HTML than JSON, as a browser that goes to an address would."""
    return request.accept_mimetypes.best_match(_INDEX_FIRST) == "text/html"


def shell() -> Response:
    """The page without anything in it, the same at each of its addresses."""
    return _sent(static_files()[SHELL])


@routes.get("/jobs/<job_id>")
def job_page(job_id: str) -> Response:  # noqa: ARG001 (the script reads it from the address)
    """A job's page; whether there is such a job is for `/v1` to say."""
    return shell()


@routes.get("/page/<path:name>")
def static_file(name: str) -> Response:
    """One of the page's files.

    Raises:
        ClientError: ``not_found``; it has none of that name.
    """
    found = static_files().get(name)
    if found is None or name == SHELL:
        raise ClientError("not_found", f"no such route: {request.method} {request.path[:256]}")
    return _sent(found)


def _sent(file: StaticFile) -> Response:
    """A file with what its browser may do with it; 304 where it has it already."""
    said = Response(file.body, headers=_HEADERS, mimetype=file.media_type)
    said.set_etag(file.etag)
    said.make_conditional(request)  # it changes the answer itself
    return said
