"""The limit on a process's open descriptors, raised to what its connections need."""

from __future__ import annotations

import resource
from typing import Final

SPARE: Final = 128
"""Beside clients' connections: those to the queue's server (64 and one), listeners, logs, the event loop."""


def allow_connections(wanted: int) -> int:
    """Raise this process's soft limit, as far as the hard one allows, so that so many connections may be open.

    Shells start processes with a soft limit of 256 (macOS) or 1,024 (Linux); a limit that is high enough, or cannot
    be raised, is left as it is.

    Returns:
        How many connections may be open: those wanted, or what the limit leaves. Beyond it they had better wait
        in the listener's queue than be accepted and fail.
    """
    need = wanted + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not _holds(soft, need):
        most = need if _holds(hard, need) else hard
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError):  # the system has a limit below the hard one
            pass
    return wanted if _holds(soft, need) else max(1, soft - SPARE)


def _holds(limit: int, need: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= need
