"""A job's own sampler and logits processors, so that jobs with different ones share a batch.

Each token of a job is drawn with a key made from the job's seed and the token's position, so that a
job that was interrupted goes on as if it had not been, whoever shares its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import mlx.core as mx
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, greedy_sampler, make_logits_processors

from scheduler.request import JobRequest

Sampler = Callable[[mx.array], mx.array]

_MASK: Final = (1 << 64) - 1
_LEAST_TEMPERATURE: Final = 1e-6  # lower ones overflow float32, and draw the likeliest token all the same


def position_key(seed: int, position: int) -> int:
    """A 64-bit key for one token: SplitMix64 (Steele, Lea and Flood 2014) of seed and position."""
    z = ((seed & _MASK) + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class SeededSampler:
    """Draws a job's tokens, one call a token.

    Args:
        request: temperature, top_p, top_k, min_p.
        seed: the job's.
        position: tokens that it has already.
        vocabulary: size of the logits.
    """

    def __init__(self, request: JobRequest, seed: int, position: int, vocabulary: int) -> None:
        self._seed, self._position = seed, position
        self._inverse_temperature = 1.0 / max(request.temperature, _LEAST_TEMPERATURE)
        self._filters: list[Callable[[mx.array], mx.array]] = []
        if request.top_p < 1:
            self._filters.append(lambda logprobs: apply_top_p(logprobs, request.top_p))
        if request.min_p > 0:
            self._filters.append(lambda logprobs: apply_min_p(logprobs, request.min_p))
        if 0 < request.top_k < vocabulary:
            self._filters.append(lambda logprobs: apply_top_k(logprobs, request.top_k))

    def __call__(self, logprobs: mx.array) -> mx.array:
        """Token ids, shape (1,), from log-probabilities, shape (1, vocabulary)."""
        key = mx.random.key(position_key(self._seed, self._position))
        self._position += 1
        for narrow in self._filters:
            logprobs = narrow(logprobs)
        return mx.random.categorical(logprobs * self._inverse_temperature, key=key)


def make_sampler(request: JobRequest, seed: int, position: int, vocabulary: int) -> Sampler:
    """The job's sampler: mlx-lm's greedy one, shared by the batch, or one that is seeded."""
    if request.temperature == 0:
        return greedy_sampler
    return SeededSampler(request, seed, position, vocabulary)


def make_processors(request: JobRequest) -> list[Any]:
    """mlx-lm's processors for the job's biases and penalties; most jobs have none."""
    penalty = request.repetition_penalty
    return list(
        make_logits_processors(
            logit_bias=request.logit_bias,
            repetition_penalty=None if penalty == 1 else penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
        )
    )
