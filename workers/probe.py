"""Measuring a model's card: one token for its caches, a few chunks for what steps take.

Measured with the generator that jobs will run in, an operation at a time: a device may run ahead of what
is freed while there is room, and near the budget it is not let; so this is what a step must have. A long
context is not computed but laid out: a cache filled with zeros costs no time, and the chunk that follows
attends to it as to any other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

import mlx.core as mx

from scheduler.card import ModelCard
from scheduler.foresight import Row, next_loop
from scheduler.slots import CacheGroup
from workers.caches import cache_groups, filled, filled_extent, runs_alone
from workers.gauge import one_at_a_time
from workers.generators import make_generator
from workers.models import LoadedModel

_SHORT: Final = 15
"""The chunk length that is always probed: a CPU may compute no more than some ten tokens a second. Odd, as most
last chunks are: some kernels pad them to a round length, in a copy."""

_LONGER: Final = (63, 255)
"""Probed where the time allows, then the engine's own chunk, then one token less."""

_LONG_COST: Final = 5
"""Times its tokens that a length costs: its first two chunks, and one at each of two long contexts, which take
longer."""

_ONE_COPY_MORE: Final = 1.6
"""Times as much may be met at one time as at another, where one copy more of what attention makes is in flight."""

_LIKE: Final = 1.05
"""Times as much that is still the same."""

_TIMES_LAYERS: Final = 16
"""Layers to be seen in all: a model of fewer is looked at more often."""

_TIMES_MOST: Final = 8
_TIMES_SECONDS: Final = 0.75
"""No further look is begun after these."""

_TIMES_LEAST: Final = 3
"""Looks at prompts together, to believe that they take less than each alone."""

_FEW: Final = 7
"""Tokens of each row where two of different lengths are compared with two alike."""

_CONTEXT_TOKENS: Final = 4096
"""The longest context laid out, where memory allows."""

_COMPUTED_TOKENS: Final = 512
"""The longest context where none can be laid out, and it is computed at each look."""

_CONTEXT_SHARE: Final = 4
"""Of the free memory, what a laid-out context may take."""

_LEAST_COPIED: Final = 0.75
"""Layers whose copies are alive at once at least: keys, then values, and what is in flight."""

_FLOOR_SECONDS: Final = 5.0
"""What one length may cost in any case, and half of the time that loading took where that is more."""


def measure(
    loaded: LoadedModel,
    device: str,
    *,
    chunk_tokens: int = 512,
    prefill_rows: int = 4,
    room_bytes: int = 1 << 30,
    load_seconds: float = 0.0,
) -> ModelCard:
    """Measure a card.

    Args:
        loaded: the model.
        device: its name, for the card.
        chunk_tokens: the engine's prefill chunk.
        prefill_rows: how many prompts it computes together.
        room_bytes: what may be taken for a moment beside the weights.
        load_seconds: what loading took; no chunk is measured that would cost half of it.

    Raises:
        ModelUnsupported: as for :func:`~workers.caches.cache_groups`.
    """
    groups, alone = cache_groups(loaded), runs_alone(loaded)
    prefill_rows = 1 if alone else prefill_rows
    look = _Look(loaded, min(group.layers for group in groups), alone=alone)
    look.most([[_SHORT, 1]], steps=3)  # kernels are compiled at their first use
    decode = look.most([[_SHORT, 1]], steps=3)
    points: dict[int, int] = {}
    seconds = max(_FLOOR_SECONDS, load_seconds / 2)
    for tokens in dict.fromkeys((_SHORT, *_LONGER, chunk_tokens, max(1, chunk_tokens - 1))):
        if tokens > max(_SHORT, chunk_tokens):
            continue
        at_most = max((size * (tokens / length) ** 2 for length, size in points.items()), default=0)
        if points and (_LONG_COST * tokens * look.pace > seconds or at_most > room_bytes):
            break
        points[tokens] = look.most([[tokens, 1]])
    together = []
    for tokens in sorted({*points} & {_LONGER[0], max(points)}) if prefill_rows > 1 else ():
        # Of the longest two, the one that takes less: a round length may have a kernel of its own.
        most = prefill_rows * min(size for length, size in points.items() if length in {tokens, tokens - 1})
        if (
            min(look.times, _TIMES_LEAST) * prefill_rows * tokens * look.pace <= seconds
            and most <= room_bytes
        ):
            share = look.most([[tokens, 1]] * prefill_rows) / max(1, most)
            together.append((prefill_rows, tokens, min(1.0, max(1 / prefill_rows, share))))
    later = later_chunks(look, groups, points, room_bytes)
    padding = 0.0 if alone else _padding(look, groups, room_bytes)
    copied = _copied_layers(look, groups, decode, room_bytes)
    mx.clear_cache()
    return ModelCard(
        model=loaded.name,
        device=device,
        weights_bytes=loaded.weights_bytes,
        caches=groups,
        logits_bytes=loaded.vocabulary * 4,
        chunk_bytes=tuple(sorted(points.items())),
        together=tuple(together),
        later_bytes=later,
        padded_bytes_per_pair=padding,
        decode_bytes=decode,
        decode_bytes_per_key=_decode_per_key(look, groups, decode, room_bytes),
        context_tokens=loaded.context_tokens,
        copied_layers=copied,
        alone=alone,
    )


