"""What ``python -m workers.about`` says of this host's device, memory and models, read with care."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, slots=True)
class Unknown:
    """What could not be seen, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A served model's files; ``weights_bytes`` is None where it is not on this host, ``kind`` where it is not known.

    ``problem`` says what is wrong with where they should be, ``lacking`` names weight files that are not there.
    """

    name: str
    source: str
    is_folder: bool
    kind: str | None = None
    weights_bytes: int | None = None
    lacking: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """A device and its memory, in bytes: what may be used for good and now, each by the limit that binds.

    ``total_bytes`` is the host's RAM, ``swap_bytes`` what is swapped out. ``offline`` says that nothing is fetched
    from Hugging Face; ``hub_folder`` is where what is fetched is kept, ``hub_free_bytes`` what is free there.
    """

    platform: str
    device: str
    nvidia: bool
    limits_bytes: dict[str, int]
    steady_bytes: int
    steady_source: str
    now_bytes: int
    now_source: str
    pressure: str
    total_bytes: int
    swap_bytes: int
    wired_limit_mb: int | None
    blas: str
    offline: bool
    hub_folder: str
    hub_free_bytes: int
    models: tuple[ModelFacts, ...]


_FACTS: Final = TypeAdapter(EngineFacts)


def read_engine(said: bytes) -> EngineFacts | Unknown:
    """Read what it wrote."""
    try:
        return _FACTS.validate_json(said)
    except ValidationError as error:
        return Unknown(f"it said what nobody understands: {error.errors()[0]['msg']}")
