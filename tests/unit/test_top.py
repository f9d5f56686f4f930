"""`tidegate top`: frames drawn of recorded answers, and how often the API is asked for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from scheduler.errors import ClientError
from tests.recorded import CAPACITY, GIB, NOW, WORKER, job
from tidegate.bar import bar, legend, shares
from tidegate.client import Client
from tidegate.failures import ApiUnreachable
from tidegate.top import Watch
from tidegate.top_view import Jobs, Scene, picture

RUNNING = tuple(job(number, "in_progress") for number in range(3))
WAITING = tuple(job(number) for number in range(4, 9))
SCENE = Scene(
    "http://127.0.0.1:8400", CAPACITY, Jobs(RUNNING), Jobs(WAITING), now_seconds=NOW, seen_seconds=NOW
)


def drawn(scene: Scene = SCENE, width: int = 120, height: int | None = None) -> list[str]:
    """A frame's lines."""
    return picture(scene, width, height).plain.split("\n")


def test_a_worker_is_shown_with_its_whole_account() -> None:
    """In the ledger's order and words, with what binds it, what it does, what went wrong, and its models."""
    worker = drawn()[2:7]
    assert (
        worker[0]
        == "worker 7d1f0f2b9f3c4a5e · ready · 16.0 GiB by metal_working_set · studio.local, pid 4711"
    )
    assert worker[2].split("  ")[1:] == [
        "█ weights 4.0 GiB",
        "▓ reserved 2.0 GiB",
        "▒ cache 2.0 GiB",
        "(of it ▞ prefixes 1.0 GiB)",
        "░ headroom 8.0 GiB",
    ]
    assert worker[3].split("   ") == [
        "  used 7.0 GiB",
        "142.4 tokens/s",
        "3 running",
        "engine deaths 1",
        "sheds 2",
        "out of memory 0",
        "completed 41",
    ]
    assert worker[4] == "  models  mlx-community/Qwen3-4B-4bit (loaded)  tiny (not loaded)"


def test_what_holds_a_worker_back_is_shown() -> None:
    """For how long it starts no engine, and what jobs may hold of its budget meanwhile."""
    hot = {
        **WORKER,
        "engine": "cooling down",
        "cools_until": WORKER["updated_at"] + 12,
        "working_bytes": 8 * GIB,
    }
    worker = drawn(replace(SCENE, capacity={**CAPACITY, "workers": [hot]}))[2:6]
    assert " · cooling down (12 s more) · " in worker[0]
    assert "may hold 8.0 GiB now" in worker[3].split("   ")
    past = {**hot, "cools_until": WORKER["updated_at"] - 1}
    assert " · cooling down · " in drawn(replace(SCENE, capacity={**CAPACITY, "workers": [past]}))[2]


def test_a_bar_is_to_scale() -> None:
    """Sixteen places for 16 GiB; the prefixes are drawn as the part of the cache that they are."""
    assert bar(WORKER, 16).plain == "████▓▓▒▞░░░░░░░░"
    assert bar({}, 5).plain == "░░░░░"


def test_a_narrow_legend_leaves_out_what_is_a_part_of_another() -> None:
    """All four parts of the account fit in 78 places, of a large host too."""
    large = {
        name: 40 * size if name.endswith("_bytes") else size
        for name, size in WORKER.items()
        if name != "limits_bytes"
    }
    shown = legend(large, 78).plain
    assert shown.endswith("headroom 320.0 GiB")
    assert "prefixes" not in shown
    assert "▒▞ cache 80.0 GiB" in shown


@given(st.lists(st.integers(0, 1 << 45), min_size=1, max_size=6), st.integers(0, 200))
def test_a_bar_is_as_wide_as_it_may_be(sizes: list[int], width: int) -> None:
    """Its parts add up, none without bytes is drawn, and while there is room none with bytes is left out."""
    found = shares(sizes, width)
    assert sum(found) == width
    assert all(count >= 0 for count in found)
    if any(sizes):
        assert all(size or not count for size, count in zip(sizes, found, strict=True))
    if width >= len(sizes) and any(sizes):
        assert all(count or not size for size, count in zip(sizes, found, strict=True))


def test_the_queue_is_shown_by_class() -> None:
    """Jobs and tokens of work, the most urgent class first, then all."""
    at = next(at for at, line in enumerate(drawn()) if line.startswith("queue"))
    assert [line.split() for line in drawn()[at + 1 : at + 5]] == [
        ["interactive", "0", "0"],
        ["standard", "12", "9,100"],
        ["batch", "5", "3,200"],
        ["all", "17", "12,300"],
    ]


def test_jobs_are_shown_with_where_they_are() -> None:
    """The running ones with how long, the waiting ones with place and eta, oldest first."""
    lines = [line.split() for line in drawn()]
    at = next(at for at, line in enumerate(lines) if line[:1] == ["job"])
    assert lines[at] == ["job", "state", "class", "model", "for", "place", "eta"]
    assert lines[at + 1][1:3] == ["in", "progress"]
    assert lines[at + 1][-4:] == ["30", "s", "-", "-"]
    assert lines[at + 4][0] == WAITING[0]["id"]
    assert lines[at + 4][-3:] == ["4", "16", "s"]
    assert len(lines) == at + 1 + len(RUNNING) + len(WAITING)