class _Look:
    """What a model's steps take.

    Args:
        loaded: the model.
        layers: of the kind that it has fewest of.
        alone: whether its jobs run one at a time.
    """

    def __init__(self, loaded: LoadedModel, layers: int, *, alone: bool) -> None:
        self._loaded, self.alone = loaded, alone
        self.times = min(_TIMES_MOST, math.ceil(_TIMES_LAYERS / layers))
        """How often a step is looked at."""
        self.pace = 0.0
        """Seconds a token, at best."""

    def most(self, prompts: list[list[int]], *, steps: int = 1, contexts: Sequence[int] = ()) -> int:
        """The most that the last of a generator's steps takes beyond the caches that it leaves, in bytes.

        A few operations are always in flight, and hold what they have read; which ones are together differs
        from layer to layer and from time to time, so a model of few layers is looked at more often.

        Args:
            prompts: of each row the lengths of the parts that it is computed in, the last 1; the same of all.
            steps: of the generator.
            contexts: of each row how many tokens are laid out before.
        """
        most, began = 0, time.monotonic()
        for shift in range(self.times):
            started = time.monotonic()
            most = max(most, self._last(prompts, steps, contexts, shift))
            ended = time.monotonic()
            if not contexts:
                self.pace = min(self.pace or math.inf, (ended - started) / sum(map(sum, prompts)))
            if ended - began > _TIMES_SECONDS:
                break
        return most

    def _last(self, prompts: list[list[int]], steps: int, contexts: Sequence[int], shift: int) -> int:
        mx.synchronize()
        mx.clear_cache()
        rows, parts = len(prompts), prompts[0]
        generator = make_generator(
            self._loaded.model, alone=self.alone, chunk_tokens=parts[0], prefill_rows=rows, max_batch=rows
        )
        with mx.stream(generator.stream):  # another number of operations before
            mx.eval([mx.full(1, number) for number in range(shift)])
        generator.insert(
            [[0] * sum(each) for each in prompts],
            max_tokens=[steps] * rows,
            caches=[filled(self._loaded, context) for context in contexts] or None,  # held by nobody else
        )
        before = mx.get_active_memory() - generator.prompt_cache_nbytes
        for step in range(steps):
            generator.shorten(parts[min(step, len(parts) - 1)])
            mx.synchronize()
            mx.reset_peak_memory()
            with one_at_a_time():
                generator.next()
                mx.synchronize()
        taken = mx.get_peak_memory() - before - generator.prompt_cache_nbytes
        generator.close()
        return max(0, int(taken))


Later = tuple[int, float, tuple[tuple[int, float], ...]]
"""A chunk's length, what each key adds beyond, and (context, bytes) as seen."""


