"""The shares of one host's memory, as its workers hold them on the queue's server.

A share counts while its own lease runs, which its worker renews; the server alone counts the time. The share
and its lease are written in one swap, whose guards are that nobody's share changed since it was read and that
every share taken for lapsed still is. So of two workers that ask at once one is first, and a worker that was
silent for too long finds its share as it left it, or gone: never half.

Where the server forgot everything, or holds what is no share, every worker enters its own again when it
renews it, as far as there is room.

Keys::

    tidegate:host:{host}    string (JSON) that lapses: the shares on a host, by token
    tidegate:share:{token}  string that lapses: a share's lease; the token is one worker process's
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from scheduler.errors import StoreUnavailable
from scheduler.host_share import HostFull, Share, Wish, decide, dump, parse
from scheduler.swap import Guard, Swap, Swapper, Word

_TRIES: Final = 100
"""Each but the last means that another worker on the host was first."""


def host_key(host: str) -> str:
    """A host's shares."""
    return f"tidegate:host:{host}"


def share_key(token: str) -> str:
    """A share's lease."""
    return f"tidegate:share:{token}"


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who takes a share: one worker process.

    Args:
        token: its own, never used again.
        worker: its name.
        pid: its process.
        pid_space: the namespace of that number.
        lease_seconds: how long its share counts without being renewed.
    """

    token: str
    worker: str
    pid: int
    pid_space: str
    lease_seconds: float


class HostLeases:
    """One worker's way to the shares of its host.

    Args:
        connection: a client that answers bytes.
        host: its name, the same for every process there and no other host's.
        tenant: the worker.
        is_gone: whether a share's process is seen to be no more, so that nobody need wait for its lease.
    """

    def __init__(
        self,
        connection: Redis,
        host: str,
        tenant: Tenant,
        is_gone: Callable[[Share], bool] = lambda _: False,
    ) -> None:
        self._connection, self._swap = connection, Swapper(connection)
        self._key, self._tenant, self._is_gone = host_key(host), tenant, is_gone

    def take(self, wish: Wish) -> int:
        """Take a share, in place of the one held; the bytes granted.

        Raises:
            HostFull: there is no room for it.
            StoreUnavailable: the server is away, or others were first each time.
        """
        for _ in range(_TRIES):
            text, shares = self._read()
            others, lapsed = self._living(shares)
            granted = decide(wish, others.values())
            mine = Share(
                worker=self._tenant.worker,
                pid=self._tenant.pid,
                pid_space=self._tenant.pid_space,
                share_bytes=granted,
                pools=tuple(wish.pools),
                lease_seconds=self._tenant.lease_seconds,
            )
            still = [Guard(("EXISTS", share_key(token)), 0) for token in lapsed]
            if self._write(text, {**others, self._tenant.token: mine}, *still):
                return granted
        raise StoreUnavailable(f"{self._key} was changed by others {_TRIES} times")

    def renew(self, wish: Wish, held_bytes: int) -> bool:
        """Keep a share; where the server does not know it any more, enter it again.

        Args:
            wish: as it was taken.
            held_bytes: what was granted.

        Returns:
            False where others took so much meanwhile that it has no room.

        Raises:
            StoreUnavailable: as for :meth:`take`.
        """
        for _ in range(_TRIES):
            text, shares = self._read()
            mine = shares.get(self._tenant.token)
            if mine is None or mine.share_bytes != held_bytes:
                break
            if self._write(text, shares):
                return True
        try:
            self.take(Wish(wish.worker, wish.pools, held_bytes))
        except HostFull:
            return False
        return True

    def leave(self) -> None:
        """Give the share back.

        Raises:
            StoreUnavailable: as for :meth:`take`.
        """
        for _ in range(_TRIES):
            text, shares = self._read()
            if shares.pop(self._tenant.token, None) is None or self._write(text, shares, leaves=True):
                return

    def _read(self) -> tuple[bytes, dict[str, Share]]:
        """The text of the host's shares, empty where there is none, and what it says."""
        try:
            text: Any = self._connection.get(self._key)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            kind: Any = self._connection.type(self._key)
            self._swap(Swap((Guard(("TYPE", self._key), kind),), (("DEL", self._key),)))
            return b"", {}
        return text or b"", parse(text or b"")

    def _living(self, shares: Mapping[str, Share]) -> tuple[dict[str, Share], list[str]]:
        """Others' shares that count, and the tokens of those whose leases lapsed."""
        others = {
            token: share
            for token, share in shares.items()
            if token != self._tenant.token and not self._is_gone(share)
        }
        pipeline = self._connection.pipeline(transaction=False)
        for token in others:
            pipeline.exists(share_key(token))
        lapsed = [token for token, runs in zip(others, pipeline.execute(), strict=True) if not runs]
        return {token: share for token, share in others.items() if token not in lapsed}, lapsed

    def _write(
        self, as_read: bytes, shares: Mapping[str, Share], *guards: Guard, leaves: bool = False
    ) -> bool:
        """Write a host's shares, and this worker's lease; False where others changed them first."""
        lease = share_key(self._tenant.token)
        own: tuple[Word, ...] = ("SET", lease, 1, "PX", _milliseconds(self._tenant.lease_seconds))
        if leaves:
            own = ("DEL", lease)
        every: tuple[Word, ...] = ("DEL", self._key)
        if shares:
            longest = max(share.lease_seconds for share in shares.values())
            every = ("SET", self._key, dump(shares), "PX", _milliseconds(2 * longest))
        unchanged = Guard(("GET", self._key), as_read)
        return self._swap(Swap((unchanged, *guards), (every, own))) == [1]


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
