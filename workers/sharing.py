"""A worker's share of its host's memory: asked for when an engine has read the host, renewed, given back."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from redis import Redis

from scheduler.errors import gib
from scheduler.host_leases import HostLeases, Tenant
from scheduler.host_share import HostFull, Wish
from scheduler.settings import Settings
from workers import host
from workers.reporting import store_may_be_away
from workers.residency import weights_on_disk
from workers.wire import Message

log = structlog.get_logger(__name__)

LEAST_BYTES: Final = 256 << 20
"""What a worker that was set no budget needs at least, beside its smallest model's weights."""

_RENEWALS_PER_LEASE: Final = 3


class Sharing:
    """One worker's share.

    Args:
        connection: a client that answers bytes.
        settings: the budget, where one is set; the lease; the models.
        name: the worker's.
        tell: tells the engine.
        lost: called when others took the share of a worker that was silent for too long.
        patience_seconds: how long to wait for room before giving up, where holders are known to live.
    """

    def __init__(
        self,
        connection: Redis,
        settings: Settings,
        name: str,
        tell: Callable[[Message], None],
        lost: Callable[[], None],
        *,
        patience_seconds: float = 0.0,
    ) -> None:
        self._settings, self._name, self._tell, self._lost = settings, name, tell, lost
        self._patience_seconds, self._space = patience_seconds, host.pid_space()
        lease = settings.lease_seconds
        tenant = Tenant(uuid.uuid4().hex, name, os.getpid(), self._space, lease)
        self._leases = HostLeases(connection, host.host_name(), tenant, host.is_gone)
        self.refusal: str | None = None
        """Why there is no room for this worker, for its operator; it cannot go on."""
        self._pools: Mapping[str, int] = {}
        self._held_bytes: int | None = None
        self._asked = False
        self._give_up_at: float | None = None
        self._renewed_at = 0.0

    @property
    def waits(self) -> bool:
        """Whether an engine waits to be told its share."""
        return self._asked and self.refusal is None

    def ask(self, pools: Mapping[str, int]) -> None:
        """An engine waits for its share.

        Args:
            pools: every pool of memory that binds it, with its whole, in bytes.
        """
        self._pools, self._asked = pools, True
        self.keep()

    def keep(self) -> None:
        """Ask again where that is still to be answered; renew in time what is held."""
        if self.refusal is not None:
            return
        due = self._settings.lease_seconds / _RENEWALS_PER_LEASE
        if self._held_bytes is not None and (self._asked or time.monotonic() - self._renewed_at >= due):
            with store_may_be_away():
                self._renew(self._held_bytes)
        elif self._asked:
            with store_may_be_away():
                self._take()

    def leave(self) -> None:
        """Give the share back; once the engine has ended."""
        self._asked, self._held_bytes = False, None
        with store_may_be_away():
            self._leases.leave()

    def _take(self) -> None:
        wish = self._wish(self._settings.memory_budget)
        try:
            granted = self._leases.take(wish)
        except HostFull as full:
            self._hear_refusal(full)
            return
        if granted > wish.whole_bytes:
            log.warning(
                "TIDEGATE_MEMORY_BUDGET is more than this host has for a worker",
                budget=gib(granted),
                whole=gib(wish.whole_bytes),
            )
        elif self._settings.memory_budget is None and granted < wish.whole_bytes:
            log.warning(
                "other workers hold a part of this host's memory; this one takes what is left",
                budget=gib(granted),
                whole=gib(wish.whole_bytes),
            )
        self._give_up_at = None
        self._answer(granted)

    def _renew(self, held_bytes: int) -> None:
        if self._leases.renew(self._wish(held_bytes), held_bytes):
            self._answer(held_bytes)
            return
        log.error(
            "this worker was silent for so long that others took its share of this host's memory",
            held=gib(held_bytes),
            lease_seconds=self._settings.lease_seconds,
        )
        self._held_bytes = None
        if self._asked:
            self._take()
        else:
            self._lost()

    def _answer(self, granted: int) -> None:
        self._held_bytes, self._renewed_at = granted, time.monotonic()
        if self._asked:
            self._asked = False
            self._tell({"kind": "share", "share_bytes": granted})

    def _hear_refusal(self, full: HostFull) -> None:
        """Give up at once where every holder is seen to live; else when those that do not will have lapsed."""
        now = time.monotonic()
        if self._give_up_at is None:
            unseen = [
                each.lease_seconds
                for each in full.holders
                if each.pid_space != self._space or not self._space
            ]
            self._give_up_at = now + max([self._patience_seconds, *unseen])
            if self._give_up_at > now:
                log.warning("waiting for memory", reason=str(full), seconds=round(self._give_up_at - now, 1))
        if now >= self._give_up_at:
            self.refusal = str(full)  # who ends by it says it: once is enough

    def _wish(self, setting_bytes: int | None) -> Wish:
        least = 0
        if setting_bytes is None:
            sizes = map(weights_on_disk, self._settings.model_sources.values())
            least = LEAST_BYTES + min(filter(None, sizes), default=0)
        return Wish(self._name, self._pools, setting_bytes, least)
