"""Rule 7 after each test: what :mod:`benchmarks.key_leaks` finds."""

from benchmarks.key_leaks import LASTING, leaks

__all__ = ["LASTING", "leaks"]
