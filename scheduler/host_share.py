"""How workers on one host part its memory: who holds what, and what that leaves for another.

A host has one or more pools of memory: its RAM, a cgroup's limit, a GPU's own memory. A share is a worker's
budget, taken from every pool that binds the worker. In each pool the shares add up to no more than the whole,
unless an operator gave a lone worker more.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from scheduler.errors import TidegateError, gib
from scheduler.later import together, told_apart

_Bytes = Annotated[int, Field(ge=0, lt=1 << 62)]
_Seconds = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker holds of its host's memory.

    Args:
        worker: its name.
        pid: its process, in its own PID namespace.
        pid_space: that namespace; empty where it is not known.
        share_bytes: its budget.
        pools: names of the pools that it is taken from.
        lease_seconds: how long it counts without being renewed.
    """

    worker: str
    pid: int
    pid_space: str
    share_bytes: _Bytes
    pools: tuple[str, ...]
    lease_seconds: _Seconds
    later: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What a later release wrote beside; written back as it was."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a worker asks for.

    Args:
        worker: its name.
        pools: every pool that binds it, with its whole, in bytes; at least one.
        setting_bytes: what its operator set, which it gets or nothing; None: whatever is left.
        least_bytes: less than this is of no use to it, where nothing was set.
    """

    worker: str
    pools: Mapping[str, int]
    setting_bytes: int | None = None
    least_bytes: int = 0

    @property
    def whole_bytes(self) -> int:
        """What a worker that has the host for itself may use."""
        return min(self.pools.values())


class HostFull(TidegateError):
    """Other workers leave no room on this host.

    Args:
        message: names each of them, and what is left.
        holders: what they hold.
    """

    def __init__(self, message: str, holders: Collection[Share]) -> None:
        super().__init__(message)
        self.holders = tuple(holders)


def decide(wish: Wish, held: Collection[Share]) -> int:
    """The bytes that a worker gets beside what others hold.

    One that shares none of its pools gets what its operator set, even more than there is, or else the whole.

    Raises:
        HostFull: what is left is less than was set, or of no use; the message names every holder.
    """
    rivals = [share for share in held if not wish.pools.keys().isdisjoint(share.pools)]
    if not rivals:
        return wish.whole_bytes if wish.setting_bytes is None else wish.setting_bytes
    left, whole = min((left_bytes(pool, whole, rivals), whole) for pool, whole in wish.pools.items())
    if wish.setting_bytes is not None:
        if wish.setting_bytes <= left:
            return wish.setting_bytes
        need = f"TIDEGATE_MEMORY_BUDGET asks for {gib(wish.setting_bytes)}"
    else:
        if left >= max(1, wish.least_bytes):
            return left
        need = f"the smallest model served needs {gib(wish.least_bytes)}"
    holders = ", ".join(
        f"worker {_printable(share.worker)} (pid {share.pid}) holds {_exactly(share.share_bytes)}"
        for share in sorted(rivals, key=lambda share: -share.share_bytes)
    )
    raise HostFull(
        f"no room for worker {_printable(wish.worker)} in this host's memory: {holders}; "
        f"{_exactly(left)} of {gib(whole)} are left, and {need}. Stop a worker, or give each its part by "
        "TIDEGATE_MEMORY_BUDGET",
        rivals,
    )


def left_bytes(pool: str, whole_bytes: int, held: Collection[Share]) -> int:
    """What shares leave of a pool; 0 where one was given more than the whole."""
    return max(0, whole_bytes - sum(share.share_bytes for share in held if pool in share.pools))


def dump(shares: Mapping[str, Share]) -> str:
    """Shares by their tokens, as JSON."""
    return json.dumps({token: together(share, _NAMES) for token, share in shares.items()}, sort_keys=True)


def parse(text: bytes | str) -> dict[str, Share]:
    """Read what :func:`dump` wrote; what is no share is left out, fields of later releases are carried."""
    try:
        entries = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    found: dict[str, Share] = {}
    for token, entry in entries.items() if isinstance(entries, dict) else ():
        share = _read(entry)
        if share is not None:
            found[token] = share
    return found


_OBJECT: Final = TypeAdapter(dict[str, Any])
_SHARE: Final = TypeAdapter(Share)
_NAMES: Final = tuple(Share.__slots__)


def _read(entry: Any) -> Share | None:
    try:
        return _SHARE.validate_python(told_apart(_OBJECT.validate_python(entry), _NAMES))
    except ValidationError:
        return None


def _exactly(count_bytes: int) -> str:
    return f"{gib(count_bytes)} ({count_bytes:,} bytes)" if count_bytes >= 1 << 10 else f"{count_bytes} bytes"


def _printable(name: str) -> str:
    """A name that whoever writes to the server chose, fit for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:200])
