"""How jobs come into one model's generator: with what is kept of how they begin; and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import StopSequences

from workers.caches import can_be_cut, cut_out, flat
from workers.engine_job import RunningJob
from workers.models import LoadedModel
from workers.prefixes import LEAST_TOKENS, Beginning, Prefixes, packed, tokens_alike
from workers.sampling import make_processors, make_sampler

_FEW_TOKENS: Final = 16
_LONG_SECONDS: Final = 0.02
"""Where that few take so long to compute, that few are kept and taken up: a chat template's own system prompt is of
some twenty."""


class Beginnings:
    """One batch's part in what its engine keeps, and what its own running rows have for those that come.

    Args:
        loaded: the model.
        prefixes: the engine's; None where nothing is kept, as for a model with a cache that cannot be cut.
        token_bytes: what a token takes in all of its caches.
        seconds: about what so many tokens take to be computed; 0 where nothing is known.
        running: the batch's jobs by the generator's numbers; a row is looked at for jobs of its job's scope alone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        prefixes: Prefixes | None,
        token_bytes: int,
        seconds: Callable[[int], float],
        running: Mapping[int, RunningJob],
    ) -> None:
        self._loaded, self._prefixes, self._token_bytes = loaded, prefixes, token_bytes
        self._seconds, self._running = seconds, running
        self._eos = StopSequences([(token,) for token in loaded.tokenizer.eos_token_ids])

    @property
    def kept_bytes(self) -> int:
        """What is kept, other models' too: there before a step and after it, and none of the jobs'."""
        return self._prefixes.kept_bytes if self._prefixes else 0

    @property
    def _least(self) -> int:
        """So many tokens are worth being kept and taken up."""
        return _FEW_TOKENS if self._seconds(_FEW_TOKENS) >= _LONG_SECONDS else LEAST_TOKENS

    def note(self, generator: Any, jobs: Sequence[RunningJob]) -> int:
        """Note what jobs would reuse if they were taken up now; the bytes that are copied out of the batch for it."""
        copied = 0
        for job in jobs:
            job.reused, beginning = self._find(job, generator)
            copied += job.reused * self._token_bytes * isinstance(beginning, partial)
        return copied

    def take_up(self, generator: Any, jobs: Sequence[RunningJob]) -> dict[str, int]:
        """Give a generator the jobs that its next loop takes up.

        No sooner: what they reuse may still be dropped, and what others compute may still be kept.

        Returns:
            The tokens that they reuse, by key, of those that do.
        """
        for job in jobs:
            tokens = job.prompt + job.so_far
            job.reused, beginning = self._find(job, generator)
            begun: dict[str, Any] = {}
            if beginning is not None:
                kept = beginning() if isinstance(beginning, partial) else beginning
                begun = {"caches": [kept.caches(self._loaded.model)], "all_tokens": [tokens[: job.reused]]}
            sampler = make_sampler(job.request, job.seed, len(job.so_far), self._loaded.vocabulary)
            processors = make_processors(job.request)
            if job.constraint is not None:
                sampler = job.constraint.watched(sampler)
                processors.append(job.constraint)
            (job.uid,) = generator.insert(
                [tokens[job.reused :]],
                max_tokens=[job.max_tokens - len(job.so_far)],
                samplers=[sampler],
                logits_processors=[processors],
                stop_sequences=[self._eos],
                **begun,
            )
        return {job.key: job.reused for job in jobs if job.reused}

    def keep(
        self,
        job: RunningJob,
        generator: Any,
        spare_bytes: int,
        left: Any = None,
    ) -> None:
        """Keep the caches of a row that ends, where that is worth it.

        Args:
            job: whose they are.
            generator: it is in.
            spare_bytes: what must be left of the budget: near it nothing is kept.
            left: the generator's last word of it, with its caches to be; None where it did not end it.
        """
        if self._prefixes is None or not self._prefixes.limit_bytes:
            return
        with mx.stream(generator.stream):
            _, decoding = generator.parts
            at = -1 if left else decoding.uids.index(job.uid)
            tokens = left.all_tokens if left else decoding.tokens[at]
            if len(tokens) - job.reused < self._least:
                return
            row = left.prompt_cache if left else decoding.extract_cache(at)
            self._prefixes.keep(self._loaded.name, tokens, row, spare_bytes, job.scope)

    def keep_ended(self, responses: Sequence[Any], generator: Any, spare_bytes: int) -> None:
        """Keep the caches of the rows that a step ended, as :meth:`keep` does, and let go of them."""
        for response in responses:
            if response.prompt_cache is not None:
                self.keep(self._running[response.uid], generator, spare_bytes, response)
            response.prompt_cache = None  # an ended row's copy to be, which would hold the whole batch's

    def _find(self, job: RunningJob, generator: Any) -> tuple[int, Beginning | partial[Beginning] | None]:
        """The longest beginning of a job: its tokens, and what is kept or how to get it from a row that decodes."""
        if self._prefixes is None or not self._prefixes.limit_bytes:
            return 0, None
        tokens = job.prompt + job.so_far
        kept = self._prefixes.find(self._loaded.name, tokens, self._least, job.scope)
        at, alike = self._running_alike(generator, tokens, job.scope)
        if kept is not None and kept.tokens >= alike:
            return kept.tokens, kept
        return (alike, partial(self._cut, generator, at, alike)) if alike else (0, None)

    def _running_alike(self, generator: Any, tokens: Sequence[int], scope: str) -> tuple[int, int]:
        """Of a scope's rows that decode the one that begins most like these tokens: where, and how many; 0 of none."""
        _, decoding = generator.parts
        least = self._least
        first, wanted = tokens[:least], packed(tokens[:-1])
        found = (0, 0)
        if len(wanted) < len(packed(first)):
            return found
        for at, (uid, row) in enumerate(zip(decoding.uids, decoding.tokens, strict=True)):
            if self._running[uid].scope != scope or row[:least] != first:
                continue
            if can_be_cut(decoding.prompt_cache, len(row)):
                found = max(found, (at, tokens_alike(packed(row), wanted)), key=lambda each: each[1])
        return found

    def _cut(self, generator: Any, at: int, tokens: int) -> Beginning:
        """The beginning of a row that decodes, copied out of its batch before its next step."""
        _, decoding = generator.parts
        length = len(decoding.tokens[at])
        with mx.stream(generator.stream):
            layers = tuple(cut_out(cache, at, length, tokens) for cache in flat(decoding.prompt_cache))
            mx.async_eval(layers)
        return Beginning(tokens, layers)
