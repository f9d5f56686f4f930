"""What an engine last said of its memory, and of what it does: kept beside it, since it may die at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scheduler.errors import gib
from workers.wire import Message

_PHASES: Final = {
    "ready": "idle",
    "loading": "load",
    "measuring": "measure",
    "loaded": "idle",
    "load_failed": "idle",
    "account": "prefill",
    "step": "decode",
}
"""What an engine is at after each kind of message, where that does not say it itself."""


@dataclass(slots=True)
class Account:
    """What the engine last said of its memory, in bytes, and of what it does."""

    budget_bytes: int = 0
    active_bytes: int = 0
    cache_bytes: int = 0
    prefix_cache_bytes: int = 0
    """Of the cache, what is kept for jobs that begin alike."""
    need_bytes: int = 0
    cpu: bool = True
    loading: bool = False
    """Whether it loads a model, and does nothing else until that ends."""
    phase: str = "start"
    """What it was at: start, idle, load, measure, prefill or decode."""

    @property
    def words(self) -> str:
        """For the log: what tells a segmentation fault of memory from a bug."""
        if not self.budget_bytes:
            return "it had not said yet what it needs"
        return f"need {gib(self.most_bytes)}, limit {gib(self.budget_bytes)}, phase {self.phase}"

    @property
    def most_bytes(self) -> int:
        """What it used, or was about to."""
        return max(self.active_bytes, self.need_bytes)

    def note(self, message: Message) -> None:
        """Take what an engine said."""
        kind = message["kind"]
        prefills = kind == "step" and message.get("computed")
        self.phase = message.get("phase", "prefill" if prefills else _PHASES.get(kind, self.phase))
        if kind == "ready":
            self.cpu = message["device"].startswith("cpu")
        elif kind in {"loading", "load_failed", "loaded"}:
            self.loading = kind == "loading"
        elif kind == "account":
            self.need_bytes = message["need_bytes"]
        if "budget_bytes" in message:  # read anew now and then
            self.budget_bytes = message["budget_bytes"]
        if "memory" in message:
            self.active_bytes = message["memory"]["active_bytes"]
            self.cache_bytes = message["memory"]["cache_bytes"]
            self.prefix_cache_bytes = message["memory"].get("prefix_cache_bytes", 0)
            self.need_bytes = 0
