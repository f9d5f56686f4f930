"""What importing the API brings with it, and takes."""

from __future__ import annotations

import json
import subprocess
import sys

IMPORT = """
import json, sys, time
began = time.process_time()
import api.app
print(json.dumps([time.process_time() - began, sorted(sys.modules)]))
"""
HEAVY = {"mlx", "mlx_lm", "transformers", "numpy", "torch", "huggingface_hub", "workers", "matplotlib"}
MOST_CPU_SECONDS = 3.0
"""It takes 0.7 to 0.8 on an idle core of 2024; what this would find is a library that takes seconds itself."""


def test_the_api_imports_nothing_heavy() -> None:
    """Neither MLX nor what models bring, which take seconds and hundreds of megabytes; it is up within a second."""
    command = (sys.executable, "-c", IMPORT)
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(2)]
    assert HEAVY & {name.partition(".")[0] for name in runs[0][1]} == set()
    assert min(seconds for seconds, _ in runs) < MOST_CPU_SECONDS
