"""A neighbour that takes memory away: on a CUDA device a process that fills it, else a limited address space.

The filler is this module run by itself, ``python -m benchmarks.neighbour``: it holds MLX arrays, and nothing
else of a device's memory is touched. MLX's CPU build has no device to fill; there a worker and its engine are
given less address space, and a failed allocation is a segmentation fault.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final, Protocol

import psutil

from benchmarks.address_space import limited
from benchmarks.lone_worker import ROOT, python_path

_BLOCK_BYTES: Final = 1 << 30
_LEAST_BLOCK_BYTES: Final = 16 << 20
_TRIES: Final = 2000
_SETTLE_SECONDS: Final = 0.05
"""How long a device may take to show in its count what was just taken or given back."""


class Neighbour(Protocol):
    """What leaves a worker less memory than there is."""

    device: str
    """What MLX computes on."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """The command that starts a worker beside it."""

    def settled_bytes(self, engine_pid: int) -> int:
        """What an idle engine takes, its model loaded, in what this neighbour counts."""

    def leave(self, left_bytes: int, pids: Sequence[int] = (), least_bytes: int = 0) -> None:
        """Leave so much to take.

        Args:
            left_bytes: the bytes.
            pids: an engine and its worker, which go on with what they have and so much more; without them
                it is for everything that starts from now on.
            least_bytes: that these, or those that come in their place, keep in any case.
        """

    def release(self) -> None:
        """Give everything back."""


class AddressSpace:
    """Linux's limit on a process's address space."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._limit_bytes: int | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """Sets the limit, and becomes what follows."""
        if self._limit_bytes is None:
            return ()
        return limited(self._limit_bytes, resource.getrlimit(resource.RLIMIT_AS)[1])

    def settled_bytes(self, engine_pid: int) -> int:
        """Its address space."""
        return int(psutil.Process(engine_pid).memory_info().vms)

    def leave(self, left_bytes: int, pids: Sequence[int] = (), least_bytes: int = 0) -> None:
        """Limit those that start, or those that run; a worker's next engine is limited as it is itself."""
        if not pids:
            self._limit_bytes = left_bytes
            return
        limit = max(least_bytes, self.settled_bytes(pids[0]) + left_bytes)
        for pid in pids:
            hard = resource.prlimit(pid, resource.RLIMIT_AS)[1]
            resource.prlimit(pid, resource.RLIMIT_AS, (limit, hard))

    def release(self) -> None:
        """Limit those that start no more."""
        self._limit_bytes = None


class Filler:
    """A process that holds a device's memory.

    Args:
        told: its standard input.
        says: its standard output.

    Raises:
        RuntimeError: it died, or there is no device whose memory can be read.
    """

    prefix: tuple[str, ...] = ()

    def __init__(self, told: IO[str], says: IO[str]) -> None:
        self._told, self._says = told, says
        first = self._hear()
        self.device: str = first["device"]
        self.has_device: bool = first["free_bytes"] is not None
        self._free_at_first: int = first["free_bytes"] or 0

    def settled_bytes(self, engine_pid: int) -> int:
        """What the device has less than at the beginning: weights, and what CUDA itself takes for a process."""
        return self._free_at_first - self._ask(None)

    def leave(self, left_bytes: int, pids: Sequence[int] = (), least_bytes: int = 0) -> None:
        """Take until the device has no more than that; what it lacks is given back where nobody runs yet."""
        self._ask(left_bytes, self._free_at_first - least_bytes, gives=not pids)

    def release(self) -> None:
        """Hold nothing."""
        self._ask(self._free_at_first, 0, gives=True)

    def _ask(self, left_bytes: int | None, most_bytes: int = 0, *, gives: bool = False) -> int:
        print(json.dumps([left_bytes, most_bytes, gives]), file=self._told, flush=True)
        free: int = self._hear()["free_bytes"]
        return free

    def _hear(self) -> dict[str, Any]:
        line = self._says.readline()
        if not line:
            raise RuntimeError("the process that fills the device ended; its last words are above")
        heard: dict[str, Any] = json.loads(line)
        return heard


@contextlib.contextmanager
def neighbour() -> Iterator[Neighbour]:
    """The one for this machine; it is gone when the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.neighbour"],
        cwd=ROOT,
        env=os.environ | python_path(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        filler = Filler(child.stdin, child.stdout)
        yield filler if filler.has_device else AddressSpace(filler.device)
    finally:
        child.stdin.close()
        child.wait()


def fill(mx: Any, held: list[Any], left_bytes: int, most_bytes: int, *, gives: bool) -> None:
    """Take arrays until the device has no more bytes free than so many, as nearly as its pages allow.

    Args:
        mx: MLX; nothing that it frees may stay in its cache.
        held: the arrays so far.
        left_bytes: to leave.
        most_bytes: to hold.
        gives: whether some are given back where less is free.
    """
    for _ in range(_TRIES):
        gap = free_bytes(mx) - left_bytes
        if gap < 0 and held and gives:
            held.pop()
            mx.synchronize()
        elif gap >= _LEAST_BLOCK_BYTES:
            size = min(_BLOCK_BYTES, gap, most_bytes - sum(block.nbytes for block in held))
            if size < _LEAST_BLOCK_BYTES:
                return
            block = mx.zeros((size // _LEAST_BLOCK_BYTES * _LEAST_BLOCK_BYTES,), mx.uint8)
            try:
                mx.eval(block)
                mx.synchronize()
            except RuntimeError:  # somebody else was first
                return
            held.append(block)
        else:
            return


def free_bytes(mx: Any) -> int:
    """What the device has, everybody's use counted; MLX asks the driver anew each time."""
    return int(mx.device_info()["free_memory"])


def main() -> None:
    """Do as asked, line by line, until the pipe ends: bytes to leave or null, bytes to hold, whether to give."""
    import mlx.core as mx  # noqa: PLC0415 - whoever starts the filler must not open the device itself

    from workers.gauge import device_name  # noqa: PLC0415 - likewise

    device = device_name()
    on_device = device.startswith("cuda")
    mx.set_cache_limit(0)
    held: list[Any] = []
    if on_device:
        mx.eval(mx.zeros(1))  # what CUDA itself takes for this process is taken from now on
    print(json.dumps({"device": device, "free_bytes": free_bytes(mx) if on_device else None}), flush=True)
    for line in sys.stdin:
        left, most, gives = json.loads(line)
        if left is not None:
            fill(mx, held, left, most, gives=gives)
            time.sleep(_SETTLE_SECONDS)
        print(json.dumps({"free_bytes": free_bytes(mx)}), flush=True)


if __name__ == "__main__":
    main()