def test_what_waits_stands_in_the_order_of_its_turns() -> None:
    """A job of an urgent class that came last goes first, also where not all that wait are known; one without a place last."""
    places = (3, 4, None, 1, 2)
    waiting = [job(at, queue={"position": place}) for at, place in enumerate(places)]
    inorder = [waiting[at]["id"] for at in (3, 4, 0, 1, 2)]
    for known in (Jobs(tuple(waiting)), Jobs(tuple(waiting[:2]), tuple(waiting[2:]))):
        lines = drawn(replace(SCENE, running=Jobs(), waiting=known))
        assert [line.split()[0] for line in lines if line.startswith("job_")] == inorder


def test_columns_appear_where_they_are_needed() -> None:
    """A job's second attempt, and its tokens where the API says how many there are."""
    (titles,) = (line.split() for line in drawn() if line.startswith("job "))
    assert not {"attempt", "tokens"} & set(titles)
    again = job(1, "in_progress", attempt=2, result={"usage": {"completion_tokens": 1234}})
    (line,) = (line for line in drawn(replace(SCENE, running=Jobs((again,)))) if again["id"] in line)
    assert line.split()[-2:] == ["2", "1,234"]


def test_of_many_jobs_the_ends_are_shown() -> None:
    """The oldest and the newest, with a sign that there are more in between."""
    many = Jobs(tuple(map(job, range(20))), tuple(map(job, range(480, 500))))
    lines = drawn(replace(SCENE, waiting=many), height=26)
    assert len(lines) == 26
    shown = [line.split()[0] for line in lines if line.startswith(("job_", "…"))]
    waiting = shown[len(RUNNING) :]
    between = waiting.index("…")
    assert waiting[0] == many.oldest[0]["id"]
    assert waiting[-1] == many.newest[-1]["id"]
    assert between >= 2
    assert len(waiting) - between > 2


FLEET = [{**WORKER, "name": f"w{at}"} for at in range(9)]


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
@pytest.mark.parametrize("height", [3, 8, 12, 24, 60])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_frame_is_larger_than_the_screen(workers: int, height: int, width: int) -> None:
    """Nothing is wrapped, and who is first is always shown."""
    scene = replace(SCENE, capacity={**CAPACITY, "workers": FLEET[:workers]})
    lines = drawn(scene, width, height)
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    assert lines[0].startswith("tidegate http")


def test_many_workers_are_told_of_in_fewer_lines() -> None:
    """All of them by name while there is room, with their bars where there is some more."""
    scene = replace(SCENE, capacity={**CAPACITY, "workers": FLEET})
    for height, bars in ((80, 9), (50, 9), (36, 0)):
        lines = drawn(scene, 80, height)
        assert sum(line.startswith("worker w") for line in lines) == 9
        assert sum("████" in line for line in lines) == bars
    few = drawn(scene, 80, 20)
    shown = sum(line.startswith("worker w") for line in few)
    assert f"… and {9 - shown} workers more" in few


def test_an_api_that_went_away_is_said_in_the_frame() -> None:
    """With how old the rest is; where there never was any, that is all."""
    gone = replace(SCENE, problem="nothing answers", now_seconds=NOW + 7)
    assert drawn(gone)[1] == "✗ as it was 7 s ago: nothing answers"
    assert len(drawn(gone)) == len(drawn()) + 1
    assert drawn(Scene("http://x", problem="nothing answers"))[1:] == ["✗ nothing answers"]


def test_a_fleet_without_workers_says_what_starts_one() -> None:
    """It is the first thing that is amiss."""
    assert "no worker lives: `tidegate worker` starts one" in drawn(
        replace(SCENE, capacity={**CAPACITY, "workers": []})
    )


@pytest.mark.parametrize(
    ("engine", "card", "shown"),
    [
        ("loading tiny", None, "tiny (loading)"),
        ("measuring tiny", None, "tiny (measuring)"),
        ("loading other", None, "tiny (not loaded)"),
        ("ready", {"alone": True}, "tiny (loaded, runs alone)"),
    ],
)
def test_a_models_readiness_is_said(engine: str, card: dict[str, Any] | None, shown: str) -> None:
    """Of each on each worker."""
    worker = {**WORKER, "engine": engine, "models": [{"id": "tiny", "card": card}]}
    assert f"  models  {shown}" in drawn(replace(SCENE, capacity={**CAPACITY, "workers": [worker]}))


