"""A limit on a server's address space: how much is due to it, and how it is set. All in bytes; Linux only.

**Everyone gets the same room.** The limit of a server is the address space that it takes when it is idle, plus
the room: a quarter of what the load's KV caches would take all at once. One and the same absolute number would
measure something else, for the servers differ by more than the room in what they map before the first request:
PyTorch's libraries alone are several GiB, of which next to nothing is ever touched.

``RLIMIT_AS`` holds for each process of a server on its own, and is inherited by those that it starts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import psutil

QUARTER: Final = 4
CACHE_STEP: Final = 256
"""Tokens by which mlx-lm's KV cache grows (``mlx_lm.models.cache.KVCache.step``)."""

_EXECUTE: Final = (
    "import os, resource, sys; bounds = int(sys.argv[1]), int(sys.argv[2]); "
    "resource.setrlimit(resource.RLIMIT_AS, bounds); os.execv(sys.argv[3], sys.argv[3:])"
)


def limited(limit_bytes: int, most_bytes: int | None = None) -> tuple[str, ...]:
    """What to put before a command, whose first word is a path, so that it runs under the limit.

    Args:
        limit_bytes: the limit.
        most_bytes: to which it may be raised later, as :func:`resource.getrlimit` has it; None: not at all.
    """
    most = limit_bytes if most_bytes is None else most_bytes
    return (sys.executable, "-c", _EXECUTE, str(limit_bytes), str(most))


def kv_bytes_per_token(model: Path, element_bytes: int = 4) -> int:
    """What a token of a llama takes in its KV cache, from the config in its folder."""
    config = json.loads((model / "config.json").read_text())
    heads, size = config["num_key_value_heads"], config["head_dim"]
    return int(2 * config["num_hidden_layers"] * heads * size * element_bytes)


def load_bytes(requests: int, tokens: int, bytes_per_token: int) -> int:
    """What the KV caches of so many requests take at their end, together.

    Args:
        requests: how many.
        tokens: of each, prompt and answer.
        bytes_per_token: of the model's cache.
    """
    return requests * -(-tokens // CACHE_STEP) * CACHE_STEP * bytes_per_token


def room_bytes(whole_bytes: int) -> int:
    """A quarter of the load, in whole pages."""
    return whole_bytes // QUARTER // 4096 * 4096


def idle_bytes(pid: int) -> int:
    """The most address space that one process of a server's tree has now."""
    root = psutil.Process(pid)
    return max(process.memory_info().vms for process in (root, *root.children(recursive=True)))
