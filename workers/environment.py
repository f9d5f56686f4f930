"""The environment that an engine is started in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_OPENBLAS: Final = ("lib/*/libopenblas.so.0", "lib64/libopenblas.so.0", "lib/libopenblas.so.0")

_SMALL_BUFFERS: Final = {"MLX_MAX_OPS_PER_BUFFER": "20", "MLX_MAX_MB_PER_BUFFER": "50"}
"""What CUDA computes before it lets memory go, as little as Metal does; no slower on an H200."""

_NO_SPINNING: Final = {"OPENBLAS_THREAD_TIMEOUT": "4"}
"""The exponent of the cycles for which OpenBLAS's idle threads look for work before they sleep, its least: at its usual
26 they take the cores that the worker and the API need."""

_ON_LINUX: Final = _SMALL_BUFFERS | _NO_SPINNING


def engine_environment(inherited: dict[str, str], *, preload: bool) -> dict[str, str]:
    """The engine's environment: the worker's, on Linux with what is said above, and a fast BLAS where that is wished."""
    environment = (_ON_LINUX if sys.platform.startswith("linux") else {}) | inherited
    return with_fast_blas(environment) if preload else environment


def with_fast_blas(inherited: dict[str, str]) -> dict[str, str]:
    """On Linux a fast BLAS put before the one in MLX's wheel, where one is installed; all else as it was."""
    environment = dict(inherited)
    if sys.platform.startswith("linux") and "LD_PRELOAD" not in environment:
        found = [path for pattern in _OPENBLAS for path in sorted(Path("/usr").glob(pattern))]
        if found:
            environment["LD_PRELOAD"] = str(found[0])
    return environment
