"""`tidegate doctor` on a Mac: what is said of recorded ones, and how its tools' words are read."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.recorded import GIB
from tests.recorded_facts import FACTS, MAC, ON_A_MAC
from tidegate import mac_facts
from tidegate.doctor import judge
from tidegate.facts import Library
from tidegate.finding import Finding, Mark
from tidegate.known_trouble import KNOWN, known_of
from tidegate.mac_facts import MacFacts, Panics, panics, sleep_minutes

PMSET = """System-wide power settings:
Currently in use:
 standby              0
 Sleep On Power Button 1
 womp                 1
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                {sleep} (sleep prevented by sharingd, powerd)
 ttyskeepawake        1
 displaysleep         10
 tcpkeepalive         1
 autorestart          1
"""
"""``pmset -g`` of a Mac mini, as published (ezone.co.uk, "Setting up a power schedule for macOS with pmset")."""


def said(what: str, **seen: Any) -> Finding:
    """What is said of one thing on a Mac of which so much is otherwise."""
    facts = replace(FACTS, **{**ON_A_MAC, **seen})
    (one,) = (each for each in judge(facts) if each.what == what)
    return one


NONE = Panics(0, 0)


def mac(version: str = "27.0", sleep: int | None = 0, seen: Panics | None = NONE) -> dict[str, Any]:
    """A Mac's own words."""
    return {"mac": MacFacts(version, sleep, seen)}


def test_a_mac_where_all_is_well_has_nothing_to_be_done() -> None:
    """Every check of a Mac has something good to say of it; on other systems they say nothing."""
    findings = judge(replace(FACTS, **ON_A_MAC))
    assert [each for each in findings if each.mark is not Mark.GOOD] == []
    only_there = {"macOS", "pressure", "wired limit", "panics", "sleep"}
    assert only_there <= {each.what for each in findings}
    assert not only_there & {each.what for each in judge(FACTS)}


def test_a_raised_wired_limit_is_said_and_one_that_leaves_nothing_is_a_fault() -> None:
    """In MiB as sysctl has it, beside the RAM."""
    raised = said("wired limit", engine=replace(MAC, wired_limit_mb=24576))
    assert (raised.mark, raised.said) == (
        Mark.NOTE,
        "iogpu.wired_limit_mb is 24,576, of 32.0 GiB RAM: raised, until the next boot",
    )
    assert raised.cure == "`sudo sysctl iogpu.wired_limit_mb=0` lets the system decide"
    assert said("wired limit", engine=replace(MAC, wired_limit_mb=30 * 1024)).mark is Mark.NOTE
    all_of_it = said("wired limit", engine=replace(MAC, wired_limit_mb=30 * 1024 + 1))
    assert all_of_it.mark is Mark.BAD
    assert all_of_it.said.endswith("less than 2.0 GiB is left to the system")


def test_pressure_is_the_kernels_own_word() -> None:
    """With what is swapped out."""
    pressed = said("pressure", engine=replace(MAC, pressure="critical"))
    assert (pressed.mark, pressed.said) == (
        Mark.BAD,
        "the kernel's word on its memory is critical; 1.0 GiB swapped out",
    )
    assert said("pressure").said == "the kernel calls its memory normal; 1.0 GiB swapped out"


@pytest.mark.parametrize(
    ("macos", "mlx", "marks"),
    [
        ("13.6.9", "0.32.4", [Mark.BAD]),
        ("14.0", "0.32.4", [Mark.GOOD]),
        ("15.7.4", "0.32.4", [Mark.NOTE]),
        ("26.4.1", "0.32.4", [Mark.NOTE]),
        ("26.5.2", "0.32.4", [Mark.NOTE]),
        ("26.6", "0.32.4", [Mark.GOOD]),
        ("14.8", "0.31.3", [Mark.BAD]),
        ("26.4", "0.31.1", [Mark.NOTE, Mark.BAD, Mark.BAD]),
        ("", "", [Mark.GOOD]),
        ("not a version", "neither", [Mark.GOOD]),
    ],
)
def test_what_is_known_of_versions_is_said(macos: str, mlx: str, marks: list[Mark]) -> None:
    """Of those that it was seen with; of an unknown one nothing."""
    facts = replace(FACTS, **ON_A_MAC, libraries=(Library("mlx", "mlx", mlx, True),))
    facts = replace(facts, **mac(macos))
    assert [each.mark for each in judge(facts) if each.what == "macOS"] == marks


