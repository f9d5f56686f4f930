"""The browser of the tests: Debian's Chromium or a Chrome, found on the PATH or where a Mac has it, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ON_A_MAC: Final = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
WANTED: Final = (
    "the page is tested in a browser, and there is none: install Chromium (Debian: `apt-get install chromium`) or"
    f" Chrome, so that one of {', '.join(NAMES)} is on the PATH"
)
PATIENCE_SECONDS: Final = 60.0
"""For what must come in the end, on the slowest of machines."""

NOWHERE: Final = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
"""No name leads out of this machine, whoever asks for it: the page, or the browser for itself."""


def find(path: str | None = None, on_a_mac: Path = ON_A_MAC) -> str | None:
    """The program; None where there is none.

    Args:
        path: folders to look in, as `PATH` has them; the environment's where None.
        on_a_mac: where it is when it is on no `PATH`.
    """
    found = next(filter(None, (shutil.which(name, path=path) for name in NAMES)), None)
    return found or (os.fspath(on_a_mac) if on_a_mac.exists() else None)


def do_without(environment: Mapping[str, str]) -> NoReturn:
    """There is no browser: where a machine checks, that is a failure; elsewhere the tests are skipped."""
    if environment.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(WANTED, pytrace=False)
    pytest.skip(WANTED)


@contextmanager
def running(program: str) -> Iterator[Browser]:
    """The browser, until the block ends; what is expected of its pages is waited for."""
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox is for others than root
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_SECONDS * 1000)
        browser = playwright.chromium.launch(
            executable_path=program, args=[NOWHERE, *(["--no-sandbox"] if as_root else [])]
        )
        try:
            yield browser
        finally:
            browser.close()
