"""The environment that an engine is started in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_OPENBLAS: Final = ("lib/*/libopenblas.so.0", "lib64/libopenblas.so.0", "lib/libopenblas.so.0")

CUDA_BUFFER_BYTES: Final = 400 << 20
"""What CUDA's arrays may come to before it computes and lets memory go. With 50 MB, Metal's own bound, a model of 8
billion parameters was 20 to 25 % slower on an H100; a step near the budget lets go after each operation all the same."""

_BUFFERS: Final = {
    "MLX_MAX_OPS_PER_BUFFER": "30",
    "MLX_MAX_MB_PER_BUFFER": str(CUDA_BUFFER_BYTES >> 20),
}
"""The same on every GPU: MLX's own bounds differ by its kind."""

_NO_SPINNING: Final = {"OPENBLAS_THREAD_TIMEOUT": "4"}
"""The exponent of the cycles for which OpenBLAS's idle threads look for work before they sleep, its least: at its usual
26 they take the cores that the worker and the API need."""

_ON_LINUX: Final = _BUFFERS | _NO_SPINNING

_NOT_THE_ENGINES: Final = ("TIDEGATE_", "RQ_")
"""How the names of variables begin that may hold a password or a key: the engine is told what it needs over its pipe."""


def engine_environment(inherited: dict[str, str], *, preload: bool) -> dict[str, str]:
    """The engine's: the worker's without settings, on Linux with what is said above, and where wished a fast BLAS."""
    kept = {name: value for name, value in inherited.items() if not name.upper().startswith(_NOT_THE_ENGINES)}
    environment = (_ON_LINUX if sys.platform.startswith("linux") else {}) | kept
    return with_fast_blas(environment) if preload else environment


def with_fast_blas(inherited: dict[str, str]) -> dict[str, str]:
    """On Linux a fast BLAS put before the one in MLX's wheel, where one is installed; all else as it was."""
    environment = dict(inherited)
    if sys.platform.startswith("linux") and "LD_PRELOAD" not in environment:
        found = [path for pattern in _OPENBLAS for path in sorted(Path("/usr").glob(pattern))]
        if found:
            environment["LD_PRELOAD"] = str(found[0])
    return environment
