"""Jobs as people read them: one line each, in columns that appear where some job has something to say there. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from tidegate.columns import Column
from tidegate.text import fields_of, figure, on_one_line, printable

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400

_AFTER: Final = {"loading": "once loaded", "measuring": "once measured"}

Job = dict[str, Any]


def listed(
    jobs: Sequence[Job], preparing: Mapping[str, str] = MappingProxyType({}), *, whatever: bool = False
) -> list[Column]:
    """For `tidegate jobs`: everything that a list says of jobs.

    Args:
        jobs: a line each.
        preparing: what is done to the models that no worker has ready, ``loading`` or ``measuring``, by name.
        whatever: with every column, also where none of them has anything to say there.
    """
    columns = [
        _column("job", jobs, lambda job: _text(job, "id")),
        _column("status", jobs, lambda job: _text(job, "status")),
        _column("model", jobs, lambda job: _text(job, "model"), least=12),
        _column("priority", jobs, lambda job: _text(job, "priority"), rank=1),
        _column("created", jobs, _created, rank=2),
        _column("tokens", jobs, _tokens, rank=5),
    ]
    more = [
        _column("attempt", jobs, _later_attempt, rank=4),
        _column("position", jobs, position, rank=3),
        _column("eta", jobs, lambda job: eta(job, preparing), rank=3),
        _column("error", jobs, _error, rank=1),
    ]
    return columns + (more if whatever else _where_needed(*more))


def live(
    jobs: Sequence[Job], now_seconds: float, preparing: Mapping[str, str] = MappingProxyType({})
) -> list[Column]:
    """For `tidegate top`: jobs that run or wait.

    Args:
        jobs: in the order to show them in.
        now_seconds: Unix.
        preparing: as above.
    """
    columns = [
        _column("job", jobs, lambda job: _text(job, "id")),
        _column("state", jobs, lambda job: _text(job, "status").replace("_", " ")),
        _column("class", jobs, lambda job: _text(job, "priority"), rank=1),
        _column("model", jobs, lambda job: _text(job, "model"), rank=2, least=8),
    ]
    return columns + _where_needed(
        _column("for", jobs, lambda job: _age(job, now_seconds), rank=4),
        _column("place", jobs, position, rank=3),
        _column("eta", jobs, lambda job: eta(job, preparing), rank=3),
        _column("attempt", jobs, _later_attempt, rank=5),
        _column("tokens", jobs, _tokens, rank=6),
    )


def position(job: Job) -> str:
    """Where a job waits, from 1."""
    said = fields_of(job, "queue").get("position")
    return "-" if said is None else f"{figure(said):,.0f}"


def eta(job: Job, preparing: Mapping[str, str] = MappingProxyType({})) -> str:
    """In how long it should start, or after what: nobody knows how long a model is loaded or measured."""
    queue = fields_of(job, "queue")
    if queue and (doing := preparing.get(_text(job, "model"))):
        return _AFTER.get(doing, doing)
    said = queue.get("eta_seconds")
    return "-" if said is None else lasting(figure(said))


def lasting(seconds: float) -> str:
    """A span of time, as short as it is useful: ``7 s``, ``2 min``, ``3.5 h``, ``2.0 d``."""
    if not math.isfinite(seconds):
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 2 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.1f} d"


def _where_needed(*columns: Column) -> list[Column]:
    return [column for column in columns if column.needed]


def _column(
    title: str, jobs: Iterable[Job], cell: Callable[[Job], str], *, rank: int = 0, least: int = 0
) -> Column:
    return Column(title, [cell(job) for job in jobs], rank, least)


def _text(job: Job, name: str) -> str:
    return printable(str(job.get(name) or "-")).replace("\n", " ")


def _created(job: Job) -> str:
    try:
        moment = datetime.fromtimestamp(figure(job.get("created_at")), UTC).astimezone()
    except (OverflowError, ValueError, OSError):  # in no year that there is
        return "-"
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _tokens(job: Job) -> str:
    said = fields_of(fields_of(job, "result"), "usage").get("completion_tokens")
    if said is None:  # it runs yet, or ended without a result
        said = fields_of(job, "progress").get("completion_tokens")
    return "-" if said is None else f"{figure(said):,.0f}"


def _later_attempt(job: Job) -> str:
    attempt = figure(job.get("attempt"))
    return f"{attempt:.0f}" if attempt > 1 else "-"


def _error(job: Job) -> str:
    return on_one_line(fields_of(job, "error").get("code") or None)


def _age(job: Job, now_seconds: float) -> str:
    since = job.get("started_at") or job.get("created_at")
    return "-" if since is None else lasting(now_seconds - figure(since))
