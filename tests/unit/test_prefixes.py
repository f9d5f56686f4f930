"""What is kept of prompts: found by how jobs begin, bounded, in memory of its own."""

from __future__ import annotations

import gc
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, BatchKVCache, CacheList, KVCache, RotatingKVCache

from workers.budget import Budget
from workers.prefixes import LEAST_TOKENS, Prefixes

ROW: int = 2 * 2 * 8 * 4
"""Bytes of a token: keys and values, two heads of eight numbers of four bytes."""

TEXT = list(range(1000))


class Model:
    """Has one layer of each cache that is asked for."""

    def __init__(self, *caches: Any) -> None:
        self.kinds = caches

    def make_cache(self) -> list[Any]:
        return [kind() for kind in self.kinds]


FULL = Model(KVCache)


def row(tokens: list[int], cache: Any = None) -> Any:
    """A row's cache: its values tell its tokens."""
    cache = cache or KVCache()
    values = mx.broadcast_to(mx.array(tokens, dtype=mx.float32)[None, None, :, None], (1, 2, len(tokens), 8))
    cache.update_and_fetch(values, -values)
    cache.keys, cache.values = cache.keys[..., : len(tokens), :], cache.values[..., : len(tokens), :]
    return cache


def _let_go() -> None:
    """Free what earlier tests left: MLX hands out a freed buffer that is larger than what is asked for, and counts all of it."""
    gc.collect()
    mx.clear_cache()


@pytest.fixture
def prefixes() -> Prefixes:
    """With room for ten thousand tokens, of which a thousand may be kept."""
    budget = Budget(None, own_memory=False)
    gc.collect()
    budget.now_bytes = mx.get_active_memory() + 10_000 * ROW
    return Prefixes(budget, 1000 * ROW)


def read(
    prefixes: Prefixes, tokens: list[int], model: str = "m", scope: str = "", least: int = LEAST_TOKENS
) -> list[int] | None:
    """The tokens that a job would find."""
    found = prefixes.find(model, tokens, least, scope)
    if found is None:
        return None
    (cache,) = found.caches(FULL)
    assert cache.offset == cache.keys.shape[2] == found.tokens
    assert (cache.values == -cache.keys).all()
    said: Any = cache.keys[0, 1, :, 3].astype(mx.int32).tolist()
    return [*said]


def test_a_job_finds_what_it_shares_with_the_longest(prefixes: Prefixes) -> None:
    """Cut where it goes on otherwise, and one token is left to compute, whatever is kept."""
    prefixes.keep("m", TEXT[:200], [row(TEXT[:200])])
    prefixes.keep("m", TEXT[:100] + TEXT[500:700], [row(TEXT[:100] + TEXT[500:700])])
    assert read(prefixes, TEXT[:150] + [7] * 50) == TEXT[:150]
    assert read(prefixes, TEXT[:100] + TEXT[500:600]) == TEXT[:100] + TEXT[500:599]
    assert read(prefixes, TEXT[:200]) == TEXT[:199]
    assert read(prefixes, TEXT[:300]) == TEXT[:200]


def test_what_is_too_short_is_not_worth_it(prefixes: Prefixes) -> None:
    """Neither a job with few tokens, nor one that shares few."""
    prefixes.keep("m", TEXT[:200], [row(TEXT[:200])])
    assert read(prefixes, TEXT[:LEAST_TOKENS]) is None
    assert read(prefixes, TEXT[: LEAST_TOKENS - 1] + [7] * 50) is None
    assert read(prefixes, TEXT[:LEAST_TOKENS] + [7] * 50) == TEXT[:LEAST_TOKENS]


def test_models_share_nothing(prefixes: Prefixes) -> None:
    """The same tokens are other keys there; and what one model leaves, the other keeps."""
    prefixes.keep("m", TEXT[:200], [row(TEXT[:200])])
    assert read(prefixes, TEXT[:200], "n") is None
    prefixes.keep("n", TEXT[:100], [row(TEXT[:100])])
    prefixes.forget("m")
    assert (read(prefixes, TEXT[:200], "m"), read(prefixes, TEXT[:200], "n")) == (None, TEXT[:100])
    assert prefixes.kept_bytes == 100 * ROW


