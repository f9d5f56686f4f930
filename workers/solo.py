"""One sequence at a time, for models whose caches mlx-lm does not merge; a BatchGenerator to those who use it.

A loop computes one chunk of the prompt, or one token. The chunks are those of mlx-lm's ``generate_step``; tokens are
made as its ``GenerationBatch`` makes them (mlx-lm 0.32)::

    logits of the last token → the job's processors (tokens so far, logits) → logprobs = logits - logsumexp(logits)
                             → the job's sampler (logprobs)

The step after is begun before a token is handed out, so that whoever takes it does so while the next is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.generate import StopSequences, generation_stream
from mlx_lm.models.cache import TokenBuffer, make_prompt_cache
from mlx_lm.sample_utils import greedy_sampler


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How far a prompt is."""

    uid: int
    progress: tuple[int, int]
    """Tokens computed, and of how many."""
    end_of_prompt: bool


@dataclass(slots=True)
class Token:
    """A token of an answer."""

    uid: int
    token: int
    logprobs: mx.array
    finish_reason: str | None
    prompt_cache: None = None
    """Nobody's: the sequence's caches go with its last token."""


@dataclass(slots=True, eq=False)
class _Sequence:
    uid: int
    prompt: list[int]
    max_tokens: int
    caches: list[Any]
    sampler: Callable[[mx.array], mx.array]
    processors: Sequence[Callable[[mx.array, mx.array], mx.array]]
    matcher: Any
    computed: int = 0
    made: int = 0
    context: TokenBuffer | None = None
    token: mx.array | None = None
    """The next, shape (1,), which may still be being computed."""
    logprobs: mx.array | None = None
    """Of that token, shape (vocabulary)."""


@dataclass(frozen=True, slots=True)
class _Part:
    uids: list[int] = field(default_factory=list)
    prompt_cache: list[Any] = field(default_factory=list)


class Solo:
    """Computes the first sequence that it was given to its end, then the next.

    Args:
        model: mlx-lm's.
        chunk_tokens: the prefill chunk.
    """

    def __init__(self, model: Any, chunk_tokens: int) -> None:
        self._model, self._chunk_tokens = model, chunk_tokens
        self._waiting: deque[_Sequence] = deque()
        self._running: _Sequence | None = None
        self._count = 0

    @property
    def stream(self) -> Any:
        """Where it computes: where mlx-lm's generators do."""
        return generation_stream

    @property
    def prompt_cache_nbytes(self) -> int:
        """Bytes of the caches, those that came with a sequence that waits too."""
        every = self._waiting if self._running is None else (self._running, *self._waiting)
        return sum(cache.nbytes for one in every for cache in one.caches)

    @property
    def parts(self) -> tuple[_Part, _Part]:
        """The sequence among the prompts, or where it decodes."""
        one = self._running
        if one is None:
            return _Part(), _Part()
        part = _Part([one.uid], one.caches)
        return (part, _Part()) if one.token is None else (_Part(), part)

    @property
    def takes(self) -> int:
        """How many sequences the next loop takes up."""
        return int(self._running is None and not self._waiting)

    def shorten(self, chunk_tokens: int) -> None:
        """The prefill chunk, from the next loop on."""
        self._chunk_tokens = chunk_tokens

    def insert(
        self,
        prompts: list[list[int]],
        max_tokens: list[int] | None = None,
        *,
        caches: list[list[Any]] | None = None,
        samplers: list[Any] | None = None,
        logits_processors: list[Any] | None = None,
        stop_sequences: list[Any] | None = None,
    ) -> list[int]:
        """Queue sequences; their numbers.

        Args:
            prompts: tokens of each, at least one.
            max_tokens: of each answer.
            caches: of each, with what comes before its prompt, which is no part of the processors' context.
            samplers: each makes a token, shape (1,), of logprobs, shape (1, vocabulary).
            logits_processors: lists of them, each from tokens, shape (T,), and logits, shape (1, vocabulary).
            stop_sequences: of each, mlx-lm's.

        Raises:
            ValueError: a prompt is empty, or an answer.
        """
        count = len(prompts)
        if not all(prompts) or min(max_tokens or [1]) < 1:
            raise ValueError("a sequence needs a prompt and a token")
        uids = list(range(self._count, self._count + count))
        self._count += count
        for at, uid in enumerate(uids):
            self._waiting.append(
                _Sequence(
                    uid,
                    prompts[at],
                    max_tokens[at] if max_tokens else 1,
                    caches[at] if caches else [],
                    (samplers[at] if samplers else None) or greedy_sampler,
                    (logits_processors[at] if logits_processors else None) or (),
                    (stop_sequences[at] if stop_sequences else StopSequences()).matcher(),
                )
            )
        return uids

    def remove(self, uids: list[int]) -> None:
        """Forget sequences; the caches of the one that runs are free once nothing computes on them."""
        self._waiting = deque(each for each in self._waiting if each.uid not in uids)
        if self._running is not None and self._running.uid in uids:
            self._running = None

    def next(self) -> tuple[list[PromptProgress], list[Token]]:
        """One loop: a chunk of the prompt, its last token, or a token of the answer."""
        with mx.stream(self.stream):
            if self._running is None:
                if not self._waiting:
                    return [], []
                self._running = self._waiting.popleft()
                self._running.caches = self._running.caches or make_prompt_cache(self._model)
            one = self._running
            if one.token is not None:
                return [], [self._decode(one)]
            if one.computed < len(one.prompt) - 1:
                return [self._prefill(one)], []
            if one.processors:
                one.context = TokenBuffer(one.prompt[:-1])
            self._step(one, mx.array(one.prompt[-1:]))
            return [PromptProgress(one.uid, (len(one.prompt),) * 2, end_of_prompt=True)], []

    def close(self) -> None:
        """Forget everything."""
        self._running = None
        self._waiting.clear()

    def _prefill(self, one: _Sequence) -> PromptProgress:
        end = min(one.computed + self._chunk_tokens, len(one.prompt) - 1)
        self._model(mx.array([one.prompt[one.computed : end]]), cache=one.caches)
        mx.eval([cache.state for cache in one.caches])
        mx.clear_cache()
        one.computed = end
        return PromptProgress(one.uid, (end, len(one.prompt)), end_of_prompt=False)

    def _step(self, one: _Sequence, token: mx.array) -> None:
        """Begin to compute the token after one.

        Args:
            one: the sequence.
            token: its last, shape (1,).
        """
        logits = self._model(token[None], cache=one.caches)[:, -1, :]
        context: Any = one.context.update_and_fetch(token) if one.context is not None else None
        for process in one.processors:
            logits = process(context, logits)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        one.token, one.logprobs = one.sampler(logprobs), logprobs[0]
        mx.async_eval(one.token, one.logprobs, *([] if context is None else [context]))

    def _decode(self, one: _Sequence) -> Token:
        token, logprobs = one.token, one.logprobs
        assert token is not None
        assert logprobs is not None
        self._step(one, token)
        mx.eval(token, logprobs)
        number: Any = token.item()
        one.made += 1
        reason = "length" if one.made >= one.max_tokens else None
        if one.matcher.advance(number):
            reason = "stop"
        if reason is not None:
            self._running = None
        return Token(one.uid, number, logprobs, reason)
