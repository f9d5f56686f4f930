"""Runs a command's module with an API that has less patience than it should: ``python -m tests.contract.hasty ...``."""

from __future__ import annotations

import runpy
import sys
from typing import Final

from api import http_worker

SECONDS: Final = 2.0

if __name__ == "__main__":
    http_worker.UNTAKEN_SECONDS = http_worker.BODY_SECONDS = SECONDS  # type: ignore[misc]
    sys.argv = sys.argv[3:]  # the interpreter and its -m
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
