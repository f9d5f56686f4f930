"""How many bytes jobs need at their peak, from a model's measured card and their batch's foreseen life.

What a step takes beside weights and caches, for B rows of S new tokens at a context of K::

    prefill   B · T1(S)                           the first chunk, measured at a few S; less in company
              B · T(S, K)                         later ones: measured at a few S and K, k(S) a key beyond
    decode    max(6 · B · vocabulary, copies + B · (d + c · K))
    padded    B · S · p · K more, where rows have different lengths

Between what was measured everything goes on a line. ``k`` is about S x query heads x item size where attention is
not fused, near 0 where it is. Where rows are regrouped nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from scheduler.card import MARGIN, ModelCard
from scheduler.foresight import UNKNOWN, Extents, Row, Step, replay
from scheduler.slots import GROWTH_TOKENS

_BEYOND_PROBES: Final = 1.2
"""On a chunk longer than any that was measured."""

_BETWEEN_PROBES: Final = 1.08
"""On a chunk that is not as long as any that was measured: kernels work in blocks, and copy what does not fill one."""

_SMALL_BYTES: Final = 1 << 16
"""Masks, positions and tokens of a step."""

_METAL_PAGE_BYTES: Final = 1 << 14
"""Metal rounds each buffer up to whole pages; keys and values of prompts and of decoding rows are one each."""

_COPY_MARGIN: Final = 1.02

_REGROUPED: Final = 1.5
"""Times an array that regrouping it takes beside it at most: what was padded, and what is in flight."""

_LOGIT_ROWS: Final = 6
"""Rows of the vocabulary that sampling takes for each sequence at most: 2 where it is greedy, 4 with a
temperature, 5 with nucleus and penalties; and the last step's."""


def fitted(card: ModelCard, row: Row) -> Row:
    """The row as the model's positions allow it: no more than they hold of prompt, then of answer."""
    if row.tokens <= card.context_tokens and row.prompt_tokens < card.context_tokens:
        return row
    prompt = max(1, min(row.prompt_tokens, card.context_tokens - 1))
    longest = max(1, min(row.max_tokens, card.context_tokens - prompt))
    return replace(
        row, prompt_tokens=prompt, max_tokens=longest, resumed_tokens=min(row.resumed_tokens, prompt - 1)
    )


def chunk_bytes(card: ModelCard, tokens: int) -> float:
    """T1(S): one row's first chunk; what attention takes of it counts with the square of S."""
    rest = [(length, max(0.0, size - key_bytes(card, length) * length)) for length, size in card.chunk_bytes]
    return _between(rest, tokens) + key_bytes(card, tokens) * tokens


def company(card: ModelCard, rows: int, tokens: int) -> float:
    """How many times one row's first chunk so many take together: no more than their number."""
    measured = [
        (length, (count * share * _BETWEEN_PROBES - 1) / (count - 1))
        for count, length, share in card.together
    ]
    known = measured and tokens >= measured[0][0]
    return 1 + (rows - 1) * (min(1.0, _between(measured, tokens)) if known else 1.0)


def key_bytes(card: ModelCard, tokens: int) -> float:
    """``k(S)``: a row's chunk of S tokens, for each key that it sees."""
    return _between([(length, per_key) for length, per_key, _ in card.later_bytes], tokens)


def later_bytes(card: ModelCard, rows: int, tokens: int, keys: int) -> float:
    """``T(S, K)`` of so many rows.

    What the second chunk takes beyond the line through the far ones is workspace, and counts once.
    """
    seen = []
    for length, per_key, contexts in card.later_bytes:
        last, most = contexts[-1]
        line = size = most + per_key * (keys - last)
        if keys <= last:
            line, size = max(0.0, line), _between(contexts, keys)
        seen.append((length, rows * min(line, size) + max(0.0, size - line)))
    return _between(seen, tokens)


def _between(points: Sequence[tuple[int, float]], tokens: int) -> float:
    """On a line between measured lengths; below them as at the first, beyond in proportion and more."""
    if not points:
        return 0.0
    length, size = points[0]
    for longer, more in points:
        if tokens <= longer:
            share = (tokens - length) / (longer - length) if length < tokens else 0.0
            return size + (more - size) * share
        length, size = longer, more
    return size * tokens / length * _BEYOND_PROBES


def seen_tokens(card: ModelCard, tokens: int, context_tokens: int) -> int:
    """The keys that a chunk's attention sees at most: all, a window's, or only its own."""
    if any(group.kind in {"full", "linear"} for group in card.caches):
        return context_tokens
    window = max((group.window_tokens + (group.kind == "chunked") for group in card.caches), default=0)
    return min(context_tokens, window - 1 + tokens) if window else tokens


def work_bytes(card: ModelCard, step: Step) -> float:
    """What a step's computation takes beside weights, caches and their copies; no margin counted."""
    keys = seen_tokens(card, step.tokens, step.context_tokens)
    padding = step.tokens * card.padded_bytes_per_pair * keys if step.padded else 0.0
    if step.kind == "decode":
        return step.rows * (card.decode_bytes + card.decode_bytes_per_key * keys + padding)
    taken = chunk_bytes(card, step.tokens) * company(card, step.rows, step.tokens)
    if step.context_tokens > step.tokens:
        later = later_bytes(card, step.rows, step.tokens, keys)
        if card.chunk_bytes[-1][0] < GROWTH_TOKENS:
            later += copied_bytes(card, step)  # of a growing layer: short probes have not seen it
        taken = max(taken, later)
    lengths = [length for length, _ in card.chunk_bytes]
    if step.tokens < lengths[-1] and step.tokens not in lengths:
        taken *= _BETWEEN_PROBES
    return taken + step.rows * padding


