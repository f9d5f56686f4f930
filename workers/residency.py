"""Which served models are in the engine's memory: loading on demand, unloading what is idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from huggingface_hub import snapshot_download

from scheduler.card import ModelCard
from scheduler.errors import ClientError, gib
from scheduler.ledger import Ledger
from scheduler.settings import is_missing_folder
from workers.wire import Message

GIVEN_UP_SECONDS: Final = 60.0
"""How long a model that could not be loaded is left alone."""

GIVEN_UP_MOST_SECONDS: Final = 3600.0
"""The same of one that ends its engine each time, which costs the other models' jobs a start: twice as long each time."""

_PROBE: Final = 8
"""A part of its weights that measuring a model is taken to need beside them, where no card tells."""

_WEIGHTS: Final = "model*.safetensors"  # as mlx_lm.utils.load_model reads them

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Residency:
    """One worker's models.

    Args:
        sources: the served names, each with its folder or Hugging Face id.
        send: tells the engine.
        kept_cards: what workers have measured of a model.
    """

    sources: dict[str, str]
    send: Callable[[Message], None]
    loading: str | None = None
    measuring: bool = False
    """Whether the model that is being loaded is in memory, and its steps are being measured."""
    kept_cards: Callable[[str], Sequence[ModelCard]] = lambda _: ()
    clock: Callable[[], float] = time.monotonic
    _given_up: dict[str, tuple[float, ClientError]] = field(default_factory=dict)
    _weights: dict[str, int] = field(default_factory=dict)
    _used: list[str] = field(default_factory=list)
    _suspected: set[str] = field(default_factory=set)
    _ended: dict[str, int] = field(default_factory=dict)
    """How many engines in a row a model ended while it was loaded."""

    @property
    def doing(self) -> str:
        """What the engine is doing with which model: ``loading NAME``, ``measuring NAME``; nothing where neither."""
        if self.loading is None:
            return ""
        return f"{'measuring' if self.measuring else 'loading'} {self.loading}"

    @property
    def served(self) -> tuple[str, ...]:
        """The models that this worker can be asked for."""
        return tuple(name for name in self.sources if self.why_not(name) is None)

    def why_not(self, model: str) -> ClientError | None:
        """Why a model is not served for now; None where it is. A model given up is tried again later."""
        until, error = self._given_up.get(model, (0.0, None))
        return error if self.clock() < until else None

    def reset(self) -> str | None:
        """The engine is gone, and what it held; the model that it was loading."""
        loading, self.loading = self.loading, None
        self._used.clear()
        return loading

    def used(self, model: str) -> None:
        """Note that a job uses a model now."""
        if model in self._used:
            self._used.remove(model)
        self._used.append(model)

    def load(self, model: str, ledger: Ledger) -> bool:
        """Ask for a model, unloading idle ones, least recently used first, where memory asks for it.

        Its weights and what measuring it takes beside them are admitted like a job: they wait for room.

        One whose size nobody knows yet counts as the whole budget: it is loaded when nothing else is held,
        and nothing is admitted until it was measured.

        Returns:
            Whether it is being loaded; False where running jobs leave no room now.
        """
        if self.loading is not None:
            return False
        if is_missing_folder(self.sources[model]):
            refused = ClientError(
                "model_not_found", f"the model {model} cannot be loaded here", param="model"
            )
            self.unloadable(model, f"the folder {self.sources[model]} does not exist", refused=refused)
            return False
        weights = self._weights.get(model) or weights_on_disk(self.sources[model]) or ledger.budget_bytes
        if weights > ledger.budget_bytes:
            self._give_up_too_large(model, weights, ledger)
            return False
        kept = self.kept_cards(model)
        probe = max((card.chunk_bytes[-1][1] for card in kept), default=weights // _PROBE)
        need = min(ledger.budget_bytes, weights + probe)
        if not self.fits(need, ledger) and not self.make_room(model, need, ledger):
            return False
        ledger.expect(model, need)
        self.loading, self.measuring = model, False
        cards = [card.to_json() for card in kept]
        self.send({"kind": "load", "model": model, "source": self.sources[model], "cards": cards})
        return True

    def fits(self, need_bytes: int, ledger: Ledger) -> bool:
        """Whether so much is free."""
        return ledger.weights_bytes + ledger.reserved_bytes + need_bytes <= ledger.budget_bytes

    def make_room(self, model: str, need_bytes: int, ledger: Ledger) -> bool:
        """Unload idle models, least recently used first, where that makes room; False, and nothing done, else.

        Args:
            model: the one that needs the room; it stays.
            need_bytes: beside what is held now.
            ledger: the account.
        """
        idle = [name for name in self._idle(ledger) if name != model]
        given_back = sum(ledger.cards[name].weights_bytes for name in idle)
        if not idle or not self.fits(need_bytes - given_back, ledger):
            return False
        dropped = False
        for name in idle:
            if self.fits(need_bytes, ledger):
                break
            log.info("model unloaded", model=name)
            ledger.drop_model(name)
            self.send({"kind": "unload", "model": name})
            dropped = True
        return dropped

    def loaded(self, card: ModelCard, ledger: Ledger) -> None:
        """A model is in memory: count it, or send it away where it is larger than its files said."""
        self.loading = None
        self._suspected.discard(card.model)
        self._ended.pop(card.model, None)
        ledger.expect_no_more(card.model)
        self._weights[card.model] = card.weights_bytes
        if ledger.weights_bytes + ledger.reserved_bytes + card.weights_bytes <= ledger.budget_bytes:
            ledger.admit_model(card)
            self.used(card.model)
            return
        self.send({"kind": "unload", "model": card.model})
        if card.weights_bytes > ledger.budget_bytes:
            self._give_up_too_large(card.model, card.weights_bytes, ledger)

    def blame(self, model: str, reason: str, *, alone: bool) -> None:
        """The engine died while it loaded a model: give that up; where others may have been to blame, the second time.

        Args:
            model: its name.
            reason: for clients, in our own words.
            alone: whether nothing else can be to blame.
        """
        if alone or model in self._suspected:
            times = self._ended[model] = self._ended.get(model, 0) + 1
            seconds = min(GIVEN_UP_MOST_SECONDS, GIVEN_UP_SECONDS * 2 ** (times - 1))
            self.give_up(model, reason, seconds)
        else:
            self._suspected.add(model)

    def unloadable(
        self, model: str, detail: str, ledger: Ledger | None = None, *, refused: ClientError | None = None
    ) -> None:
        """A model cannot be loaded: the detail, which may name the operator's files, is for the log alone.

        Args:
            model: its name.
            detail: what loading said.
            ledger: where its weights were expected.
            refused: what clients are told where no retry can help.
        """
        if ledger is not None:
            ledger.expect_no_more(model)
        log.error("model cannot be loaded", model=model, reason=detail)
        later = f"the model {model} cannot be loaded here now"
        self._leave_alone(model, refused or ClientError("no_worker", later, retry_after=GIVEN_UP_SECONDS))

    def give_up(self, model: str, reason: str, seconds: float = GIVEN_UP_SECONDS) -> None:
        """Do not serve a model for a while, for a reason that clients may read."""
        self._give_up(model, ClientError("no_worker", reason, retry_after=seconds), seconds)

    def _give_up_too_large(self, model: str, weights_bytes: int, ledger: Ledger) -> None:
        limit_bytes = ledger.budget_bytes
        reason = f"{model} weighs {gib(weights_bytes)}; this worker's budget is {gib(limit_bytes)}"
        numbers = {"estimated_bytes": weights_bytes, "limit_bytes": limit_bytes}
        self._give_up(
            model, ClientError("no_worker", reason, param=None, retry_after=GIVEN_UP_SECONDS, **numbers)
        )

    def _give_up(self, model: str, error: ClientError, seconds: float = GIVEN_UP_SECONDS) -> None:
        log.error("model unusable", model=model, reason=error.message)
        self._leave_alone(model, error, seconds)

    def _leave_alone(self, model: str, error: ClientError, seconds: float = GIVEN_UP_SECONDS) -> None:
        self._suspected.discard(model)
        self._given_up[model] = (self.clock() + seconds, error)
        if self.loading == model:
            self.loading = None

    def _idle(self, ledger: Ledger) -> list[str]:
        order = {name: at for at, name in enumerate(self._used)}
        return sorted(
            (name for name in ledger.cards if not ledger.rows(name)), key=lambda name: order.get(name, -1)
        )


def weights_on_disk(source: str) -> int:
    """Bytes of the weight files that loading will read; 0 where unknown."""
    return sum(path.stat().st_size for path in files_here(source, _WEIGHTS))


def files_here(source: str, pattern: str) -> list[Path]:
    """A model's files of a pattern; none where they are not on this host.

    Args:
        source: a folder, or a Hugging Face id, whose snapshot is looked for in the local cache alone.
        pattern: as in a shell.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, allow_patterns=pattern, local_files_only=True))
        except (OSError, ValueError):  # it is not here, not whole, or no id
            return []
    return list(folder.glob(pattern))
