"""Model cards for tests: plain numbers, easily added up."""

from __future__ import annotations

from dataclasses import replace

from scheduler.card import ModelCard
from scheduler.slots import CacheGroup

PLAIN = ModelCard(
    model="m",
    device="cpu",
    weights_bytes=1_000_000,
    caches=(CacheGroup("full", 2, bytes_per_token=100),),
    logits_bytes=0,
    chunk_bytes=((16, 0),),
    later_bytes=(),
    decode_bytes=0,
    context_tokens=4096,
)
SLIDING = replace(PLAIN, caches=(CacheGroup("sliding", 2, bytes_per_token=100, window_tokens=512),))
STATE = replace(PLAIN, caches=(CacheGroup("state", 2, state_bytes=7000),))