@pytest.mark.parametrize("other", ["", "b" * 16])
def test_scopes_share_nothing(prefixes: Prefixes, other: str) -> None:
    """A key finds what its own jobs left, however few tokens would do; others', and those of nobody's, it does not."""
    mine = "a" * 16
    prefixes.keep("m", TEXT[:200], [row(TEXT[:200])], scope=mine)
    assert read(prefixes, TEXT[:250], scope=mine) == TEXT[:200]
    assert read(prefixes, TEXT[:250], scope=other, least=1) is None
    prefixes.keep("m", TEXT[:250], [row(TEXT[:250])], scope=other)
    assert read(prefixes, TEXT[:300], scope=mine) == TEXT[:200], "a longer one of another's is not taken up"
    assert (len(prefixes), prefixes.kept_bytes) == (2, 450 * ROW), "nor replaces a shorter one"
    prefixes.keep("m", TEXT[:230], [row(TEXT[:230])], scope=mine)
    assert read(prefixes, TEXT[:300], scope=mine) == TEXT[:230], "nor stands for one that is to be kept"


def test_scopes_are_dropped_by_age_alone(prefixes: Prefixes) -> None:
    """Whoever used it last: they have one bound in bytes together."""
    texts = {scope: [at] * 300 for at, scope in enumerate(("", "a" * 16, "b" * 16))}
    for scope, text in texts.items():
        prefixes.keep("m", text, [row(text)], scope=scope)
    assert read(prefixes, [*texts[""], 9])
    prefixes.keep("m", [7] * 300, [row([7] * 300)], scope="b" * 16)
    left = [scope for scope, text in texts.items() if read(prefixes, [*text, 9], scope=scope)]
    assert left == ["", "b" * 16]
    assert prefixes.kept_bytes == 900 * ROW
    prefixes.forget("m")
    assert (len(prefixes), prefixes.kept_bytes) == (0, 0)


def test_a_conversation_replaces_its_own_beginning(prefixes: Prefixes) -> None:
    """And what is kept already is not kept again."""
    for length in (100, 300, 200):
        prefixes.keep("m", TEXT[:length], [row(TEXT[:length])])
    assert (len(prefixes), prefixes.kept_bytes) == (1, 300 * ROW)


def test_the_least_recently_used_goes_first(prefixes: Prefixes) -> None:
    """By its bytes; being found is being used."""
    texts = [[at] * 300 for at in range(4)]
    for text in texts[:3]:
        prefixes.keep("m", text, [row(text)])
    assert read(prefixes, texts[0] + [9])
    prefixes.keep("m", texts[3], [row(texts[3])])
    assert [read(prefixes, [*text, 9]) is not None for text in texts] == [True, False, True, True]
    assert prefixes.kept_bytes == 900 * ROW
    prefixes.keep("m", [5] * 1001, [row([5] * 1001)])
    assert len(prefixes) == 3, "what is larger than the whole drops nobody"


def test_nothing_is_kept_without_room(prefixes: Prefixes) -> None:
    """Its copy must fit into the budget, beside what is to be left of that; nobody else goes for it."""
    prefixes.keep("m", TEXT[:100], [row(TEXT[:100])])
    text = TEXT[500:700]
    prefixes.keep("m", text, [row(text)], spare_bytes=9_700 * ROW)
    assert read(prefixes, text) is None and len(prefixes) == 1
    prefixes.keep("m", text, [row(text)], spare_bytes=9_000 * ROW)
    assert read(prefixes, text) is not None


def test_what_is_kept_is_counted_and_given_back() -> None:
    """Its bytes are MLX's own count, though the row was cut out of a batch and still looked at; dropped, they go."""
    budget = Budget(None, own_memory=False)
    budget.now_bytes = budget.steady_bytes = 1 << 40
    prefixes = Prefixes(budget)
    batch: Any = BatchKVCache.merge([row(TEXT[:800]), row(TEXT[:300])])
    mx.eval(batch.state)
    _let_go()
    before = mx.get_active_memory()
    prefixes.keep("m", TEXT[:300], [batch.extract(1)])
    assert mx.get_active_memory() - before == prefixes.kept_bytes == 300 * ROW
    assert prefixes.used_bytes == before
    told = prefixes.in_use()
    assert (told["active_bytes"], told["prefix_cache_bytes"]) == (before, 300 * ROW)
    assert read(prefixes, TEXT[:250]) == TEXT[:249]
    del batch
    assert prefixes.shrink(0)
    gc.collect()
    assert mx.get_active_memory() < before
    assert (len(prefixes), prefixes.kept_bytes) == (0, 0)


