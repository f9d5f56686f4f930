"""A short storm over a whole stage: real server, APIs, workers, engines and clients."""

from __future__ import annotations

import pytest

from benchmarks.chaos import one_round

KILLS = 4


@pytest.mark.timeout(240)
def test_a_storm_loses_doubles_changes_and_leaves_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Rules 2, 3, 4 and 7 through kills, pauses and cuts; what is wrong is said in words."""
    outcome = one_round(1, 4.0, least_kills=KILLS, workers=2, clients=5)
    said = capfd.readouterr().err
    wrong = {name: outcome.figures[name] for name in ("lost", "doubled", "changed", "leaked")}
    assert wrong == {"lost": 0, "doubled": 0, "changed": 0, "leaked": 0}, said
    assert outcome.figures["accepted"] > 0
    assert outcome.figures["kills"] >= KILLS