def later_chunks(
    look: _Look, groups: Sequence[CacheGroup], points: Mapping[int, int], room_bytes: int
) -> tuple[Later, ...]:
    """What later chunks take, of the shortest, a short and the longest: the second chunk, and two far ones.

    One token goes before a far chunk: with the first step what was laid out is copied. Of the longest there may be
    time for few looks: where the shorter ones go on to more than it took, it may have met a copy less.
    """
    far, computed = _far(groups, room_bytes), any(group.kind == "linear" for group in groups)
    found: list[Later] = []
    for chunk in sorted({*points} & {min(points), _LONGER[0], max(points)}) if far else ():
        near, most = (look.most([[1, chunk, 1]], steps=2, contexts=[context]) for context in (far // 2, far))
        sizes = {far // 2 + 1 + chunk: float(near), far + 1 + chunk: float(most)}
        if 2 * chunk < far // 2:
            sizes[2 * chunk] = float(look.most([[chunk, chunk, 1]], steps=2))
        slope = min(max(0, most - near) / (far - far // 2), most / max(sizes))
        if (
            computed or near <= _LIKE * points[chunk]
        ):  # a layer may hide what attention takes: it may be as much
            slope = most / max(sizes)
        if len(found) > 1:
            (short, low, _), (longer, high, _) = found
            goes_on = high + (high - low) / (longer - short) * (chunk - longer)
            more = min(_ONE_COPY_MORE * slope, goes_on) - slope
            if more > 0:
                slope += more
                sizes = {context: max(size, slope * context) for context, size in sizes.items()}
        found.append((chunk, slope, tuple(sorted(sizes.items()))))
    return tuple(found)


def _decode_per_key(look: _Look, groups: Sequence[CacheGroup], decode_bytes: int, room_bytes: int) -> float:
    """Bytes that a decode step takes for each key that it sees, at most: logits may hide what attention takes."""
    far = _far(groups, room_bytes)
    return max(decode_bytes, look.most([[1]], steps=2, contexts=[far])) / far if far else 0.0


def _padding(look: _Look, groups: Sequence[CacheGroup], room_bytes: int) -> float:
    """Bytes more per new token and key, where two rows have contexts of different lengths."""
    far = _far(groups, room_bytes // 2)
    if not far:
        return 0.0
    alike, padded = (
        look.most([[1, _FEW, 1]] * 2, steps=2, contexts=contexts)
        for contexts in ((far, far), (far, far // 2))
    )
    return max(0.0, (padded - alike) / (2 * _FEW * (far + 1 + _FEW)))


def _far(groups: Sequence[CacheGroup], room_bytes: int) -> int:
    """The longest context that is laid out, in tokens; 0 where the model has none."""
    longest = max(
        (group.window_tokens or _CONTEXT_TOKENS for group in groups if group.kind != "state"), default=0
    )
    if any(group.kind == "linear" for group in groups):
        longest = _COMPUTED_TOKENS
    per_slot = sum(group.bytes_per_token for group in groups)
    return min(longest, max(512, room_bytes // _CONTEXT_SHARE // per_slot)) if per_slot else 0


def _copied_layers(look: _Look, groups: tuple[CacheGroup, ...], decode_bytes: int, room_bytes: int) -> float:
    """Layers' copies that are alive at once, seen where a row begins to decode and its caches are full."""
    per_slot = sum(group.bytes_per_token for group in groups)
    if not per_slot:
        return 1.0
    longest = _COMPUTED_TOKENS if any(group.kind == "linear" for group in groups) else _CONTEXT_TOKENS
    full = max(256, min(longest, room_bytes // _CONTEXT_SHARE // per_slot) // 256 * 256)
    taken = look.most([[1]], contexts=[full])
    extent = filled_extent(groups, full)
    # A row that has its generator to itself begins to decode as it goes on: nothing is regrouped.
    row, real = (
        (Row(full, 2, full), (None, extent)) if look.alone else (Row(full + 1, 2, full), (extent, None))
    )
    (step,) = next_loop(groups, [row], _SHORT, 1, real).steps
    copied = taken + step.cache_bytes - step.held_bytes - decode_bytes
    return round(max(_LEAST_COPIED, copied / max(1, step.copied_bytes)), 2)
