"""Macs with a model, as plausible as published figures make them; none of them was measured here.

Rates are those of llama.cpp's table for Apple silicon (7B, 4 bits, prompts of 512 and answers of 128 tokens; its
discussion 4167), scaled by the parameters for prefill and by the weights' bytes for decode. A budget is what
:mod:`workers.gauge` would give: 90 % of the working set that Metal recommends on such a machine (two thirds of the
memory up to 36 GB, three quarters above). The prefill chunk is set so that one takes about a third of a second.
"""

from __future__ import annotations

from typing import Final

from benchmarks.simulation import Machine
from scheduler.card import ModelCard
from scheduler.slots import CacheGroup
from workers.gauge import metal_limits, steady_budget

_GIB: Final = 1 << 30
_BITS: Final = 4.5
"""A weight's, with its group's scale and bias."""

_TABLE_PARAMETERS: Final = 6.74e9
_TABLE_BYTES: Final = 3.56 * _GIB


def _card(name: str, parameters: float, *, layers: int, hidden: int, mlp: int, vocabulary: int) -> ModelCard:
    """A dense model with 8 key heads of 128 in 16 bits, as its probe would find it."""
    token_bytes = 2 * (3 * mlp + 4 * hidden)  # what one token of a chunk has in flight of one layer
    chunk = tuple((tokens, token_bytes * tokens) for tokens in (15, 63, 255, 511))
    return ModelCard(
        model=name,
        device="metal: simulated",
        weights_bytes=int(parameters * _BITS / 8),
        caches=(CacheGroup("full", layers, bytes_per_token=layers * 8 * 128 * 2 * 2),),
        logits_bytes=4 * vocabulary,
        chunk_bytes=chunk,
        later_bytes=((511, 64.0, ((1022, 1.05 * chunk[-1][1]), (4096, 1.1 * chunk[-1][1]))),),
        decode_bytes=token_bytes,
        context_tokens=131_072,
        copied_layers=2.0,
    )


def _mac(ram: int, card: ModelCard, parameters: float, prefill: float, decode: float, chunk: int) -> Machine:
    """A Mac with ``ram`` GiB, and its chip's tokens a second in the table."""
    working_set = int(ram * _GIB * (2 / 3 if ram <= 36 else 3 / 4))
    limits = metal_limits({"max_recommended_working_set_size": working_set}, ram * _GIB, ram * _GIB)
    return Machine(
        name=f"{ram} GB, {card.model}",
        card=card,
        budget_bytes=steady_budget(limits, None)[0],
        device_bytes=working_set,
        prompt_tokens_per_second=prefill * _TABLE_PARAMETERS / parameters,
        tokens_per_second=decode * _TABLE_BYTES / card.weights_bytes,
        chunk_tokens=chunk,
    )


_8B: Final = _card("8B-4bit", 8.19e9, layers=36, hidden=4096, mlp=12_288, vocabulary=151_936)
_32B: Final = _card("32B-4bit", 32.8e9, layers=64, hidden=5120, mlp=25_600, vocabulary=151_936)

MACHINES: Final = {
    machine.name: machine
    for machine in (
        _mac(16, _8B, 8.19e9, prefill=221.3, decode=24.1, chunk=64),  # M4, 10 cores
        _mac(24, _8B, 8.19e9, prefill=608.1, decode=26.5, chunk=192),  # M5, 10 cores
        _mac(64, _32B, 32.8e9, prefill=885.7, decode=83.1, chunk=64),  # M4 Max, 40 cores
        _mac(192, _32B, 32.8e9, prefill=1238.5, decode=94.3, chunk=96),  # M2 Ultra, 76 cores
    )
}
"""By name; the shapes are Qwen3's."""
