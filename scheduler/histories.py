"""The lengths of every model's last completions, shared by all workers of one server.

Keys::

    tidegate:completions:{model}   list; ``tokens`` or, where ``max_tokens`` cut the answer, ``tokens+``; latest first

Each holds at most :data:`~scheduler.completions.KEPT` entries and lapses 30 days after the last one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from scheduler.completions import KEPT, Answers, Completion
from scheduler.reserving import NO_ANSWERS
from scheduler.swap import Guard, Swap

KEPT_SECONDS: Final = 30 * 86_400

_FRESH_SECONDS: Final = 5.0
_ENTRY: Final = re.compile(rb"(\d{1,9})(\+?)")


def completions_key(model: str) -> str:
    """A model's list."""
    return f"tidegate:completions:{model}"


def completion_swap(model: str, completion: Completion, held: Sequence[Guard]) -> Swap:
    """A job ended with so long an answer; a swap of its own, as the list may be a key to which others gave another type.

    Args:
        model: the job's.
        completion: its answer.
        held: that the attempt holds its job: so the swap has to come before the one that ends it, and counts once.
    """
    key = completions_key(model)
    return Swap(
        guards=(*held, Guard(("LLEN", key), KEPT, "<=")),
        commands=(
            ("LPUSH", key, f"{completion.tokens}{'+' if completion.cut else ''}"),
            ("LTRIM", key, 0, KEPT - 1),
            ("EXPIRE", key, KEPT_SECONDS),
        ),
    )


class Histories:
    """Reads them; each at most every few seconds.

    Args:
        connection: a client that answers bytes.
        clock: seconds.
    """

    def __init__(self, connection: Redis, clock: Callable[[], float]) -> None:
        self._connection, self._clock = connection, clock
        self._known: dict[str, tuple[float, Answers]] = {}

    def answers(self, model: str) -> Answers:
        """A model's completions; those known last where the store does not answer."""
        now = self._clock()
        read_at, known = self._known.get(model, (None, NO_ANSWERS))
        if read_at is not None and 0 <= now - read_at < _FRESH_SECONDS:
            return known
        try:
            entries: Any = self._connection.lrange(completions_key(model), 0, KEPT - 1)
            found = (_ENTRY.fullmatch(entry) for entry in entries)
            lengths = tuple(Completion(int(each[1]), bool(each[2])) for each in found if each)
            known = known if lengths == known.completions else Answers(lengths)
        except RedisError:  # it is away, or others took the key for something else
            pass
        self._known[model] = (now, known)
        return known
