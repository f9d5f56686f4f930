"""Jobs in lines, and jobs that are watched."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from scheduler.errors import ClientError
from tests.recorded import NOW, job
from tidegate.columns import lines
from tidegate.failures import ApiUnreachable
from tidegate.job_rows import lasting, listed
from tidegate.job_watch import Growing, Watched, watch
from tidegate.terminal import Terminal

ENDED = {"queue": None, "status": "failed", "error": ClientError("queue_timeout", "late").body()}


def titles(*jobs: dict[str, Any]) -> list[str]:
    """Which columns there are."""
    return lines(listed(jobs))[0].split()


def test_columns_appear_only_where_they_are_needed() -> None:
    """A place and an eta where a job waits, an attempt after the first, an error's code where one failed."""
    usual = ["job", "status", "model", "priority", "created", "tokens"]
    assert titles(job(1, "in_progress")) == titles() == usual
    assert titles(job(1)) == [*usual, "position", "eta"]
    assert titles(job(1, "in_progress", attempt=2)) == [*usual, "attempt"]
    assert titles(job(1, **ENDED), job(2)) == [*usual, "position", "eta", "error"]
    assert lines(listed([job(1, **ENDED), job(2)]))[1].split()[-1] == "queue_timeout"


def test_a_job_is_one_line_whatever_it_says() -> None:
    """Its error too: a server of another release, or none of ours, may say anything."""
    odd = job(1, **(ENDED | {"error": {"code": "a\nb\x1b[2J\u202e"}}), model="m\nn")
    for error in ({"code": "a\nb\x1b[2J"}, {"code": ["a\n", 5]}, {"code": ""}, "x\n", None):
        shown = lines(listed([odd | {"error": error}, job(2, **ENDED)]))
        assert len(shown) == 3, shown
        assert all("\n" not in line and "\x1b" not in line for line in shown), shown


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (-3, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7300, "2.0 h"),
        (2.5 * 86400, "2.5 d"),
        (float("nan"), "-"),
    ],
)
def test_spans_are_as_short_as_they_are_useful(seconds: float, said: str) -> None:
    """Seconds to begin with."""
    assert lasting(seconds) == said


def test_what_changed_is_told_once() -> None:
    """The oldest first; a place in the queue alone is no news, and a job that is not listed any more is forgotten."""
    answers = iter(
        [[job(2), job(1)], [job(2), job(1, queue={"position": 9})], [job(2, "in_progress")], [job(2), job(1)]]
    )
    watched = Watched(lambda: next(answers))
    told = []
    for _ in range(4):
        watched.refresh()
        told.append([int(each["id"][4:]) for each in watched.changed()])
    assert told == [[1, 2], [], [2], [1, 2]]


def test_trouble_is_shown_above_what_was_there() -> None:
    """And is gone when it is over."""
    answers: list[Any] = [[job(1)], ApiUnreachable("nothing answers"), [job(1)]]

    def look() -> list[dict[str, Any]]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    watched = Watched(look)
    seen = []
    for _ in range(3):
        watched.refresh()
        seen.append(str(watched.picture(100, 24)).split("\n"))
    assert seen[1][0] == "✗ nothing answers; trying again"
    assert seen[1][1:] == seen[0] == seen[2]
    assert job(1)["id"] in seen[0][1]
    assert len(str(watched.picture(100, 1)).split("\n")) == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_where_nobody_looks_changes_are_lines(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """Each once, until Ctrl-C; trouble is told on standard error, once."""
    looks = 0

    def look() -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        if looks in {2, 3}:
            raise ApiUnreachable("nothing answers")
        if looks == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return [job(1, "in_progress" if looks > 4 else "queued", created_at=NOW)]

    assert watch(look, Terminal(), seconds=0.01, as_json=as_json) == 0
    said = capsys.readouterr()
    assert said.err == "nothing answers\n"
    if as_json:
        assert [json.loads(line)["status"] for line in said.out.splitlines()] == ["queued", "in_progress"]
    else:
        title, *rows = said.out.splitlines()
        assert title.split()[:3] == ["job", "status", "model"]
        assert [row.split()[1] for row in rows] == ["queued", "in_progress"]


def test_lines_that_come_later_stand_in_the_same_columns() -> None:
    """Under one line of titles, whatever the first had to say; where a later one needs more room it has it from then on."""
    told = Growing()
    title, first = told.lines([job(1, "in_progress")])
    assert " ".join(title.split()) == "job status model priority created tokens attempt position eta error"
    (failed,) = told.lines([job(2, **ENDED)])
    assert failed.index("failed") == first.index("in_progress") == title.index("status")
    assert failed.index("queue_timeout") >= title.index("error")
    assert told.lines([]) == []
    longer, usual = told.lines([job(3, model="m" * 60), job(4)])
    assert longer.index("standard") == usual.index("standard")
