"""Holding one job's answer to a grammar: a logits processor of its row, and a sampler that it looks at.

In each step mlx-lm asks the row's processors for the next token's logits before the last token is known on the host::

    forward pass of step n+1 (built, not yet begun) → processors → sampler → begun; token n is handed out

So that the device does not wait for the host, the forward pass is begun here first. Meanwhile token n, which the
step before began to compute, becomes known, the grammar takes it, and the mask of token n+1 is made. Masks take a byte
a token of the vocabulary and a step, and none is kept.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher

from scheduler.request import JobRequest
from workers.models import LoadedModel
from workers.sampling import Sampler

_NEVER: Final = -float("inf")


class Phase(enum.Enum):
    """Where an answer is."""

    REASONING = enum.auto()
    """Anything may be said but an end, until the reasoning's end mark."""
    BEGINNING = enum.auto()
    """The grammar's first token comes, or one that opens something else."""
    BOUND = enum.auto()
    """In the grammar."""
    FREE = enum.auto()
    """The answer began with a call of a tool, as it might: the form is that of text."""


class Constraint:
    """Holds one job's answer to a grammar.

    Args:
        matcher: at the grammar's beginning.
        begins: where the answer begins.
        openers: tokens that may stand in place of the grammar's first, and where they lead.
        reasoning_ends: the tokens that end the reasoning.
        ends: tokens that end an answer.
        so_far: the answer's tokens of earlier attempts.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        *,
        begins: Phase = Phase.BEGINNING,
        openers: dict[int, Phase] | None = None,
        reasoning_ends: Sequence[int] = (),
        ends: Sequence[int] = (),
        so_far: Sequence[int] = (),
    ) -> None:
        self._matcher, self._phase = matcher, begins
        self._openers = openers or {}
        self._mark, self._latest = tuple(reasoning_ends), tuple[int, ...]()
        self._ends = list(ends)
        self._drawn: mx.array | None = None
        self._stuck = False
        for token in so_far:
            self._take(token)

    @property
    def ends(self) -> str | None:
        """Why the answer ends here, in OpenAI's words: the grammar is at its end, or gave up, or no token may come."""
        if self._stuck or self._matcher.is_error():
            return "length"
        return "stop" if self._phase is Phase.BOUND and self._matcher.is_stopped() else None

    def __call__(self, _: Any, logits: mx.array) -> mx.array:
        """The logits of the next token, shape (1, vocabulary), with those that cannot follow at minus infinity."""
        mx.async_eval(logits)
        if self._drawn is not None:
            token: Any = self._drawn.item()
            self._drawn = None
            self._take(token)
        allowed = self._allowed(logits.shape[-1])
        return (
            logits if allowed is None else mx.where(mx.array(allowed), logits, mx.array(_NEVER, logits.dtype))
        )

    def watched(self, sampler: Sampler) -> Sampler:
        """The job's sampler; what it draws is taken at the next step."""

        def draw(logprobs: mx.array) -> mx.array:
            self._drawn = sampler(logprobs)
            return self._drawn

        return draw

    def _take(self, token: int) -> None:
        """Go on by one token."""
        if self._phase is Phase.REASONING:
            self._latest = (*self._latest, token)[-len(self._mark) :]
            if self._latest == self._mark:
                self._phase = Phase.BEGINNING
                self._openers = {
                    opener: leads for opener, leads in self._openers.items() if leads is not Phase.REASONING
                }
        elif self._phase is Phase.BEGINNING and token in self._openers:
            self._phase = self._openers[token]
        elif self._phase is not Phase.FREE:
            self._phase = Phase.BOUND
            self._matcher.consume_token(token)

    def _allowed(self, vocabulary: int) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Which tokens may come next, shape (vocabulary); None where any may, or nothing is to come."""
        if self._phase is Phase.FREE or self.ends is not None:
            return None
        if self._phase is Phase.REASONING:
            allowed = np.ones(vocabulary, np.bool_)
            allowed[[token for token in self._ends if token < vocabulary]] = False
            return allowed
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            return None
        unpacked = np.unpackbits(bits, bitorder="little", count=max(vocabulary, 8 * bits.size))
        allowed = unpacked[:vocabulary].view(np.bool_)
        if self._phase is Phase.BEGINNING:
            allowed[[token for token in self._openers if token < vocabulary]] = True
        self._stuck = not allowed.any()
        return None if self._stuck else allowed


def constrain(
    loaded: LoadedModel, request: JobRequest, so_far: Sequence[int], section: str
) -> Constraint | None:
    """What holds a job's answer to the form that it asks for; None where it asks for none.

    Args:
        loaded: the model.
        request: the job's.
        so_far: tokens of earlier attempts.
        section: where the answer begins, as :func:`workers.text.section_left_open` names it.

    Raises:
        ClientError: ``invalid_request``; the form cannot be imposed.
    """
    matcher = loaded.grammars.matcher(request)
    if matcher is None:
        return None
    tokenizer = loaded.tokenizer
    openers: dict[int, Phase] = {}
    if tokenizer.has_thinking and request.messages is not None:
        _open(openers, tokenizer.think_start_tokens, Phase.REASONING)
    if tokenizer.has_tool_calling and request.tools_to_call and not request.must_call:
        _open(openers, tokenizer.tool_call_start_tokens, Phase.FREE)
    return Constraint(
        matcher,
        begins=Phase.REASONING if section == "reasoning" else Phase.BEGINNING,
        openers=openers,
        reasoning_ends=tokenizer.think_end_tokens or (),
        ends=sorted(tokenizer.eos_token_ids),
        so_far=so_far,
    )


def _open(openers: dict[int, Phase], mark: Sequence[int], leads: Phase) -> None:
    """A mark of several tokens opens nothing: its first one may be the grammar's as well."""
    if len(mark) == 1:
        openers[mark[0]] = leads
