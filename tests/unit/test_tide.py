"""A worker's recent past: what is read back of it, what is left out, and who is told of whose jobs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from scheduler.tide import Entry, chosen, history
from tests.tides import JOB, POINT, mark


def changed(path: tuple[str | int, ...], value: Any) -> str:
    """An entry's JSON with one value put in place of another."""
    said: Any = json.loads(Entry(POINT, (mark("shed"),)).dump())
    place = said
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(said)


def test_an_entry_is_read_as_it_was_written() -> None:
    """Marks and all; what a later release writes beside is dropped."""
    entry = Entry(POINT, (mark("admitted"), mark("out_of_memory", job_id=None, bytes=None)))
    assert Entry.parse(entry.dump()) == entry
    later = json.loads(entry.dump()) | {"weather": "fair"}
    later["point"]["colour"] = "blue"
    assert Entry.parse(json.dumps(later)) == entry


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "nothing",
        changed(("point",), 7),
        changed(("point", "at"), -1),
        changed(("point", "at"), "soon"),
        changed(("point", "budget_bytes"), -5),
        changed(("point", "used_bytes"), 1 << 60),
        changed(("point", "headroom_bytes"), -(1 << 60)),
        changed(("point", "tokens_per_second"), None),
        changed(("marks",), "many"),
        changed(("marks", 0, "kind"), "party"),
        changed(("marks", 0, "job_id"), "<script>"),
        changed(("marks", 0, "owner"), "ann"),
        changed(("marks", 0, "words"), "x" * 301),
        changed(("marks", 0, "bytes"), -1),
    ],
)
def test_what_is_no_entry_is_refused(text: str) -> None:
    """Whoever writes to the server may have written it."""
    with pytest.raises(ValueError):
        Entry.parse(text)


def test_of_many_marks_the_plainest_are_left_out() -> None:
    """Ends first, then admissions, of each the oldest; what is rare stays, in its order."""
    rare = [mark("shed"), mark("engine_died")]
    plain = [mark("ended", at=float(at)) for at in range(4)] + [mark("admitted", at=9.0)]
    kept = chosen([rare[0], *plain, rare[1]], most=4)
    assert kept == (rare[0], plain[3], plain[4], rare[1])
    assert chosen([*plain, *rare], most=2) == tuple(rare)
    assert chosen(rare * 3, most=2) == tuple(rare)
    assert chosen(plain) == tuple(plain)


def test_whose_a_job_is_only_its_owner_is_told() -> None:
    """Others, but for those who may see everything, are told what happened and not to which job; nobody of the owner."""
    entry = Entry(POINT, (replace(mark("shed"), owner="a" * 16),))
    told = {sees: history("w", [entry], sees)["marks"] for sees in (None, "a" * 16, "b" * 16)}
    assert [marks[0]["job_id"] for marks in told.values()] == [JOB, JOB, None]
    assert all("owner" not in marks[0] for marks in told.values())
    assert history("w", [], None) == {"name": "w", "points": [], "marks": []}
