"""What generates for a model: mlx-lm's BatchGenerator, or one sequence at a time, with the same face."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from mlx_lm.generate import BatchGenerator

from workers.solo import Solo

# mlx-lm wires memory in BatchGenerator's constructor. Wiring is implicated in kernel panics
# (ml-explore/mlx#3186), so it is an operator's explicit choice and never ours.
setattr(importlib.import_module("mlx_lm.generate"), "maybe_set_recommended_wired_limit", lambda: None)  # noqa: B010


class Part(Protocol):
    """Rows that are at the same stage."""

    @property
    def uids(self) -> Sequence[int]:
        """Whose they are."""

    @property
    def prompt_cache(self) -> Sequence[Any]:
        """Their caches; none where there are no rows."""


class Generator(Protocol):
    """As :class:`~mlx_lm.generate.BatchGenerator` has it, where nothing else is said."""

    @property
    def stream(self) -> Any:
        """Where it computes."""

    @property
    def prompt_cache_nbytes(self) -> int:
        """Bytes of every cache."""

    @property
    def parts(self) -> tuple[Part, Part]:
        """The prompts that are being computed, and the rows that decode."""

    @property
    def takes(self) -> int:
        """How many prompts the next loop takes up, of those that were put in."""

    def shorten(self, chunk_tokens: int) -> None:
        """The prefill chunk, from the next loop on."""

    def insert(
        self,
        prompts: list[list[int]],
        max_tokens: list[int] | None = None,
        *,
        caches: Any = None,
        samplers: Any = None,
        logits_processors: Any = None,
        stop_sequences: Any = None,
    ) -> list[int]:
        """Take up prompts; their numbers."""

    def next(self) -> tuple[list[Any], list[Any]]:
        """One loop: what it computed of prompts, and tokens."""

    def remove(self, uids: list[int]) -> Any:
        """Forget rows and free what they hold."""

    def close(self) -> None:
        """Nothing follows."""


class Together(BatchGenerator):
    """mlx-lm's generator; what mlx-lm shows nowhere else of it is read here alone."""

    @property
    def parts(self) -> tuple[Any, Any]:
        """As :class:`Generator` has it."""
        return self._prompt_batch, self._generation_batch

    @property
    def takes(self) -> int:
        """As :class:`Generator` has it; none in a loop in which others begin to decode.

        Put beside those, they would be padded as long as they are, cut apart from them again, and computed by ones and
        twos ever after; a loop later there is room for a whole group.
        """
        if any(len(segments) == len(segments[0]) == 1 for segments, *_ in self._currently_processing):
            return 0
        prompts, decoding = map(len, self.parts)
        return max(0, min(self.prefill_batch_size - prompts, self.completion_batch_size - decoding))

    def shorten(self, chunk_tokens: int) -> None:
        """As :class:`Generator` has it; both read it at every loop."""
        self.prefill_step_size = self._prompt_batch.prefill_step_size = chunk_tokens


def make_generator(
    model: Any, *, alone: bool, chunk_tokens: int, prefill_rows: int, max_batch: int
) -> Generator:
    """A fresh generator.

    Args:
        model: mlx-lm's.
        alone: whether its jobs cannot share a batch.
        chunk_tokens: the prefill chunk.
        prefill_rows: prompts computed together.
        max_batch: rows that decode together.
    """
    if alone:
        return Solo(model, chunk_tokens)
    return Together(
        model,
        completion_batch_size=max_batch,
        prefill_batch_size=prefill_rows,
        prefill_step_size=chunk_tokens,
    )
