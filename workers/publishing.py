"""What a worker lets the fleet know of its models: their cards, and the tokenizers to count prompts with."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import structlog
from redis import Redis

from scheduler import cards, tokenizers
from scheduler.card import ModelCard
from scheduler.tokenizers import PLAIN_MOST_BYTES, PUBLISHED_SECONDS, PromptShape
from workers.reporting import store_may_be_away
from workers.residency import files_here
from workers.wire import Message

log = structlog.get_logger(__name__)

_RENEWALS: Final = 6
"""Of what lapses, before it would."""

_TOKENIZER: Final = "tokenizer.json"


class Publishing:
    """One worker's publications; what a failing store interrupts is done at the next time.

    Args:
        connection: the store.
        sources: the served names, each with its folder or Hugging Face id.
        clock: Unix seconds.
    """

    def __init__(self, connection: Redis, sources: dict[str, str], clock: Callable[[], float]) -> None:
        self._connection, self._sources, self._clock = connection, sources, clock
        self._cards: dict[str, ModelCard] = {}
        self._tokenizers: dict[str, tuple[Path, PromptShape]] = {}
        self._due: dict[str, float] = {}

    def kept(self, model: str) -> list[ModelCard]:
        """The cards of a model that workers have kept; none where the store does not answer."""
        with store_may_be_away():
            return cards.kept(self._connection, model)
        return []

    def learnt(self, card: ModelCard) -> None:
        """Take a card; one without a fingerprint is for now."""
        if card.fingerprint:
            self._cards[card.model] = card

    def loaded(self, card: ModelCard, prompts: Message | None) -> None:
        """Take what a load told: the card, and what was measured of prompts, if it could be."""
        self.learnt(card)
        with contextlib.suppress(OSError):  # the folder is gone
            for path in files_here(self._sources[card.model], _TOKENIZER):
                if prompts is not None and path.stat().st_size <= PLAIN_MOST_BYTES:
                    shape = PromptShape(tokenizers.digest_of(path.read_bytes()), **prompts)
                    self._tokenizers[card.model] = path, shape
                    self._due[card.model] = -math.inf

    def send(self, served: Collection[str]) -> None:
        """Publish what is new, and renew what is served."""
        with store_may_be_away():
            for model, card in list(self._cards.items()):
                cards.keep(self._connection, card, self._clock())
                del self._cards[model]
            for model in [name for name in self._tokenizers if name in served]:
                if self._clock() >= self._due[model]:
                    self._publish(model)
                    self._due[model] = self._clock() + PUBLISHED_SECONDS / _RENEWALS

    def _publish(self, model: str) -> None:
        path, shape = self._tokenizers[model]
        try:
            small = tokenizers.publish(self._connection, model, shape, path.read_bytes)
        except OSError as error:  # the folder is gone
            log.warning("tokenizer not published", model=model, error=str(error))
            small = False
        if not small:
            del self._tokenizers[model]
