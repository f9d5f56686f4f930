"""What docs/settings.md says beside the code is true of the code."""

from __future__ import annotations

import pytest

from scheduler.settings import Settings
from tests.settings_page import GROUPS, MOST_NEEDED, READERS, bounds, readers_in_code

SAID = {name: said for group in GROUPS.values() for name, said in group.items()}
PROCESSES = {"api": "API", "workers": "worker", "tidegate": "command"}
PASSED_ON = {"redis_url": {"worker"}, "data_dir": {"API"}, "port": {"API"}}
"""Who gets a setting from what another room made of it: the queue's address, the embedded server's socket, a listener."""


def test_every_setting_is_in_one_group() -> None:
    """A new one is given its group, its readers and its reason in tests/settings_page.py."""
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(Settings.model_fields)
    assert set(MOST_NEEDED) <= set(SAID)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_its_readers_are_those_in_the_code(name: str) -> None:
    """Each room that takes it from settings is named; where no shared room does, nobody else is."""
    rooms = readers_in_code()[name]
    said, found = {*SAID[name].readers.split(", ")}, {PROCESSES[room] for room in rooms if room in PROCESSES}
    assert said <= {*READERS}
    assert found <= said
    if rooms and "scheduler" not in rooms:
        assert said <= found | PASSED_ON.get(name, set())


def test_bounds_are_said_as_the_schema_has_them() -> None:
    """Open and closed ends, words, a year; none where there is none."""
    assert bounds({"minimum": 16, "maximum": 8192}) == "≥ 16, ≤ 8,192"
    assert bounds({"anyOf": [{"exclusiveMinimum": 0}, {"type": "null"}]}) == "> 0"
    assert bounds({"enum": ["auto", "off"]}) == "`auto`, `off`"
    assert bounds({"minimum": 0, "maximum": 366 * 86_400}) == "≥ 0, ≤ a year"
    assert bounds({"type": "string"}) == "–"
