"""A worker's recent past: how its memory stood, point by point, and what happened meanwhile. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field, FiniteFloat, TypeAdapter

from scheduler.job import JOB_ID
from scheduler.owner import OWNER
from scheduler.stored_json import read_json

HISTORY_SECONDS: Final = 900
"""How far back it goes."""

MARKS_MOST: Final = 24
"""Marks beside one point; where more happened, the plainest are left out."""

WORDS_MOST: Final = 300

Kind = Literal["admitted", "shed", "preempted", "out_of_memory", "engine_died", "ended"]

_PLAINEST: Final[tuple[Kind, ...]] = ("ended", "admitted")
"""What happens to every job."""

Amount = Annotated[int, Field(ge=0, le=1 << 53)]
"""Bytes or jobs, as many as a float counts exactly."""

Moment = Annotated[FiniteFloat, Field(ge=0)]
"""Unix seconds."""


@dataclass(frozen=True, slots=True)
class Point:
    """A worker's memory at one moment: bytes, but for the last two.

    Weights, reserved, cache and headroom are the budget; ``used`` is what was measured.
    """

    at: Moment
    budget_bytes: Amount
    working_bytes: Amount
    weights_bytes: Amount
    reserved_bytes: Amount
    used_bytes: Amount
    cache_bytes: Amount
    headroom_bytes: Annotated[int, Field(ge=-(1 << 53), le=1 << 53)]
    running: Amount
    tokens_per_second: Annotated[FiniteFloat, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened.

    ``bytes`` are what was reserved or given back, or the need that could not be met; ``words`` say it to a person,
    and name neither job nor model: those who may not know of these read them too. ``owner`` is the job's.
    """

    at: Moment
    kind: Kind
    words: Annotated[str, Field(max_length=WORDS_MOST)]
    job_id: Annotated[str, Field(pattern=f"^{JOB_ID.pattern}$")] | None = None
    owner: Annotated[str, Field(pattern=f"^(?:{OWNER.pattern})$")] = ""
    bytes: Amount | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a worker writes at one time: how it stands, and what happened since it wrote last."""

    point: Point
    marks: tuple[Mark, ...] = ()

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: bytes | str) -> Entry:
        """Read what :meth:`dump` wrote; fields of later releases are dropped.

        Raises:
            ValueError: it is something else.
        """
        return _ENTRY.validate_python(read_json(text))


_ENTRY: Final = TypeAdapter(Entry)  # whoever writes to the server may have written it


def chosen(marks: Sequence[Mark], most: int = MARKS_MOST) -> tuple[Mark, ...]:
    """Of many marks those that are kept, in their order: the plainest go first, of these the oldest."""
    spare = len(marks) - most
    left_out: set[int] = set()
    for kind in _PLAINEST:
        plain = [at for at, mark in enumerate(marks) if mark.kind == kind]
        left_out |= {*plain[: max(0, spare - len(left_out))]}
    kept = [mark for at, mark in enumerate(marks) if at not in left_out]
    return tuple(kept[-most:])


def history(name: str, entries: Iterable[Entry], sees: str | None) -> dict[str, Any]:
    """A worker's entries, oldest first, as clients see them.

    Args:
        name: the worker's.
        entries: what it wrote.
        sees: the owner whose jobs alone the client may know of; None: everybody's.
    """
    points: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for entry in entries:
        points.append(asdict(entry.point))
        marks += [_shown(mark, sees) for mark in entry.marks]
    return {"name": name, "points": points, "marks": marks}


def _shown(mark: Mark, sees: str | None) -> dict[str, Any]:
    known = sees in {None, mark.owner}
    return {
        "at": mark.at,
        "kind": mark.kind,
        "job_id": mark.job_id if known else None,
        "bytes": mark.bytes,
        "words": mark.words,
    }
