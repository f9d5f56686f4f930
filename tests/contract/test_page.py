"""The page's routes: one shell without data, files that are known and kept, and a policy that lets in nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Final

import pytest
from flask.testing import FlaskClient
from redis import Redis

from api.page import FOLDER, POLICY, SHELL, static_files
from scheduler.reasons import REASONS
from tests.keys import make_key

BROWSER: Final = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES: Final = sorted(set(static_files()) - {SHELL})
TYPES: Final = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "txt": "text/plain"}
LINES_MOST: Final = 300


class _Parts(HTMLParser):
    """What a page loads, and what it has that a policy would have to allow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attrs:
            if tag in {"script", "link", "img"} and name in {"src", "href"}:
                self.loads.append(str(value))
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._open in {"script", "style"} and data.strip():
            self.inline.append(self._open)


@pytest.fixture
def closed(client: FlaskClient, connection: Redis) -> FlaskClient:
    """Of an API that asks everybody for a key."""
    make_key(connection)
    return client


def text_of(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


@pytest.mark.parametrize("path", ["/", "/jobs/job_" + "0" * 26, "/jobs/anything"])
def test_a_browser_is_shown_the_same_shell_at_each_address_without_a_key(
    closed: FlaskClient, path: str
) -> None:
    """Nothing in it depends on the job, or tells whether there is one."""
    said = closed.get(path, headers=BROWSER)
    assert (said.status_code, said.mimetype) == (200, "text/html")
    assert said.data == (FOLDER / SHELL).read_bytes()


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "application/json, text/html"])
def test_whoever_does_not_ask_for_html_first_gets_the_index(client: FlaskClient, accept: str | None) -> None:
    """As clients of the API, `curl` and probes do; caches are told what it depends on."""
    said = client.get("/", headers={"Accept": accept} if accept else {})
    assert said.get_json()["name"] == "tidegate"
    assert "Accept" in said.vary
    assert "Accept" in client.get("/", headers=BROWSER).vary


@pytest.mark.parametrize("path", ["/", "/jobs/x", *(f"/page/{name}" for name in FILES)])
def test_every_part_has_the_strict_policy_and_cannot_be_framed(client: FlaskClient, path: str) -> None:
    """Its own files alone, no text made HTML or script, no frame around it."""
    headers = client.get(path, headers=BROWSER).headers
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ):
        assert directive in POLICY.split("; ")
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sent_once_and_then_known_by_its_tag(client: FlaskClient, name: str) -> None:
    """Its type fits its name; whoever has it is told 304 without a body; HEAD says what GET would."""
    path = f"/page/{name}"
    said = client.get(path)
    assert (said.status_code, said.mimetype) == (200, TYPES[name.rpartition(".")[2]])
    assert said.data == (FOLDER / name).read_bytes()
    again = client.get(path, headers={"If-None-Match": said.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["Content-Security-Policy"] == POLICY
    assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
    head = client.head(path)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["ETag"] == said.headers["ETag"]
    assert head.content_length == len(said.data)


@pytest.mark.parametrize(
    "name", ["", "nothing.js", SHELL, "../page.py", "%2e%2e/page.py", "js/../../page.py", "js", "js/"]
)
def test_no_other_file_is_served(client: FlaskClient, name: str) -> None:
    """Names are looked up among those that are known; no path is ever opened for a request."""
    said = client.get(f"/page/{name}")
    assert said.status_code in {404, 308}
    if said.status_code == 404:
        assert said.get_json()["error"]["code"] == "not_found"


def test_the_shell_has_nothing_inline_and_loads_what_is_served() -> None:
    """No script or style that the policy would stop, and no address that leads elsewhere."""
    parts = _Parts(text_of(SHELL))
    assert parts.inline == []
    assert len(parts.loads) > 4
    assert {each.removeprefix("/page/") for each in parts.loads} <= set(FILES)


@pytest.mark.parametrize("name", [each for each in FILES if each.startswith("js/")])
def test_a_script_imports_what_is_served_and_makes_no_html_of_text(name: str) -> None:
    """One room a file, and no way by which a server's text could become markup."""
    script = text_of(name)
    assert script.startswith("/** ")
    assert len(script.splitlines()) < LINES_MOST
    for imported in re.findall(r'^(?:import|export) .*?from "(.+?)";$', script, re.MULTILINE):
        assert f"js/{imported.removeprefix('./')}" in FILES, imported
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "Function(",
    ):
        assert way not in script


def test_every_script_is_used() -> None:
    """From the first on; a file that nothing imports is not part of the page."""
    used, new = set[str](), {"js/main.js"}
    while new:
        used |= new
        found = {f"js/{each}" for name in new for each in re.findall(r'from "\./(.+?)";', text_of(name))}
        new = found - used
    assert used == {each for each in FILES if each.startswith("js/")}


@pytest.mark.parametrize("name", [each for each in FILES if each.startswith("css/")])
def test_a_style_loads_what_is_served(name: str) -> None:
    """No font or picture from elsewhere."""
    for each in re.findall(r"url\([\"']?(.+?)[\"']?\)|@import", text_of(name)):
        assert each.removeprefix("/page/") in FILES, each


def test_what_is_not_ours_comes_with_its_licence_and_its_version() -> None:
    """uPlot, as its authors packed it."""
    assert "MIT" in text_of("vendor/uplot/LICENSE.txt")
    assert "Leon Sorokin" in text_of("vendor/uplot/LICENSE.txt")
    assert re.search(r"uPlot \(v\d+\.\d+\.\d+\)", text_of("vendor/uplot/uPlot.iife.min.js")[:120])


def test_every_reason_to_wait_again_has_words() -> None:
    """The page says them all, in its own voice."""
    script = text_of("js/explain.js")
    listed = script[script.index("const REASONS") : script.index("};")]
    assert re.findall(r"^  (\w+):", listed, re.MULTILINE) == [reason.value for reason in REASONS]
