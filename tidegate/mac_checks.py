"""What `tidegate doctor` checks of a Mac beside what it checks of every host. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scheduler.errors import gib, so_many
from tidegate.engine_facts import Unknown
from tidegate.facts import Facts
from tidegate.finding import Finding, bad, good, note
from tidegate.known_trouble import known_of
from tidegate.mac_facts import PANIC_DAYS

LEFT_BYTES: Final = 2 << 30
"""Of RAM, what a raised wired limit must leave: workers.gauge keeps as much for the system."""

_WIRED: Final = (
    "memory that is wired cannot be compressed or swapped: a Mac that lacks it otherwise stops answering, and its"
    " watchdog panics it (github.com/jundot/omlx/issues/3065); MLX asks that less than all be wired"
)


def versions(facts: Facts) -> Iterator[Finding]:
    """The version of macOS, and what is known of it and of MLX's."""
    if facts.mac is None:
        return
    mlx = next((each.installed or "" for each in facts.libraries if each.name == "mlx"), "")
    found = list(known_of(facts.mac.version, mlx))
    for each in found:
        make = bad if each.stops or each.cure else note
        yield make("macOS", f"{each.what}: {each.here}", each.cure, ", ".join(each.sources))
    if not found:
        yield good(
            "macOS", f"{facts.mac.version or 'of no known version'}: no panic or abort is known of it here"
        )


def pressure(facts: Facts) -> Iterator[Finding]:
    """What the kernel says of its memory, and how much of it is swapped out."""
    engine = facts.engine
    if isinstance(engine, Unknown) or engine.platform != "darwin":
        return
    swapped = f"{gib(engine.swap_bytes)} swapped out"
    if engine.pressure == "normal":
        yield good("pressure", f"the kernel calls its memory normal; {swapped}")
    else:
        said = f"the kernel's word on its memory is {engine.pressure}; {swapped}"
        why = "at `warn` no job joins others, at `critical` jobs are put back"
        yield bad("pressure", said, "close other programs, or set TIDEGATE_MEMORY_BUDGET lower", why)


def wired(facts: Facts) -> Iterator[Finding]:
    """How much memory the GPU may wire: the system's own limit, or one that an operator raised."""
    engine = facts.engine
    if isinstance(engine, Unknown) or engine.wired_limit_mb is None:
        return
    limit = engine.wired_limit_mb << 20
    said = f"iogpu.wired_limit_mb is {engine.wired_limit_mb:,}, of {gib(engine.total_bytes)} RAM"
    back = "sudo sysctl iogpu.wired_limit_mb=0"
    if not limit:
        yield good("wired limit", "the system's own (iogpu.wired_limit_mb is 0)")
    elif limit > engine.total_bytes - LEFT_BYTES:
        yield bad(
            "wired limit", f"{said}: less than {gib(LEFT_BYTES)} is left to the system", f"`{back}`", _WIRED
        )
    else:
        yield note(
            "wired limit", f"{said}: raised, until the next boot", f"`{back}` lets the system decide", _WIRED
        )


def panics(facts: Facts) -> Iterator[Finding]:
    """Whether the kernel panicked of late."""
    if facts.mac is None:
        return
    seen = facts.mac.panics
    if seen is None:
        yield note("panics", "not known: this user may not read /Library/Logs/DiagnosticReports")
    elif not seen.count:
        yield good("panics", f"none within {PANIC_DAYS} days")
    else:
        said = f"{so_many(seen.count, 'kernel panic')} within {PANIC_DAYS} days"
        said += f", {seen.gpu_memory:,} in the GPU's memory" if seen.gpu_memory else ""
        cure = "lower TIDEGATE_MEMORY_BUDGET, and let no other program wire memory: docs/macos.md"
        yield bad(
            "panics", said, cure, "a panic costs this host's running jobs their place, never their text"
        )


def sleep(facts: Facts) -> Iterator[Finding]:
    """Whether this Mac stays awake."""
    if facts.mac is None:
        return
    minutes = facts.mac.sleep_minutes
    if minutes is None:
        yield note("sleep", "not known: pmset does not say")
    elif minutes:
        said = f"this Mac sleeps after {so_many(minutes, 'idle minute')}"
        why = (
            "a worker that sleeps past its lease loses its jobs to others, and shares nothing until it wakes"
        )
        yield note("sleep", said, "`sudo pmset -c sleep 0` on a host of workers", why)
    else:
        yield good("sleep", "this Mac does not sleep by itself")
