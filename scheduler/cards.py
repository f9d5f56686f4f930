"""The model cards that workers keep for each other: one measurement serves every host alike.

Keys::

    tidegate:cards:{model}                zset; fingerprints by the Unix second when each was last kept
    tidegate:card:{model}:{fingerprint}   string (JSON); a card

Both lapse 30 days after a worker last loaded the model, or learnt more of it.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError

from scheduler.card import ModelCard
from scheduler.stored_json import read_json

KEPT_SECONDS: Final = 30 * 86_400
KEPT_MOST: Final = 16
"""Cards of one model: a device, a version of MLX or a prefill chunk each; the latest stay."""


def index_key(model: str) -> str:
    """Which cards of a model are kept."""
    return f"tidegate:cards:{model}"


def card_key(model: str, fingerprint: str) -> str:
    """A card."""
    return f"tidegate:card:{model}:{fingerprint}"


def keep(connection: Redis, card: ModelCard, now_seconds: float) -> None:
    """Keep a card under its fingerprint, in place of the one before."""
    index = index_key(card.model)
    pipeline = connection.pipeline(transaction=False)
    pipeline.set(card_key(card.model, card.fingerprint), json.dumps(card.to_json()), ex=KEPT_SECONDS)
    pipeline.zadd(index, {card.fingerprint: now_seconds})
    pipeline.zremrangebyrank(index, 0, -KEPT_MOST - 1)
    pipeline.expire(index, KEPT_SECONDS)
    pipeline.execute(raise_on_error=False)  # where others took the key for something else, it stays theirs


def kept(connection: Redis, model: str) -> list[ModelCard]:
    """The kept cards of a model, the latest first; what is no card of this version is left out."""
    try:
        members: Any = connection.zrevrange(index_key(model), 0, KEPT_MOST - 1)
    except ResponseError:
        return []
    keys = [card_key(model, member.decode(errors="replace")) for member in members]
    texts: Any = connection.mget(keys) if keys else []
    found: list[ModelCard] = []
    for text in texts:
        with contextlib.suppress(ValueError):  # whoever writes to the server may have
            fields = read_json(text or b"null")
            found += [ModelCard.from_json(fields)] if isinstance(fields, dict) else []
    return found