def test_a_row_is_not_in_memory_twice_while_it_is_copied() -> None:
    """Nor does a batch of one, whose row fills it, lend its own memory: it would have to copy itself to go on."""
    budget = Budget(None, own_memory=False)
    budget.now_bytes = budget.steady_bytes = 1 << 40
    prefixes = Prefixes(budget)
    for rows in (1, 2):
        text = [rows] * 512
        batch: Any = BatchKVCache.merge([row(text)] * rows)
        mx.eval(batch.state)
        _let_go()
        before, kept = mx.get_active_memory(), prefixes.kept_bytes
        mx.reset_peak_memory()
        prefixes.keep("m", text, [batch.extract(0)])
        grown = prefixes.kept_bytes - kept
        assert grown == 512 * ROW
        assert mx.get_active_memory() - before == grown
        assert mx.get_peak_memory() - before < 1.1 * grown


def test_a_budget_that_shrinks_takes_what_is_kept_first(prefixes: Prefixes) -> None:
    """As much as is lacking, and no more."""
    for at in range(3):
        prefixes.keep("m", [at] * 300, [row([at] * 300)])
    used = prefixes.used_bytes
    assert not prefixes.within(used + 900 * ROW)
    assert prefixes.within(used + 700 * ROW)
    assert [read(prefixes, [at] * 300) is not None for at in range(3)] == [False, True, True]
    assert prefixes.within(used - 1) and not len(prefixes)


def test_a_model_to_be_loaded_takes_what_it_needs(prefixes: Prefixes) -> None:
    """Its weights and as much again; where nobody knows them, everything."""
    for at in range(3):
        prefixes.keep("m", [at] * 300, [row([at] * 300)])
    room = prefixes._budget.now_bytes - prefixes.used_bytes
    prefixes.make_room((room - 900 * ROW) // 2)
    assert len(prefixes) == 3
    prefixes.make_room((room - 400 * ROW) // 2)
    assert len(prefixes) == 1
    prefixes.make_room(0)
    assert not len(prefixes)


@pytest.mark.parametrize(
    ("setting", "kept"),
    [(None, 1), (0, 0), (200 * ROW, 1), (199 * ROW, 0)],
    ids=["share", "off", "just", "less"],
)
def test_the_operator_bounds_it(setting: int | None, kept: int) -> None:
    """Unset: an eighth of what the worker may use for good."""
    budget = Budget(None, own_memory=False)
    budget.now_bytes = 1 << 40
    budget.steady_bytes = 8 * 200 * ROW
    prefixes = Prefixes(budget, setting)
    prefixes.keep("m", TEXT[:200], [row(TEXT[:200])])
    assert len(prefixes) == kept


def test_a_window_is_kept_until_it_turns(prefixes: Prefixes) -> None:
    """Beside a growing cache, in a list or not: cut at any token, until it has forgotten its first."""
    inside, beyond = TEXT[:200], TEXT[500:701]
    kinds = Model(lambda: CacheList(RotatingKVCache(200), KVCache()), KVCache)
    for text in (inside, beyond):
        lists = CacheList(row(text, RotatingKVCache(200)), row(text))
        prefixes.keep("m", text, [lists, row(text)])
    assert prefixes.find("m", [*beyond, 1]) is None
    found = prefixes.find("m", inside[:150])
    assert found is not None
    both, full = found.caches(kinds)
    window = both[0]
    assert (window.offset, window._idx, full.offset) == (149, 149, 149)
    assert window.keys[0, 0, :, 0].tolist() == both[1].keys[0, 0, :, 0].tolist() == inside[:149]


def test_states_are_not_kept(prefixes: Prefixes) -> None:
    """They cannot be cut: not of a whole model, nor of a layer beside others."""
    state = ArraysCache(1)
    state[0] = mx.zeros((1, 4))
    prefixes.keep("m", TEXT[:200], [row(TEXT[:200]), state])
    assert not len(prefixes)


def test_the_entries_are_few_enough_to_look_at() -> None:
    """However small they are."""
    budget = Budget(None, own_memory=False)
    budget.now_bytes = budget.steady_bytes = 1 << 40
    prefixes = Prefixes(budget)
    for at in range(300):
        prefixes.keep("m", [at] * 64, [row([at] * 64)])
    assert len(prefixes) == 256
    assert read(prefixes, [299] * 70) and read(prefixes, [0] * 70) is None
