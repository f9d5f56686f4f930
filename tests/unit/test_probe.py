"""What the probe makes of what it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from scheduler.slots import CacheGroup
from workers.probe import Later, later_chunks


class Seen:
    """A look at a model whose later chunks of S tokens take so much at a context of K."""

    def __init__(self, takes: Callable[[int, int], float]) -> None:
        self._takes = takes

    def most(self, prompts: list[list[int]], *, steps: int = 1, contexts: Sequence[int] = ()) -> int:
        (parts,) = prompts
        assert steps == 2
        return int(self._takes(parts[1], sum(contexts) + parts[0] + parts[1]))


def found(
    takes: Callable[[int, int], float], *, room: int = 1 << 40, per_token: int = 1024
) -> tuple[Later, ...]:
    look: Any = Seen(takes)
    points = {tokens: int(takes(tokens, tokens)) for tokens in (15, 63, 255, 512)}
    return later_chunks(look, [CacheGroup("full", 2, bytes_per_token=per_token)], points, room)


def test_a_line_over_contexts_is_found() -> None:
    """Its slope for each of three lengths, and what was seen at the second chunk and at two long contexts."""
    lines = found(lambda tokens, keys: 1000 * tokens + 32 * tokens * keys)
    assert [(tokens, round(slope)) for tokens, slope, _ in lines] == [(15, 480), (63, 2016), (512, 16_384)]
    assert [context for context, _ in lines[-1][2]] == [1024, 2048 + 513, 4096 + 513]
    assert lines[0][2][0] == (30, 15_000 + 32 * 15 * 30)


def test_what_is_hidden_may_be_as_much_as_what_hides_it() -> None:
    """Another layer takes more at both contexts that there was room for: attention is taken to reach it there."""
    lines = found(
        lambda tokens, keys: max(60_000 * tokens, 33 * tokens * keys), room=1 << 28, per_token=139_000
    )
    for tokens, slope, contexts in lines:
        far, most = contexts[-1]
        assert far < 1100 and slope == pytest.approx(most / far)
        assert slope >= 33 * tokens


def test_a_copy_less_at_the_longest_is_not_believed() -> None:
    """Two of three copies were met there: the shorter lengths go on to three."""
    lines = found(lambda tokens, keys: (64 if tokens > 500 and keys > 512 else 96) * tokens * keys)
    assert lines[-1][1] == pytest.approx(96 * 512, rel=0.01)
    assert all(size >= 95 * 512 * context for context, size in lines[-1][2])


def test_a_model_without_a_context_has_no_lines() -> None:
    """Of states nothing is looked at."""
    look: Any = Seen(lambda tokens, keys: 1 / 0)
    assert later_chunks(look, [CacheGroup("state", 2, state_bytes=9)], {15: 1}, 1 << 30) == ()


def test_where_contexts_are_computed_what_they_take_is_a_line_from_nothing() -> None:
    """They are short, and what attention takes of far ones may be hidden by another layer in all of them."""
    look: Any = Seen(lambda tokens, keys: 900 * tokens + tokens * keys // 1000)
    group = CacheGroup("linear", 2, bytes_per_token=100)
    lines = later_chunks(look, [group], {15: 900 * 14, 63: 900 * 60}, 1 << 30)
    for tokens, slope, contexts in lines:
        far, most = contexts[-1]
        assert far == 512 + 1 + tokens and slope == pytest.approx(most / far)
