"""When a worker asks for its share, waits, gives up, or hears that it lost it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.errors import StoreUnavailable
from scheduler.host_share import HostFull, Share, Wish
from scheduler.settings import Settings, load
from workers.sharing import LEAST_BYTES, Sharing
from workers.wire import Message

POOLS = {"host_total": 100}


class Leases:
    """A server that answers what the test says."""

    def __init__(self) -> None:
        self.answers: list[int | bool | Exception] = []
        self.wishes: list[Wish] = []
        self.left = 0

    def _answer(self, wish: Wish) -> Any:
        self.wishes.append(wish)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def take(self, wish: Wish) -> int:
        return int(self._answer(wish))

    def renew(self, wish: Wish, held_bytes: int) -> bool:
        assert wish.setting_bytes == held_bytes
        return bool(self._answer(wish))

    def leave(self) -> None:
        self.left += 1


class House:
    """A worker's sharing, its clock and what it said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings, **options: float) -> None:
        self.now, self.told, self.lost = 1000.0, list[Message](), 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        monkeypatch.setattr("workers.host.pid_space", lambda: "here")
        connection: Any = _Nobody()
        self.sharing = Sharing(connection, settings, "w", self.told.append, self._lose, **options)
        self.leases: Leases = Leases()
        monkeypatch.setattr(self.sharing, "_leases", self.leases)

    def _lose(self) -> None:
        self.lost += 1

    def asks(self, *answers: int | bool | Exception) -> None:
        """An engine asks, and the server answers."""
        self.leases.answers += answers
        self.sharing.ask(POOLS)

    def after(self, seconds: float, *answers: int | bool | Exception) -> None:
        """Time passes, a tick comes."""
        self.now += seconds
        self.leases.answers += answers
        self.sharing.keep()
        assert self.leases.answers == []


class _Nobody:
    def register_script(self, text: str) -> None:
        """No server."""


Make = Callable[..., House]


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Make:
    """Makes one."""

    def made(patience_seconds: float = 0.0, **settings: Any) -> House:
        chosen = load(data_dir=tmp_path, lease_seconds=15, **settings)
        return House(monkeypatch, chosen, patience_seconds=patience_seconds)

    return made


def full(space: str = "here", lease_seconds: float = 15.0) -> HostFull:
    return HostFull("no room", [Share("other", 5, space, 100, ("host_total",), lease_seconds)])


def test_an_engine_is_told_its_share_once(house: Make) -> None:
    """What was granted; nothing is asked for what the operator set but that."""
    made = house(memory_budget=70)
    made.asks(70)
    made.after(1)
    assert made.told == [{"kind": "share", "share_bytes": 70}]
    assert made.leases.wishes == [Wish("w", POOLS, 70, 0)]


def test_without_a_setting_the_least_is_the_smallest_models_weights_and_room(
    house: Make, tmp_path: Path
) -> None:
    """Of those whose weights are on disk."""
    for name, size in (("large", 900), ("small", 300)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * size)
    (tmp_path / "empty").mkdir()
    made = house(models=tuple(f"{name}={tmp_path / name}" for name in ("large", "small", "empty")))
    made.asks(100)
    assert made.leases.wishes == [Wish("w", POOLS, None, LEAST_BYTES + 300)]


def test_a_share_is_renewed_three_times_a_lease(house: Make) -> None:
    """And the engine is not told again; one that replaces it is, the same."""
    made = house()
    made.asks(100)
    made.after(4.9)
    made.after(0.2, True)
    made.after(4.9)
    assert len(made.told) == 1
    made.asks(True)
    assert made.told == [{"kind": "share", "share_bytes": 100}] * 2


def test_a_worker_gives_up_at_once_where_every_holder_is_seen_to_live(house: Make) -> None:
    """Nobody need be waited for; it asks no more."""
    made = house()
    made.asks(full())
    made.after(1)
    assert (made.sharing.refusal, made.sharing.waits, made.told) == ("no room", False, [])


@pytest.mark.parametrize(("space", "patience", "seconds"), [("elsewhere", 0.0, 40.0), ("here", 20.0, 20.0)])
def test_a_worker_waits_while_there_is_hope(house: Make, space: str, patience: float, seconds: float) -> None:
    """For a lease that may be a dead one's, or as long as it was told to; then it gives up."""
    made = house(patience_seconds=patience)
    made.asks(full(space, 40.0))
    made.after(seconds - 1, full(space, 40.0))
    assert made.sharing.waits and made.sharing.refusal is None
    made.after(1, full(space, 40.0))
    assert made.sharing.refusal == "no room"


def test_a_worker_that_waited_takes_what_came_free(house: Make) -> None:
    """And its engine begins."""
    made = house()
    made.asks(full("elsewhere"))
    made.after(1, 60)
    assert made.told == [{"kind": "share", "share_bytes": 60}] and not made.sharing.waits


def test_a_share_that_others_took_is_told(house: Make) -> None:
    """The engine is to go; the next one asks for what is left."""
    made = house()
    made.asks(100)
    made.after(5, False)
    assert made.lost == 1
    made.after(5)
    made.asks(30)
    assert made.told[-1] == {"kind": "share", "share_bytes": 30}
    assert made.leases.wishes[-1].setting_bytes is None


def test_a_share_that_was_lost_while_its_engine_started_is_asked_for_anew(house: Make) -> None:
    """There is no engine to end that went by it."""
    made = house(memory_budget=70)
    made.asks(70)
    made.asks(False, 70)
    assert (made.lost, len(made.told)) == (0, 2)


def test_a_server_that_is_away_is_asked_again(house: Make) -> None:
    """Before the first answer, and later."""
    made = house()
    made.asks(StoreUnavailable("away"))
    made.after(1, 100)
    made.after(5, StoreUnavailable("away"))
    made.after(1, True)
    assert (made.told, made.lost) == ([{"kind": "share", "share_bytes": 100}], 0)


def test_a_worker_that_leaves_gives_its_share_back(house: Make) -> None:
    """And renews nothing any more."""
    made = house()
    made.asks(100)
    made.sharing.leave()
    made.after(100)
    assert made.leases.left == 1


def test_more_than_the_host_has_is_remarked_on(house: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """As is less than the whole."""
    house(memory_budget=101).asks(101)
    assert "TIDEGATE_MEMORY_BUDGET is more than this host has for a worker" in capsys.readouterr().out
    house().asks(60)
    assert "this one takes what is left" in capsys.readouterr().out
