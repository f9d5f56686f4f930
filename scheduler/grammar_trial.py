"""Refusing answers' forms that cannot be imposed, or not in a moment, before a job with one is queued.

llguidance bounds most of what a schema can cost it, but not what it takes to intersect patterns or to count remainders:
sixty bytes of schema, with two large primes as ``multipleOf``, hold a thread for minutes, and nothing can interrupt it
there. So what may take long is compiled once in a process of its own, which is ended after a second of the processor.
A worker's engine compiles what has passed, in about the same time.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from scheduler import compiling
from scheduler.errors import ClientError
from scheduler.grammar import grammar_of, unfit
from scheduler.request import JobRequest

_DEAR: Final = tuple(
    f'"{word}"' for word in ("pattern", "patternProperties", "multipleOf", "format", "allOf")
)
"""Keywords of regular expressions, and the one that intersects what is beside it; without them time goes with size."""

_SMALL_BYTES: Final = 8 << 10
"""Without those, a larger grammar takes some tens of milliseconds: as long as to start a process."""

_KEPT: Final = 64
_AT_ONCE: Final = 2
_PATIENCE_SECONDS: Final = 20.0

_known: dict[str, str] = {}
_turns = threading.Semaphore(_AT_ONCE)


def refuse_ungrammatical(request: JobRequest) -> None:
    """Refuse a request whose answer cannot be held to the form that it asks for.

    Raises:
        ClientError: ``invalid_request``; ``queue_full``, where too many others are looked at.
    """
    grammar = grammar_of(request)
    if grammar is not None and (fault := _fault_of(grammar)):
        raise unfit(request, fault)


def _fault_of(grammar: str) -> str:
    """What is wrong with a grammar, tried once; '' where nothing is."""
    if (known := _known.get(grammar)) is not None:
        return known
    if len(grammar) <= _SMALL_BYTES and not any(word in grammar for word in _DEAR):
        return compiling.fault_of(grammar)
    if not _turns.acquire(timeout=_PATIENCE_SECONDS):
        raise _busy()
    try:
        if (known := _known.get(grammar)) is None:
            known = _tried_apart(grammar)
            for oldest in [*_known][: len(_known) + 1 - _KEPT]:
                _known.pop(oldest, None)
            _known[grammar] = known
        return known
    finally:
        _turns.release()


def _tried_apart(grammar: str) -> str:
    """What is wrong with a grammar, from a process of its own."""
    program = [sys.executable, "-P", str(Path(compiling.__file__))]
    try:
        done = subprocess.run(
            program,
            input=grammar.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _busy() from None
    if done.returncode:
        return f"it is too complex: compiling it takes more than {compiling.CPU_SECONDS} s of a processor"
    return done.stdout.decode()


def _busy() -> ClientError:
    return ClientError("queue_full", "too many schemas are being compiled; try again", retry_after=5)
