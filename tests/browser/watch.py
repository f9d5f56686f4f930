"""What a page did behind its reader's back: its console, its exceptions, its requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, WebError

NOT_LOADED: Final = "Failed to load resource"
"""How the console begins that an answer was an error, or that none came."""

_TROUBLE: Final = {"error", "warning", "assert"}
_OWN: Final = {"data", "blob", "about", "chrome-error"}


@dataclass
class Watch:
    """Everything in one context, from its beginning.

    Args:
        allowed: how lines of the console may begin, or what they may have in them, where a test means them to come.
    """

    context: BrowserContext
    allowed: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.on("console", self._on_console)
        self.context.on("weberror", self._on_error)
        self.context.on("request", self._on_request)

    def prove(self) -> None:
        """Nothing of what a test did not mean was said (what a policy refused is said so), raised or asked elsewhere."""
        assert [line for line in self.said if not any(words in line for words in self.allowed)] == []
        assert self.raised == []
        assert [url for url in self.asked if not stays_here(url)] == []

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in _TROUBLE:
            self.said.append(f"{message.text} ({message.location['url']})")

    def _on_error(self, error: WebError) -> None:
        self.raised.append(str(error.error))

    def _on_request(self, request: Request) -> None:
        self.asked.append(request.url)


def stays_here(url: str) -> bool:
    """Whether a request for it stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in _OWN or parts.hostname in {"127.0.0.1", "localhost"}


def last_seen(page: Page) -> str:
    """What a reader of the page would see now, for whoever looks into a failure."""
    return f"{page.url}\n{page.locator('body').aria_snapshot(timeout=2000)}"
