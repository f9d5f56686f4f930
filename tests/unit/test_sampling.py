"""A job's draws depend on its seed and the token's position, on nothing else."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.request import JobRequest
from workers.sampling import SeededSampler, make_processors, make_sampler, position_key

VOCABULARY = 16


def asked(**fields: object) -> JobRequest:
    return JobRequest.model_validate({"model": "m", "prompt": "p", **fields})


def logprobs(step: int = 0) -> mx.array:
    """A row of log-probabilities that changes from step to step."""
    logits = mx.random.normal((1, VOCABULARY), key=mx.random.key(step))
    return logits - mx.logsumexp(logits, keepdims=True)


def draw(sampler: SeededSampler, start: int, count: int) -> list[int]:
    return [int(sampler(logprobs(step)).item()) for step in range(start, start + count)]


def test_keys_are_splitmix64s() -> None:
    """The published first outputs for seed 1234567."""
    assert [position_key(1234567, position) for position in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(-(1 << 63), (1 << 64) - 1), st.integers(0, 1 << 21))
def test_every_seed_makes_a_key_of_64_bits(seed: int, position: int) -> None:
    """Negative and largest seeds too; MLX takes the key."""
    key = position_key(seed, position)
    assert 0 <= key < 1 << 64
    assert mx.random.key(key).shape == (2,)


@given(st.integers(0, 1 << 62), st.integers(0, 12))
def test_a_resumed_job_draws_what_it_would_have(seed: int, cut: int) -> None:
    """A sampler that begins at a later position goes on as the first one did."""
    calm = draw(SeededSampler(asked(), seed, 0, VOCABULARY), 0, 12)
    assert draw(SeededSampler(asked(), seed, cut, VOCABULARY), cut, 12 - cut) == calm[cut:]


def test_company_and_the_global_generator_change_nothing() -> None:
    """Two jobs in turns, and others that draw from MLX's own generator between."""
    alone = [draw(SeededSampler(asked(), seed, 0, VOCABULARY), 0, 20) for seed in (1, 2)]
    samplers = [SeededSampler(asked(), seed, 0, VOCABULARY) for seed in (1, 2)]
    together: list[list[int]] = [[], []]
    for step in range(20):
        for tokens, sampler in zip(together, samplers, strict=True):
            tokens += draw(sampler, step, 1)
            mx.random.seed(step)
            mx.eval(mx.random.normal((3,)))
    assert together == alone
    assert alone[0] != alone[1]


def test_draws_have_the_distribution() -> None:
    """Over 3,000 positions each of four tokens comes as often as its probability says, within 4 sigma."""
    chances = [0.5, 0.3, 0.15, 0.05]
    row = mx.log(mx.array([chances]))
    sampler = SeededSampler(asked(), 7, 0, 4)
    tokens: list[int] = mx.concatenate([sampler(row) for _ in range(3000)]).tolist()
    for token, chance in enumerate(chances):
        sigma = (3000 * chance * (1 - chance)) ** 0.5
        assert abs(tokens.count(token) - 3000 * chance) < 4 * sigma


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"top_k": 1}, 1),
        ({"top_k": 3}, 3),
        ({"top_p": 1e-6}, 1),
        ({"min_p": 1.0}, 1),
        ({"temperature": 1e-3}, 1),
        ({"top_k": VOCABULARY}, VOCABULARY),
        ({"top_k": 1 << 20}, VOCABULARY),
    ],
)
def test_filters_leave_the_likeliest(fields: dict[str, float], tokens: int) -> None:
    """No draw is outside the likeliest ``tokens``; the extremes leave the one that greedy takes."""
    row = logprobs(3)
    likeliest = mx.argsort(-row[0]).tolist()[:tokens]
    sampler = make_sampler(asked(**fields), 5, 0, VOCABULARY)
    drawn = {int(sampler(row).item()) for _ in range(100)}
    assert drawn <= set(likeliest)
    assert len(drawn) > 1 or tokens == 1


def test_the_lowest_temperatures_do_not_overflow() -> None:
    """A temperature hardly above zero still draws the likeliest token, and no NaN."""
    for temperature in (1e-9, 1e-30, 1e-300, 5e-324):
        sampler = make_sampler(asked(temperature=temperature), 5, 0, VOCABULARY)
        assert int(sampler(logprobs(3)).item()) == int(mx.argmax(logprobs(3)).item())


def test_greedy_takes_no_seed() -> None:
    """At temperature 0 the likeliest token, whatever the seed."""
    assert {
        int(make_sampler(asked(temperature=0), seed, 0, VOCABULARY)(logprobs(1)).item()) for seed in range(5)
    } == {int(mx.argmax(logprobs(1)).item())}


def test_most_jobs_have_no_processors() -> None:
    """Neutral values cost nothing."""
    assert make_processors(asked()) == []
    assert make_processors(asked(repetition_penalty=1.0, presence_penalty=0, frequency_penalty=0)) == []
    assert len(make_processors(asked(repetition_penalty=1.1, presence_penalty=0.5, logit_bias={1: 5}))) == 3


def test_a_bias_chooses() -> None:
    """+100 makes a token certain."""
    (bias,) = make_processors(asked(logit_bias={4: 100}))
    assert int(mx.argmax(bias(mx.array([1]), logprobs(0))).item()) == 4
