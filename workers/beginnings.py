"""How jobs come into one model's generator: with what is kept of how they begin; and what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import StopSequences

from workers.engine_job import RunningJob
from workers.models import LoadedModel
from workers.prefixes import LEAST_TOKENS, Beginning, Prefixes
from workers.sampling import make_processors, make_sampler

_NEW_SHARE: Final = 8
"""A prompt is kept before its answer is there if it is new by one part in so many: else what it reused is enough."""


class Beginnings:
    """One batch's part in what its engine keeps.

    Args:
        loaded: the model.
        prefixes: the engine's; None where nothing is kept, as for a model with a cache that cannot be cut.
    """

    def __init__(self, loaded: LoadedModel, prefixes: Prefixes | None) -> None:
        self._loaded, self._prefixes = loaded, prefixes
        self._eos = StopSequences([(token,) for token in loaded.tokenizer.eos_token_ids])

    @property
    def kept_bytes(self) -> int:
        """What is kept, other models' too: there before a step and after it, and none of the jobs'."""
        return self._prefixes.kept_bytes if self._prefixes else 0

    def note(self, jobs: Sequence[RunningJob]) -> None:
        """Note what jobs would reuse if they were taken up now."""
        for job in jobs:
            kept = self._find(job)
            job.reused = kept.tokens if kept else 0

    def take_up(self, generator: Any, jobs: Sequence[RunningJob]) -> dict[str, int]:
        """Give a generator the jobs that its next loop takes up.

        No sooner: what they reuse may still be dropped, and what others compute may still be kept.

        Returns:
            The tokens that they reuse, by key, of those that do.
        """
        for job in jobs:
            kept, tokens = self._find(job), job.prompt + job.so_far
            job.reused = kept.tokens if kept else 0
            (job.uid,) = generator.insert(
                [tokens[job.reused :]],
                max_tokens=[job.max_tokens - len(job.so_far)],
                caches=[kept.caches(self._loaded.model) if kept else None],
                all_tokens=[tokens[: job.reused]],
                samplers=[make_sampler(job.request, job.seed, len(job.so_far), self._loaded.vocabulary)],
                logits_processors=[make_processors(job.request)],
                stop_sequences=[self._eos],
            )
        return {job.key: job.reused for job in jobs if job.reused}

    def keep(
        self,
        job: RunningJob,
        generator: Any,
        spare_bytes: int,
        left: Any = None,
        *,
        begun: bool = False,
    ) -> None:
        """Keep a row's caches where that is worth it.

        Args:
            job: whose they are.
            generator: it is in.
            spare_bytes: what must be left of the budget: near it nothing is kept.
            left: the generator's last word of it, with its caches to be; None while it decodes.
            begun: whether only its prompt was computed: it is kept for jobs that come while it decodes.
        """
        if self._prefixes is None or not self._prefixes.limit_bytes:
            return
        with mx.stream(generator.stream):
            decoding = generator._generation_batch  # noqa: SLF001 - mlx-lm shows it nowhere else
            at = -1 if left else decoding.uids.index(job.uid)
            tokens = left.all_tokens if left else decoding.tokens[at]
            new = len(tokens) - job.reused
            if new < LEAST_TOKENS or (begun and new * _NEW_SHARE < len(tokens)):
                return
            row = left.prompt_cache if left else decoding.extract_cache(at)
            self._prefixes.keep(self._loaded.name, tokens, row, spare_bytes)

    def _find(self, job: RunningJob) -> Beginning | None:
        name = self._loaded.name
        return self._prefixes.find(name, job.prompt + job.so_far) if self._prefixes else None
