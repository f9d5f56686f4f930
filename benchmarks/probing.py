"""One question to a server and its answer in a few words: the same for whoever serves OpenAI's API."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

ANSWER_SECONDS: Final = 20.0
YES: Final = "yes"
IGNORED: Final = "ignored"
CLOSED: Final = "closes the connection"
ODD: Final = "other: an answer of another shape"
SILENT: Final = f"no answer within {ANSWER_SECONDS:.0f} s"

_END_SECONDS: Final = 20.0
_ENDED: Final = frozenset({"completed", "failed", "cancelled", "incomplete", "expired"})

SUNNY: Final = {
    "type": "object",
    "properties": {"sunny": {"type": "boolean"}},
    "required": ["sunny"],
    "additionalProperties": False,
}
"""A schema that few answers fit."""

Json = dict[str, Any]
Shown = Callable[[Json], bool]


@dataclass(slots=True)
class Server:
    """A server under question.

    Args:
        http: a client whose base is its address.
        model: what requests call the model.
        cpu_seconds: what it and its children have computed so far.
    """

    http: httpx.Client
    model: str
    cpu_seconds: Callable[[], float]
    remembered: dict[str, Any] = field(default_factory=dict)
    """What an answer was that several questions are measured by."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A question.

    Args:
        route: whose it is.
        name: the field or the case.
        right: what an answer must show.
        ask: puts it, and says in a few words what came.
    """

    route: str
    name: str
    right: str
    ask: Callable[[Server], str]


class Refused(Exception):
    """A question cannot go on: the server refused what it is about; the message is the result."""


def put(probe: Probe, server: Server) -> str:
    """A probe's result, whatever happens to the connection."""
    try:
        return probe.ask(server)
    except Refused as error:
        return str(error)
    except httpx.TimeoutException:
        return SILENT
    except httpx.TransportError:
        return CLOSED
    except (LookupError, TypeError, ValueError, AttributeError):
        return ODD


def accepted(answer: httpx.Response, param: str = "") -> Json:
    """The object of an answer that is no refusal.

    Raises:
        Refused: it is one.
        ValueError: it is no object.
    """
    if not answer.is_success:
        raise Refused(refusal(answer, param))
    found = json_of(answer)
    if found is None:
        raise ValueError("no object")
    return found


@contextmanager
def streamed(
    server: Server, method: str, path: str, param: str = "", **request: Any
) -> Iterator[httpx.Response]:
    """An answer that is read as it comes.

    Raises:
        Refused: it is a refusal.
    """
    with server.http.stream(method, path, **request) as answer:
        if not answer.is_success:
            answer.read()
            raise Refused(refusal(answer, param))
        yield answer


def ended(server: Server, path: str) -> Json:
    """What is looked at until it ended."""
    until = time.monotonic() + _END_SECONDS
    while True:
        found = json_of(server.http.get(path)) or {}
        if found.get("status") in _ENDED or time.monotonic() > until:
            return found
        time.sleep(0.1)


def job_behind(server: Server, made: Json) -> Json:
    """The job that a completion or a response is a view of.

    Raises:
        Refused: there is none.
    """
    name = re.split("[-_]", made["id"], maxsplit=1)[1]
    return accepted(server.http.get(f"/v1/jobs/job_{name}"))


def tiered(server: Server, create: Callable[[Json], httpx.Response]) -> str:
    """Whether each of OpenAI's service tiers is the class of jobs that it stands for, and the answer says it.

    Args:
        server: under question.
        create: makes a completion or a response, with fields over the usual ones.
    """
    for tier, priority in (("flex", "batch"), ("default", "standard"), ("priority", "interactive")):
        made = accepted(create({"service_tier": tier}), "service_tier")
        if made.get("service_tier") != tier or job_behind(server, made)["priority"] != priority:
            return IGNORED
    return YES


TIERED: Final = (
    "`flex`, `default`, `priority` are the classes `batch`, `standard`, `interactive`; the answer says it"
)
"""What :func:`tiered` shows."""


def words(answer: httpx.Response, param: str, shown: Shown) -> str:
    """An answer in a few words.

    Args:
        answer: any.
        param: the field that a refusal ought to name.
        shown: whether the answer shows what was asked for; given only an answer that is no error.
    """
    if answer.is_success:
        body = json_of(answer)
        return YES if body is not None and _holds(shown, body) else IGNORED
    return refusal(answer, param)


def refusal(answer: httpx.Response, param: str = "") -> str:
    """A refusal: its status, and whether it names what it refuses."""
    error = (json_of(answer) or {}).get("error")
    if answer.status_code not in {400, 422} or not param:
        return str(answer.status_code)
    said = error if isinstance(error, dict) else {"message": str(error)}
    spoken = re.search(rf"\b{re.escape(param)}\b", str(said.get("message")))
    named = spoken is not None or str(said.get("param") or "").split(".")[0] == param
    return f"{answer.status_code}, names the field" if named else str(answer.status_code)


def refused(status: int, code: str | None = None) -> Callable[[httpx.Response], str]:
    """Reads an answer that ought to be a refusal: yes where it is, else what it is."""

    def read(answer: httpx.Response) -> str:
        error = (json_of(answer) or {}).get("error")
        named = code is None or (isinstance(error, dict) and error.get("code") == code)
        if answer.status_code == status and isinstance(error, dict) and named:
            return YES
        return f"other: {answer.status_code}" + (
            "" if isinstance(error, dict) else ", without an error object"
        )

    return read


def json_of(answer: httpx.Response) -> Json | None:
    """An answer's JSON object, if that is what it is."""
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def events(answer: httpx.Response) -> Iterator[tuple[str, str]]:
    """A stream's events as they come: name and data."""
    name, data = "message", ""
    for line in answer.iter_lines():
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data = line.removeprefix("data:").strip()
        elif not line and data:
            yield name, data
            name, data = "message", ""


def chunks(answer: httpx.Response) -> list[Json]:
    """The objects of a stream that ends with ``[DONE]``; none of one that does not."""
    said = [data for _, data in events(answer)]
    return [json.loads(data) for data in said[:-1]] if said[-1:] == ["[DONE]"] else []


def _holds(shown: Shown, body: Json) -> bool:
    try:
        return shown(body)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
