"""Margins that a model's own steps teach."""

from __future__ import annotations

from scheduler.card import MARGIN
from scheduler.learning import Margins
from tests.cards import PLAIN


def taught(ratios: list[float]) -> tuple[float, float]:
    margins = Margins()
    for ratio in ratios:
        margins.note("prefill", 1000, int(1000 * ratio))
    card = margins.applied(PLAIN)
    return card.prefill_margin, card.decode_margin


def test_nothing_seen_changes_nothing() -> None:
    """And prefill's steps teach nothing of decode's."""
    assert taught([]) == taught([1.5]) == (MARGIN, MARGIN)
    assert taught([1.2] * 9)[1] == MARGIN


def test_a_margin_rises_at_once_and_falls_with_evidence() -> None:
    """Two steps that took more are enough; eight that took less are needed."""
    assert taught([1.3, 1.3])[0] == 1.36
    assert taught([0.9] * 7)[0] == MARGIN
    assert taught([0.9] * 8)[0] == 1.05
    assert taught([1.0] * 16 + [1.05, 1.05])[0] == 1.1


def test_one_outlier_is_not_believed() -> None:
    """Somebody else's allocation, once, does not double every estimate."""
    assert taught([1.0] * 20 + [3.0])[0] == 1.05
    assert taught([1.0] * 20 + [3.0, 2.5])[0] == 2.6


def test_what_was_long_ago_is_forgotten() -> None:
    """A margin that rose comes down again."""
    assert taught([2.0, 2.0] + [1.0] * 64)[0] == 1.05


def test_steps_that_were_to_take_nothing_teach_nothing() -> None:
    """There is no ratio to nothing."""
    margins = Margins()
    for _ in range(20):
        margins.note("decode", 0, 5)
    assert margins.applied(PLAIN) == PLAIN