def test_everything_that_is_known_names_its_sources() -> None:
    """And some version; what stops everything says what to do."""
    for row in KNOWN:
        assert row.sources
        assert all(each.startswith("https://") for each in row.sources)
        assert row.macos or row.mlx
        assert row.cure or not row.stops
    (panic,) = known_of("26.4", "0.32.4")
    assert said("macOS", **mac("26.4")).why == ", ".join(panic.sources)


def test_the_docs_have_what_is_known_with_its_sources() -> None:
    """Every row's, so that neither is told without the other."""
    page = (Path(__file__).parents[2] / "docs" / "macos.md").read_text()
    assert [each for row in KNOWN for each in row.sources if f"({each})" not in page] == []


def test_panics_of_late_are_a_fault() -> None:
    """With how many were in the GPU's memory; where they cannot be seen, that is said."""
    assert said("panics", **mac(seen=Panics(3, 2))).said == (
        "3 kernel panics within 7 days, 2 in the GPU's memory"
    )
    assert said("panics", **mac(seen=Panics(1, 0))).said == "1 kernel panic within 7 days"
    assert said("panics", **mac(seen=Panics(1, 0))).mark is Mark.BAD
    assert said("panics", **mac(seen=None)).mark is Mark.NOTE


def test_a_mac_that_sleeps_is_noted() -> None:
    """It may be meant so."""
    assert said("sleep", **mac(sleep=10)).said == "this Mac sleeps after 10 idle minutes"
    assert said("sleep", **mac(sleep=1)).said == "this Mac sleeps after 1 idle minute"
    assert said("sleep", **mac(sleep=None)).mark is Mark.NOTE


def test_what_pmset_prints_is_read() -> None:
    """Neither the disk's sleep nor the display's, nor a button's."""
    assert sleep_minutes(PMSET.format(sleep=10)) == 10
    assert sleep_minutes(PMSET.format(sleep=0)) == 0
    assert sleep_minutes("disksleep 10\n") is None
    assert sleep_minutes("") is None


def test_panic_reports_are_counted_by_their_days(tmp_path: Path) -> None:
    """Those of the last week; others' reports are none; a folder that is not there tells nothing."""
    underflow = '{"bug_type":"210"}\\n{"macOSPanicString":"\\"completeMemory() prepare count underflow\\" @IOGPUMemory.cpp:550"}'
    reports = {
        "panic-full-2026-04-01-002425.0002.panic": (underflow, 1_000_000.0),
        "panic-full-2026-04-01-013226.0002.panic": ("IOGPUGroupMemory.cpp:323", 999_999.0),
        "panic-full-2026-04-01-090000.0002.panic": ("watchdog timeout: no checkins", 999_999.0),
        "panic-full-2026-03-01-090000.0002.panic": (underflow, 1_000_000.0 - 8 * 86_400),
        "python3-2026-04-01-090000.ips": (underflow, 1_000_000.0),
    }
    for name, (text, moment) in reports.items():
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (moment, moment))
    assert panics(tmp_path, lambda: 1_000_000.0) == Panics(3, 2)
    assert panics(tmp_path / "none") is None


def test_a_tool_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    """Nor one that fails."""
    assert mac_facts._run(str(tmp_path / "pmset"), "-g") == ""
    assert mac_facts._run(sys.executable, "-c", "raise SystemExit(1)") == ""
    assert mac_facts._run(sys.executable, "-c", "print(7)") == "7\n"


@pytest.mark.metal
def test_a_real_mac_tells_of_itself() -> None:
    """Its version, and whether it sleeps."""
    seen = mac_facts.read_mac()
    assert seen.version
    assert seen.sleep_minutes is not None
    assert MAC.total_bytes > GIB
