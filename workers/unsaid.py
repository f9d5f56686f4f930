"""What of a process's last words, or of an exception's text, goes into a log: never what may quote a prompt.

Python's exceptions quote what they were about, and libraries panic with what they were given. The engine is given
prompts. So of a line a log has what the table of :mod:`workers.classifier` knows, which kind of exception it names, and
where in the code it was; of all else its length. What is judged is the whole line, which is kept in memory alone.
"""

from __future__ import annotations

import re
from typing import Final

from workers.classifier import TEXTS

_KIND: Final = re.compile(
    r"(?:[A-Za-z_][\w.]{0,80}\.)?[A-Z]\w{0,80}(?:Error|Exception|Interrupt|Exit|Warning|Panic)\b"
)
_FRAME: Final = re.compile(r'\s*File "[^"\n]{1,300}", line \d{1,9}(?:, in [\w.<>]{1,100})?')
_PANIC: Final = re.compile(r"panicked at [\w./+-]{1,200}:\d{1,9}:\d{1,9}")
_SAID_MOST: Final = 120


def loggable(text: str) -> str:
    """The part of one line, or of an exception's type and text, that says nothing of what it was about."""
    found = [each[0] for pattern in (_FRAME, _PANIC) if (each := pattern.search(text))]
    if (kind := _KIND.match(text)) is not None:
        found.append(kind[0])
    known = next((each[0] for row in TEXTS if (each := re.search(row.pattern, text))), "")
    if known and known not in found:
        found.append(known[:_SAID_MOST])
    said = ": ".join(part.strip() for part in found)
    return said or f"({len(text):,} characters, not shown)"
