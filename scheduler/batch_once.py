"""A batch that is asked for twice, by a key or by OpenAI's client, which counts its tries: it is made once.

Keys, beside those of :mod:`scheduler.once`, of which the first is the same for batches and jobs::

    tidegate:once:{digest}           string; ``body batch``, the body's digest and the batch; lapses after a day
    tidegate:batches:tries:{digest}  string; the batch that was made of that body last; lapses after two minutes
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from redis import Redis

from scheduler.batch import Batch
from scheduler.once import KEY_SECONDS, RETRY_SECONDS, Once, mismatch
from scheduler.swap import Guard, Swap

_NAMED: Final = re.compile("([0-9a-f]{32}) ((?:job|batch)_[0-9a-z]{26})")


def made_before(
    connection: Redis, once: Once | None, batch_id: str, find: Callable[[str], Batch | None]
) -> Batch | Swap:
    """The batch that an earlier request made, else what goes with the swap that makes one now.

    Args:
        connection: a client that answers bytes.
        once: what tells the request from others; None where nothing does.
        batch_id: the batch that is to be made.
        find: a batch by its id.

    Raises:
        ClientError: ``idempotency_mismatch``.
    """
    if once is None:
        return Swap()
    record = once.record if once.retry is None else f"tidegate:batches:tries:{once.name}"
    stored: Any = connection.get(record)
    seen = (stored or b"").decode(errors="replace")
    if once.retry is not None:
        found = find(seen) if once.retry else None
        return found or Swap((), (("SET", record, batch_id, "EX", RETRY_SECONDS),))
    said = _NAMED.fullmatch(seen)
    if said is not None and said[1] != once.body:
        raise mismatch()
    found = find(said[2]) if said is not None else None
    remember = ("SET", record, f"{once.body} {batch_id}", "EX", KEY_SECONDS)
    return found or Swap((Guard(("GET", record), stored or b""),), (remember,))
