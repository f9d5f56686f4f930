"""The pictures in docs/ are what the code and the records say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.memory_picture import LAYERS, MARKS, memory_svg
from benchmarks.memory_run import DATA, PAGE, PICTURE, SAID, kept, sentence
from scheduler.job import TRANSITIONS, Event, State
from tests.made_parts import PICTURES
from tests.made_pictures import ROOMS, depths, imports, rooms_svg, states_svg
from tests.printed import ROOT

TOLD = json.loads(DATA.read_text())


def words(svg: str) -> list[str]:
    """What stands in a picture."""
    return [each.text or "" for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314 - our own


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.name)
def test_a_picture_of_the_code_is_up_to_date(picture: Path) -> None:
    """`make readme` draws it anew."""
    assert PICTURES[picture]() == picture.read_text()


def test_the_states_are_drawn_with_all_that_moves_them() -> None:
    """Each once; an event for each row of the table."""
    drawn = words(states_svg())
    assert [word for word in drawn if word in set(State)] == [*State]
    assert sorted(word for word in drawn if word in set(Event)) == sorted(event for _, event in TRANSITIONS)


def test_the_rooms_stand_above_what_they_import() -> None:
    """All of those that are named, each in a row above the lowest one."""
    edges = imports()
    level = depths(edges)
    assert all(level[name] > level[other] for name, others in edges.items() for other in others)
    assert "scheduler.lifecycle" in edges["api.services"]
    assert not any(
        other.startswith(("api.", "workers."))
        for name in edges
        if name.startswith("scheduler.")
        for other in edges[name]
    )
    assert {*words(rooms_svg())} >= {room for rooms in ROOMS.values() for room in rooms}


def test_the_runs_picture_is_drawn_from_its_record() -> None:
    """`python -m benchmarks.memory_run --redraw` draws it; the page's figures are the record's."""
    assert memory_svg(TOLD) == PICTURE.read_text()
    (said,) = re.findall(r"<!-- memory-run: .* -->\n(.*?)\n<!-- /memory-run -->", PAGE.read_text(), re.DOTALL)
    assert said == sentence(TOLD)
    assert kept(TOLD["rest"] | {name: TOLD[name] for name in ("points", "marks")}) == DATA.read_text()


def test_the_recorded_run_kept_its_account() -> None:
    """Weights, reserved, cache and headroom are the budget at every moment, and what is in use is within it."""
    assert tuple(TOLD["said"]) == SAID
    for _, *figures in TOLD["points"]:
        point = dict(zip(SAID, figures, strict=True))
        assert sum(point[layer] for layer in LAYERS) == point["budget_bytes"]
        assert point["used_bytes"] <= point["budget_bytes"]
    assert {kind for _, kind, _ in TOLD["marks"]} == {*MARKS}


def test_the_rooms_of_the_steps_are_there() -> None:
    """Each of the page's steps names at least one source, and none that is gone (tests/unit/test_links.py)."""
    steps = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^\*\*|^And )", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [int(number) for number, _ in steps] == [*range(1, 16)]
    assert [
        number for number, text in steps if not re.search(r"`(api|scheduler|workers)/\w+\.py`", text)
    ] == ["9"]
    assert (ROOT / "docs/states.svg").exists()
