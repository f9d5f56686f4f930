"""Whether llguidance can compile a grammar and begin with it; also a program, which tries the one on its standard input.

As a program it imports nothing of ours, takes a second of the processor at most, and writes what is wrong, if anything.
:mod:`scheduler.grammar_trial` starts it.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

LIMITS: Final = LLParserLimits(max_lexer_states=20_000, max_grammar_size=200_000, verbose_errors=False)
"""A lexer's state is 1 to 2 KiB: a job's grammar takes 40 MiB at the very most, where the library would let it take 500."""

CPU_SECONDS: Final = 1
_BYTES_BEGUN: Final = 3
"""As far as a tokenizer's first token may lead, as ``{"`` does."""

_BLANK: Final = 0x20
_MOST_BYTES: Final = 2 << 30


def fault_of(grammar: str) -> str:
    """What is wrong with a grammar, in llguidance's words; '' where an answer can begin.

    A tokenizer of bytes is enough to tell: of another, only masks take longer.

    Args:
        grammar: in llguidance's JSON.
    """
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=LIMITS)
    for _ in range(_BYTES_BEGUN):
        if matcher.is_error():
            break
        mask = matcher.compute_bitmask()
        may_come = (byte for byte in range(_BLANK + 1, 256) if mask[byte // 8] >> byte % 8 & 1)
        if (byte := next(may_come, None)) is None:
            break
        matcher.consume_token(byte)
    return plain(matcher)


def plain(matcher: LLMatcher) -> str:
    """A matcher's error; '' where it has none."""
    if not matcher.is_error():
        return ""
    said = matcher.get_error().replace("<non-verbose/>", "").strip()
    return (
        "nothing can be written that is of it" if said == "NoExtensionBias" else said or "it cannot be read"
    )


def main() -> None:
    """Try one grammar."""
    for kind, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, _MOST_BYTES)):
        with contextlib.suppress(ValueError, OSError):  # macOS has no bound of the second kind
            resource.setrlimit(kind, (most, most))
    sys.stdout.write(fault_of(sys.stdin.read()))


if __name__ == "__main__":
    main()