@pytest.mark.parametrize(
    "capacity",
    [
        {},
        {"workers": [{}, None, 7], "queue": None},
        {"workers": [{"name": "\x1b[2J", "budget_bytes": "much", "counters": {"a": None}, "models": [None]}]},
        {"workers": [{"tokens_per_second": 10**400, "weights_bytes": -5, "headroom_bytes": True}]},
    ],
)
def test_an_answer_that_is_not_understood_is_drawn_all_the_same(capacity: dict[str, Any]) -> None:
    """As far as it goes; nothing in it commands the terminal."""
    odd = {"created_at": 1e300, "queue": 3, "result": [], "id": None, "attempt": "x"}
    scene = replace(SCENE, capacity=capacity, waiting=Jobs((odd,)))
    assert "\x1b" not in "\n".join(drawn(scene, 80, 24))


class Api:
    """Answers as scripted, and notes what it was asked."""

    url = "http://127.0.0.1:8400"

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.jobs = 3
        self.down: Exception | None = None
        self.knows_order = True
        self.empty_pages = 0
        self.takes: Callable[[], None] = lambda: None

    def look(self, path: str, **query: Any) -> dict[str, Any]:
        """As :meth:`tidegate.client.Client.look`."""
        if self.down is not None:
            raise self.down
        if path == "/v1/capacity":
            return CAPACITY
        if path == "/v1/tide":
            raise ClientError("not_found", "no such route")
        self.asked.append(query)
        self.takes()
        if "order" in query and not self.knows_order:
            raise ClientError("invalid_request", "order")
        if "after" not in query and self.empty_pages:
            return {"data": [], "has_more": True, "next_cursor": "1"}
        if int(query.get("after", 0)) in range(1, self.empty_pages):
            return {"data": [], "has_more": True, "next_cursor": str(int(query["after"]) + 1)}
        numbers = list(range(self.jobs))
        ordered = numbers if query.get("order") == "asc" else numbers[::-1]
        page = [job(number, query["status"]) for number in ordered[: query["limit"]]]
        return {"data": page, "has_more": len(ordered) > query["limit"]}


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now

    def passes(self, seconds: float) -> None:
        """Let it."""
        self.now += seconds


def numbers(jobs: tuple[dict[str, Any], ...]) -> list[int]:
    """Which jobs they are."""
    return [int(each["id"].removeprefix("job_")) for each in jobs]


def test_both_ends_of_a_list_are_asked_for() -> None:
    """Where one page is not all; where two are, they are one list."""
    api = Api()
    watch = Watch(cast("Client", api), lambda: 0.0, lambda: NOW)
    assert numbers(watch.look().waiting.oldest) == [0, 1, 2]
    api.jobs = 30
    waiting = watch.look().waiting
    assert (numbers(waiting.oldest), waiting.newest) == (list(range(30)), ())
    api.jobs = 100
    waiting = watch.look().waiting
    assert numbers(waiting.oldest) == list(range(20))
    assert numbers(waiting.newest) == list(range(80, 100))


def test_what_runs_is_found_behind_pages_that_are_empty() -> None:
    """As where thousands of jobs ended since, or wait."""
    api = Api()
    api.empty_pages = 3
    scene = Watch(cast("Client", api), lambda: 0.0, lambda: NOW).look()
    assert numbers(scene.waiting.oldest) == numbers(scene.running.oldest) == [0, 1, 2]
    assert [query.get("after") for query in api.asked] == [None, "1", "2", "3"] * 2


def test_an_api_that_knows_no_order_shows_its_newest_jobs() -> None:
    """One of an earlier version, which may be elsewhere."""
    api = Api()
    api.jobs, api.knows_order = 100, False
    waiting = Watch(cast("Client", api), lambda: 0.0, lambda: NOW).look().waiting
    assert (waiting.oldest, numbers(waiting.newest)) == ((), list(range(80, 100)))


def test_lists_that_take_long_are_asked_for_less_often() -> None:
    """A tenth of the time at most goes into them; the capacity is asked for each time."""
    api, clock = Api(), Time()
    api.takes = lambda: clock.passes(0.5)
    watch = Watch(cast("Client", api), clock, clock)
    watch.look()
    assert len(api.asked) == 2
    for _ in range(9):
        clock.passes(1)
        watch.look()
    assert len(api.asked) == 2
    clock.passes(1)
    watch.look()
    assert len(api.asked) == 4


def test_an_api_that_comes_back_is_shown_again() -> None:
    """Until then, what was known of it last, and why no more is."""
    api, clock = Api(), Time()
    watch = Watch(cast("Client", api), clock, clock)
    before = watch.look()
    for down in (
        ApiUnreachable("nothing answers"),
        ClientError("store_unavailable", "Redis does not answer"),
    ):
        api.down = down
        clock.passes(5)
        gone = watch.look()
        assert gone.capacity == before.capacity
        assert (gone.problem, gone.seen_seconds) == (str(down), before.seen_seconds)
        with pytest.raises(type(down)):
            watch.insist()
    api.down = None
    assert watch.look().problem == ""


def test_raw_data_are_the_answers() -> None:
    """For `--json`."""
    assert SCENE.raw() == {
        "url": SCENE.url,
        "capacity": CAPACITY,
        "in_progress": {"oldest": list(RUNNING), "newest": []},
        "queued": {"oldest": list(WAITING), "newest": []},
    }
