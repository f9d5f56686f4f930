"""Rule: the budgets of a host's workers never add up to more than it has, whatever they do and in what order.

Several workers take, renew and leave on one server; between any reading and its writing others may act.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from scheduler.host_leases import HostLeases, Tenant, host_key, share_key
from scheduler.host_share import HostFull, Wish, parse
from scheduler.swap import Swap

WHOLE = {"host_total": 100, "cgroup_total 7": 60}
KINDS = {
    "a": ("host_total",),
    "b": ("host_total",),
    "c": ("host_total", "cgroup_total 7"),
    "d": ("host_total", "cgroup_total 7"),
}
NAMES = st.sampled_from(sorted(KINDS))


class HostMachine(RuleBasedStateMachine):
    """What workers believe they hold is what may be used."""

    def __init__(self, server: Redis) -> None:
        super().__init__()
        self.server = server
        self.leases = {name: self.interrupted(name) for name in KINDS}
        self.held: dict[str, int] = {}
        self.asleep: set[str] = set()
        self.next: list[tuple[str, int | None]] = []

    def teardown(self) -> None:
        self.server.flushall()

    def interrupted(self, name: str) -> HostLeases:
        """A worker's way to the shares: after it has read, and before it writes, another may act."""
        made = HostLeases(self.server, "h", Tenant(name, name, 1, "", 60.0))
        swap = made._swap

        def late(*swaps: Swap) -> list[int]:
            self.let_another_act()
            return swap(*swaps)

        made._swap = late  # type: ignore[assignment]
        return made

    def let_another_act(self) -> None:
        if self.next:
            name, setting = self.next.pop()
            if name in self.asleep:
                self.wake(name)
            else:
                self.take(name, setting)

    def wake(self, name: str) -> None:
        self.asleep.remove(name)
        wish = Wish(name, {pool: WHOLE[pool] for pool in KINDS[name]})
        before = self.held.pop(name)
        if self.leases[name].renew(wish, before):
            self.held[name] = before

    def take(self, name: str, setting: int | None) -> None:
        wish = Wish(name, {pool: WHOLE[pool] for pool in KINDS[name]}, setting, least_bytes=5)
        try:
            self.held[name] = self.leases[name].take(wish)
        except HostFull:
            return

    @rule(
        name=NAMES,
        setting=st.none() | st.integers(1, 60),
        between=st.none() | st.tuples(NAMES, st.none() | st.integers(1, 60)),
    )
    def takes(self, name: str, setting: int | None, between: tuple[str, int | None] | None) -> None:
        """A worker starts, and perhaps another in its midst."""
        if name not in self.asleep:
            self.next = [between] if between and between[0] != name else []
            self.take(name, setting)
            self.next = []

    @precondition(lambda self: self.held)
    @rule(name=NAMES)
    def leaves(self, name: str) -> None:
        """A worker stops."""
        if name in self.held and name not in self.asleep:
            self.leases[name].leave()
            del self.held[name]

    @precondition(lambda self: self.held)
    @rule(name=NAMES)
    def sleeps(self, name: str) -> None:
        """A worker is paused, or dies, and its lease lapses: what it holds does not count any more."""
        if name in self.held:
            self.asleep.add(name)
            self.server.delete(share_key(name))

    @precondition(lambda self: self.asleep)
    @rule(name=NAMES, between=st.none() | NAMES)
    def wakes(self, name: str, between: str | None) -> None:
        """A worker goes on: it renews, and heeds the answer."""
        if name in self.asleep:
            self.next = [(between, None)] if between and between != name else []
            self.wake(name)
            self.next = []

    @invariant()
    def nobody_uses_what_another_holds(self) -> None:
        """Of those awake, in every pool."""
        awake = {name: size for name, size in self.held.items() if name not in self.asleep}
        for pool, whole in WHOLE.items():
            users = [size for name, size in awake.items() if pool in KINDS[name]]
            assert len(users) < 2 or sum(users) <= whole, (pool, awake)

    @invariant()
    def who_is_awake_is_known(self) -> None:
        """The server knows what each of them holds."""
        text: Any = self.server.get(host_key("h"))
        known = {token: share.share_bytes for token, share in parse(text or b"").items()}
        awake = {name: size for name, size in self.held.items() if name not in self.asleep}
        assert awake.items() <= known.items()


def test_no_history_gives_more_than_there_is(connection: Redis) -> None:
    """On a real server, whose swap it is."""
    chosen = settings(max_examples=60, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(lambda: HostMachine(connection), settings=chosen)
