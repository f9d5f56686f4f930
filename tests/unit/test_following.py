"""What the recovery benchmark counts as wrong with a stream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.following import Difference, Sent, Story, compare

TEXTS = ("ab", "cd", "ef", "gh")
NOTHING = Difference(lost_tokens=0, duplicated_tokens=0, changed=False, failed=False)


def story(*texts: str, end: str = "incomplete", done: bool = True) -> Story:
    """A stream of these deltas and an end, numbered from 1."""
    sent = [Sent(float(number), number, "delta", {"text": text}) for number, text in enumerate(texts, 1)]
    result = {"text": "".join(texts)}
    sent.append(Sent(9.0, len(sent) + 1, end, {"result": result if end == "incomplete" else None}))
    return Story(sent, sum(map(len, texts)), done)


CALM = story(*TEXTS)


def test_the_same_text_in_other_pieces_is_no_difference() -> None:
    """Steps may be joined."""
    assert compare(CALM, story("abc", "defgh")) == NOTHING


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (story("ab", "ef", "gh"), replace(NOTHING, lost_tokens=2, changed=True)),
        (story("ab", "cd", "cd", "ef", "gh"), replace(NOTHING, duplicated_tokens=2, changed=True)),
        (story("ab", "cd", "ex", "gh"), Difference(1, 1, changed=True, failed=False)),
        (story("ab", end="failed"), Difference(6, 0, changed=True, failed=True)),
        (story(*TEXTS, done=False), replace(NOTHING, changed=True, failed=True)),
        (Story(CALM.sent[:-1], 8, done=False), replace(NOTHING, changed=True, failed=True)),
        (Story([], 0, done=False), Difference(8, 0, changed=True, failed=True)),
    ],
    ids=["gap", "repeat", "change", "error", "no [DONE]", "no end", "nothing"],
)
def test_what_is_wrong_is_counted_in_tokens(seen: Story, found: Difference) -> None:
    """Lost ones, repeated ones; a changed one is both."""
    assert compare(CALM, seen) == found


def test_an_event_that_comes_twice_under_its_number_is_a_repeat() -> None:
    """As a stream would that went on one event too early."""
    sent = [CALM.sent[0], *CALM.sent]
    assert compare(CALM, Story(sent, 10, done=True)) == replace(NOTHING, duplicated_tokens=2, changed=True)


def test_a_number_left_out_is_a_change() -> None:
    """Though the text be whole."""
    sent = [*CALM.sent[:-1], replace(CALM.sent[-1], number=9)]
    assert compare(CALM, Story(sent, 8, done=True)) == replace(NOTHING, changed=True)