def teaches(card: ModelCard, step: Step) -> bool:
    """Whether a step is like those that a margin is learnt from: no short chunk, no context beyond the probes'."""
    contexts = [context for *_, seen in card.later_bytes for context, _ in seen]
    if contexts and step.context_tokens > max(contexts):
        return False
    return step.kind == "decode" or 2 * step.tokens > card.chunk_bytes[-1][0]


def copied_bytes(card: ModelCard, step: Step) -> float:
    """What growing and regrouping copy at once; regrouping alone is done an array at a time."""
    return step.copied_bytes * (card.copied_layers if step.rows else _REGROUPED)


def transient_bytes(card: ModelCard, step: Step) -> int:
    """What a step needs beside weights and caches, margins counted."""
    kept = 2 * step.kept_rows * card.logits_bytes + _SMALL_BYTES
    margin = card.prefill_margin if step.kind == "prefill" else card.decode_margin
    if not teaches(card, step):
        margin = max(MARGIN, margin)
    if step.kind == "prefill":
        return int(max(copied_bytes(card, step), work_bytes(card, step) * margin)) + kept
    work = copied_bytes(card, step) * _COPY_MARGIN + work_bytes(card, step) * margin
    return int(max(_LOGIT_ROWS * step.rows * card.logits_bytes, work)) + kept


def step_bytes(card: ModelCard, step: Step) -> int:
    """What a batch takes in a step beside the weights: caches and transients."""
    buffers = 4 * sum(group.layers for group in card.caches) if card.device.startswith("metal") else 0
    return step.held_bytes + transient_bytes(card, step) + buffers * _METAL_PAGE_BYTES


def life(
    card: ModelCard, rows: Iterable[Row], chunk_tokens: int, prefill_rows: int, real: Extents = UNKNOWN
) -> Iterator[tuple[Step, int]]:
    """The curve of a batch's memory over its life: each step that can reach a new height, with its bytes.

    Args:
        card: the model.
        rows: every job that shares the batch, with what it has computed, in the order of arrival.
        chunk_tokens: the prefill chunk.
        prefill_rows: how many prompts are computed together at most.
        real: the batch's caches as they were when the rows' progress was told.
    """
    for step in replay(card.caches, tuple(rows), chunk_tokens, prefill_rows, real):
        yield step, step_bytes(card, step)


def batch_bytes(
    card: ModelCard, rows: Sequence[Row], chunk_tokens: int, prefill_rows: int, real: Extents = UNKNOWN
) -> int:
    """The most that a batch takes beside the weights, from now to its end; arguments as for :func:`life`."""
    return _peak(card, tuple(rows), chunk_tokens, prefill_rows, real)


_BATCHES_KNOWN: Final = 256
"""Batches whose peaks are remembered: what one look at the queues asks of the batch that runs. A batch of 32 takes some
6 KiB here."""

_ALONE_KNOWN: Final = 4096
"""Jobs alone, of 600 bytes each."""


@lru_cache(maxsize=_BATCHES_KNOWN)
def _peak(card: ModelCard, rows: tuple[Row, ...], chunk_tokens: int, prefill_rows: int, real: Extents) -> int:
    steps = replay(card.caches, rows, chunk_tokens, prefill_rows, real, brief=True)
    return max((step_bytes(card, step) for step in steps), default=0)


def joined_bytes(
    card: ModelCard,
    row: Row,
    beside: Sequence[Row],
    chunk_tokens: int,
    prefill_rows: int,
    real: Extents = UNKNOWN,
) -> int:
    """A batch's peak once another row has joined; arguments as for :func:`life`.

    Prompts that are being computed may be a chunk further than was told: then the newcomer's is padded to
    theirs. The larger of both cases counts.
    """
    return _joined(card, row, tuple(beside), chunk_tokens, prefill_rows, real)


@lru_cache(maxsize=_BATCHES_KNOWN)  # a claim asks whether it fits, by how much, and again when it holds it
def _joined(
    card: ModelCard, row: Row, beside: tuple[Row, ...], chunk_tokens: int, prefill_rows: int, real: Extents
) -> int:
    begun = sum(0 < each.cached_tokens < each.prompt_tokens for each in beside)
    late = []
    for each in beside:
        ahead = each.cached_tokens < each.prompt_tokens - 1
        if ahead and not each.cached_tokens:
            begun, ahead = begun + 1, begun < prefill_rows
        done = min(each.cached_tokens + chunk_tokens, each.prompt_tokens - 1)
        late.append(replace(each, cached_tokens=done) if ahead else each)
    cases = [[*beside, row]] if late == [*beside] else [[*beside, row], [*late, row]]
    return max(batch_bytes(card, rows, chunk_tokens, prefill_rows, real) for rows in cases)


@lru_cache(maxsize=256)
def unlearnt(card: ModelCard) -> ModelCard:
    """The card with no larger margins than a new one has: by these a job alone is judged.

    What steps in company taught must not keep a job from ever running: nothing would teach otherwise any more.
    """
    prefill, decode = min(card.prefill_margin, MARGIN), min(card.decode_margin, MARGIN)
    return replace(card, prefill_margin=prefill, decode_margin=decode)


def alone_bytes(card: ModelCard, row: Row, chunk_tokens: int) -> int:
    """A job's footprint alone, weights counted: what decides whether it could ever run."""
    return card.weights_bytes + _alone(unlearnt(card), row, chunk_tokens)


@lru_cache(maxsize=_ALONE_KNOWN)
def _alone(card: ModelCard, row: Row, chunk_tokens: int) -> int:
    return batch_bytes(card, [row], chunk_tokens, 1)
