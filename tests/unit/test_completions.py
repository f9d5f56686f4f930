"""How long answers are: the product limit against the definition, and what is reserved by it."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from scheduler.completions import ENOUGH, Answers, Completion
from scheduler.foresight import Row
from scheduler.reserving import NO_ANSWERS, Reserving


def ended(*tokens: int) -> Answers:
    """Completions that ended by themselves, each met often enough to teach."""
    return Answers(tuple(Completion(each, cut=False) for each in tokens for _ in range(ENOUGH)))


def product_limit(completions: tuple[Completion, ...], tokens: int) -> Fraction:
    """The definition: over the lengths at which answers ended, of those that got so far the share that went on."""
    share = Fraction(1)
    for length in sorted({each.tokens for each in completions if not each.cut and each.tokens <= tokens}):
        there = sum(each.tokens >= length for each in completions)
        share *= 1 - Fraction(sum(each.tokens == length and not each.cut for each in completions), there)
    return share


@pytest.mark.parametrize("seed", range(20))
def test_the_estimate_is_the_product_limit(seed: int) -> None:
    """Of samples with ties, some of them cut; the quantile is the first length that few enough outlive."""
    rng = random.Random(seed)
    known = tuple(Completion(rng.randint(0, 30), cut=rng.random() < 0.4) for _ in range(50))
    answers = Answers(known)
    for tokens in range(32):
        assert answers.surviving(tokens) == pytest.approx(float(product_limit(known, tokens)))
    for made in range(0, 30, 3):
        share = product_limit(known, made)
        for level in (Fraction(1, 10), Fraction(1, 2), Fraction(9, 10)):
            wanted = (t for t in range(made + 1, 31) if product_limit(known, t) <= share * (1 - level))
            first = next(wanted, None)
            if first is not None and share > 0:
                assert answers.quantile(float(level), 10_000, made) == first


def test_few_completions_teach_nothing() -> None:
    """One less than enough: all of ``max_tokens``, on average too."""
    few = Answers((Completion(5, cut=False),) * (ENOUGH - 1))
    assert (few.quantile(0.9, 700), few.mean(700)) == (700, 700.0)
    enough = Answers((Completion(5, cut=False),) * ENOUGH)
    assert (enough.quantile(0.9, 700), enough.mean(700)) == (5, 5.0)


def test_answers_that_were_cut_are_longer_than_they_are() -> None:
    """Half are cut at 100: those that end at 50 are the half that ended, and the rest is not taken to end at 100."""
    half = (Completion(50, cut=False),) * 32 + (Completion(100, cut=True),) * 32
    assert Answers(half).quantile(0.4, 4000) == 50
    assert Answers(half).quantile(0.9, 4000) == 4000
    as_if_ended = tuple(each._replace(cut=False) for each in half)
    assert Answers(as_if_ended).quantile(0.9, 4000) == 100


def test_an_answer_that_goes_on_is_as_long_as_those_that_went_on() -> None:
    """What it has already rules the shorter ones out."""
    answers = ended(10, 10, 10, 400)
    assert [answers.quantile(0.5, 4000, made) for made in (0, 9, 10, 399)] == [10, 10, 400, 400]


def test_beyond_the_longest_an_answer_is_half_way() -> None:
    """Twice what it has, at most ``max_tokens``, and always a token more."""
    answers = ended(10, 40)
    assert [answers.quantile(0.9, 4000, made) for made in (40, 60, 3000)] == [80, 120, 4000]
    assert answers.quantile(0.9, 41, 40) == 41


@pytest.mark.parametrize("max_tokens", [1, 10, 25, 1000])
def test_the_average_is_that_of_the_sample(max_tokens: int) -> None:
    """Each ends at ``max_tokens`` at the latest; of one that goes on, that of those that did."""
    lengths = (10, 20, 60)
    answers = ended(*lengths)
    assert answers.mean(max_tokens) == pytest.approx(sum(min(each, max_tokens) for each in lengths) / 3)
    if max_tokens > 20:
        assert answers.mean(max_tokens, 20) == pytest.approx(min(60, max_tokens))
        assert answers.mean(max_tokens, 15) == pytest.approx((20 + min(60, max_tokens)) / 2)


def test_worst_case_reserves_all_of_it() -> None:
    """Whatever is known, however far it is."""
    policy = Reserving("worst_case")
    assert policy.answer_tokens(Row(5, 900), ended(10), 3, 7) == 900
    assert policy.row(Row(5, 900, 2), ended(10)) == Row(5, 900, 2)


def test_learned_reserves_what_completions_say() -> None:
    """Less than ``max_tokens``, never more; without completions all of it."""
    policy = Reserving("learned", 0.9)
    assert policy.row(Row(5, 900, 2), ended(10)) == Row(5, 10, 2)
    assert policy.row(Row(5, 8), ended(10)) == Row(5, 8)
    assert policy.row(Row(5, 900), NO_ANSWERS) == Row(5, 900)


def test_learned_goes_on_from_what_was_made_before() -> None:
    """Tokens of earlier attempts are a part of the prompt: what is reserved behind it is the rest of the answer."""
    policy, answers = Reserving("learned", 0.9), ended(100)
    assert policy.answer_tokens(Row(5 + 60, 900), answers, 60, 0) == 40
    assert policy.answer_tokens(Row(5 + 60, 900), answers, 60, 39) == 40
    assert policy.answer_tokens(Row(5 + 60, 900), answers, 60, 60) == 2 * 120 - 60
    assert policy.answer_tokens(Row(5 + 60, 70), answers, 60, 60) == 70
