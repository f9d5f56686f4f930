"""What is done to a stage, drawn from a seed: blows at random moments, and strikes on purpose at every transition.

Blows kill, stop or cut whatever is there; strikes (:mod:`benchmarks.store_proxy`) hit the sender of the very command
that moves a job, before the server has it or after it was done, for each row of the table in :mod:`scheduler.job`.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, get_args

from redis.exceptions import RedisError

from benchmarks.chaos_stage import PAUSE_SECONDS, SERVER, Stage
from benchmarks.store_proxy import Deed, StoreProxy, Strike, When
from benchmarks.swap_reader import MOMENTS
from scheduler import fleet
from scheduler.job import PRIORITIES, Lease
from scheduler.queue import JobQueue

_BRIEFLY: Final = (0.05, 0.3, 1.0)
"""Seconds for which a server or an engine is stopped: they hold no leases."""

SHARES: Final = {
    "kill engine": 2,
    "end engine": 1,
    "kill worker": 1,
    "end worker": 1,
    "kill api": 3,
    "end api": 2,
    "kill server": 9,
    "cut": 4,
    "pause worker": 1,
    "pause api": 1,
    "stop engine": 1,
    "stop server": 1,
}
"""Of so many blows, how many are of each kind. A server is back at once; a worker and its engine take seconds of both cores
to start, and most strikes hit workers."""

_KILLS: Final = [kind for kind in SHARES if kind.startswith(("kill", "end"))]
_DEEDS: Final[dict[Deed, int]] = {"kill": 3, "cut": 5, "pause": 1}


def drawn_strikes(draw: random.Random) -> list[Strike]:
    """One for each moment, before and after, in any order."""
    strikes = [
        Strike(moment, when, draw.choices(list(_DEEDS), list(_DEEDS.values()))[0])
        for moment in MOMENTS
        for when in get_args(When)
    ]
    draw.shuffle(strikes)
    return strikes


def drawn_blows(draw: random.Random) -> Iterator[str]:
    """Kinds of blows, for ever: each round of them has every kind as often as its share."""
    while True:
        round_of_them = [kind for kind, share in SHARES.items() for _ in range(share)]
        draw.shuffle(round_of_them)
        yield from round_of_them


@dataclass(slots=True)
class Storm:
    """A storm on a stage.

    Args:
        stage: what it happens to.
        proxy: what stands before the server.
        draw: its chance.
        strikes: what it does on purpose.
    """

    stage: Stage
    proxy: StoreProxy
    draw: random.Random
    strikes: list[Strike] = field(default_factory=list)
    _pauses: list[threading.Timer] = field(default_factory=list)

    def rage(self, seconds: float, least_kills: int) -> None:
        """Do blows and strikes, evenly over time; go on as long again at most for so many kills.

        Args:
            seconds: for how long.
            least_kills: kills that it is to come to.
        """
        self.strikes = drawn_strikes(self.draw)
        left, kinds = list(self.strikes), drawn_blows(self.draw)
        began, most_blows, blows = time.monotonic(), 1.1 * sum(SHARES.values()), 0
        while (passed := time.monotonic() - began) < seconds or (
            self.stage.kills < least_kills and passed < 2 * seconds
        ):
            if left and 1 - len(left) / len(self.strikes) < passed / (0.7 * seconds):
                self.proxy.arm(left.pop())
            if blows < most_blows * passed / seconds:
                behind = self.stage.kills < least_kills * passed / seconds
                self.blow(self.draw.choice(_KILLS) if behind and passed > seconds / 2 else next(kinds))
                blows += 1
            time.sleep(0.02)
        self.proxy.disarm()

    def calm(self) -> None:
        """Let everything that is stopped go on."""
        for timer in self._pauses:
            timer.cancel()
        for name in self.stage.kept:
            self.stage.send(name, signal.SIGCONT)
        self.stage.wake_engines()

    def blow(self, kind: str) -> None:
        """Do one."""
        deed, _, target = kind.partition(" ")
        names = self.stage.named(target if target != "engine" else "worker") if target else []
        does: dict[str, Callable[[], Any]] = {
            "kill": lambda: self._kill(self.draw.choice(names), target, signal.SIGKILL),
            "end": lambda: self._kill(self.draw.choice(names), target, signal.SIGTERM),
            "pause": lambda: self._pause(self.draw.choice(names), target, PAUSE_SECONDS),
            "stop": lambda: self._pause(self.draw.choice(names), target, self.draw.choice(_BRIEFLY)),
            "cut": self._cut,
        }
        does[deed]()

    def _kill(self, name: str, target: str, number: int) -> None:
        if target != "engine":
            self.stage.send(name, number)
        elif number == signal.SIGTERM:
            self.stage.kill_engine(name, number)  # which is nobody's fault, as the worker sees it
        elif self.stage.send(name, signal.SIGSTOP):  # so that it claims nothing meanwhile
            try:
                if self._may_lose_its_engine(name):
                    self.stage.kill_engine(name)
            finally:
                self.stage.send(name, signal.SIGCONT)

    def _pause(self, name: str, target: str, seconds: float) -> None:
        stage, stop = self.stage, signal.SIGSTOP
        wake: Callable[[], object] = stage.wake_engines
        if target == "engine":
            stopped = stage.kill_engine(name, stop)
        else:
            stopped, wake = stage.send(name, stop), partial(stage.send, name, signal.SIGCONT)
        if stopped:
            timer = threading.Timer(seconds, wake)
            timer.daemon = True
            timer.start()
            self._pauses.append(timer)

    def _cut(self) -> None:
        names = [name for name in self.stage.kept if name != SERVER]
        self.stage.counts["cut connections"] += sum(
            self.proxy.cut(name)
            for name in (names if self.draw.random() < 0.3 else [self.draw.choice(names)])
        )

    def _may_lose_its_engine(self, name: str) -> bool:
        """Whether no job of a worker has ended an engine alone before.

        One that does so a second time is failed, as it should be: a job that is too large is seen by nothing else. So
        what kills engines here does not hit the same job twice while that is tried alone.
        """
        pid = self.stage.pid(name)
        try:
            with self.stage.connection as connection:
                queue = JobQueue(connection, 60)
                mine = {each.name for each in fleet.live_workers(connection) if each.pid == pid}
                started: list[Any] = [
                    connection.zrange(f"rq:wip:{priority}", 0, -1) for priority in PRIORITIES
                ]
                ids = [entry.decode().split(":")[0] for entries in started for entry in entries]
                held = [
                    rec for rec in queue.headings(ids) if rec.lease and Lease.parse(rec.lease).worker in mine
                ]
        except RedisError:  # the server is down: nobody knows
            return False
        return not any(rec.meta.failures for rec in held)
