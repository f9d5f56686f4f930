"""What a page of others, or a prompt of others, cannot do with this one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open
from tests.browser.seen import ENDED, Seen
from tests.browser.stack import Stack

HOSTILE = "<img src=x onerror=\"document.title='stolen'\"><script>document.title='stolen'</script></textarea>"


@contextmanager
def a_page_of_others(html: str, asked: list[str] | None = None) -> Iterator[str]:
    """Its address: another origin than the API's, on this machine too; what was asked for there is noted."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # as it is called
            if asked is not None:
                asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("path", ["/", "/jobs/job_0000000000000000000000000a"])
def test_a_page_of_others_that_frames_it_gets_nothing(open_page: Open, stack: Stack, path: str) -> None:
    """Neither the tide nor a job's page; so nobody is led to press what they do not see."""
    seen = open_page()
    seen.watch.allowed += ["frame-ancestors", "X-Frame-Options", "chrome-error", "favicon.ico"]
    with a_page_of_others(f'<h1>Others</h1><iframe src="{stack.url}{path}"></iframe>') as url:
        seen.page.goto(url)
        expect(seen.page.get_by_role("heading", name="Others")).to_be_visible()
        (framed,) = seen.page.frames[1:]
        framed.wait_for_load_state()
        assert framed.url.startswith("chrome-error:"), framed.url
        assert framed.locator("[data-view]").count() == 0
    assert any("frame" in line.lower() for line in seen.watch.said), seen.watch.said


def test_a_page_of_others_reads_nothing(open_page: Open, stack: Stack) -> None:
    """Not by asking for it, and not by a window that it opened."""
    seen = open_page()
    seen.watch.allowed += [
        "CORS policy",
        "Failed to load resource",
        "favicon.ico",
        "Cross-Origin-Opener-Policy",
    ]
    with a_page_of_others("<h1>Others</h1>") as url:
        seen.page.goto(url)
        asked = "url => fetch(url).then(answer => answer.text(), error => 'refused')"
        for path in ("/v1/tide", "/v1/jobs", "/"):
            assert seen.page.evaluate(asked, stack.url + path) == "refused"
        with seen.page.expect_popup() as opened:
            seen.page.evaluate("url => { window.theirs = window.open(url); }", stack.url)
        expect(opened.value.locator("body")).to_have_attribute("data-link", "live")
        assert (
            seen.page.evaluate(
                "() => { try { return theirs.document ? 'read' : 'shut' } catch { return 'shut' } }"
            )
            == "shut"
        )


def test_what_others_wrote_is_text(seen: Seen, stack: Stack) -> None:
    """A prompt that is HTML is shown letter by letter; nothing of it is made, loaded or run."""
    job = stack.submit(HOSTILE, max_tokens=8, metadata={"<b>name</b>": HOSTILE[:60]})
    seen.page.goto(f"{stack.url}/jobs/{job}")
    seen.until_status(*ENDED)
    expect(seen.page.locator("[data-request]")).to_contain_text(HOSTILE)
    assert seen.page.locator("[data-request] img, [data-request] script, [data-request] b").count() == 0
    assert "stolen" not in seen.page.title()
    assert not any(url.endswith("/x") for url in seen.watch.asked)


def test_the_policy_is_kept_by_the_browser(seen: Seen) -> None:
    """Whatever came into the page, no script or style of its own would be run, and nothing be sent elsewhere."""
    seen.watch.allowed += ["Content Security Policy", "TrustedScript", "This document requires"]
    got: list[str] = []
    with a_page_of_others("", got) as url:
        tried = seen.page.evaluate(
            """async url => {
                window.ran = false;
                const script = document.createElement('script');
                try { script.textContent = 'window.ran = true'; document.body.append(script); } catch { /* refused */ }
                const image = new Image();
                const shown = new Promise(done => { image.onload = image.onerror = event => done(event.type); });
                image.src = url + 'image';
                const sent = fetch(url + 'stolen', {mode: 'no-cors'}).then(() => 'sent', () => 'refused');
                return [window.ran, await shown, await sent];
            }""",
            url,
        )
    assert tried == [False, "error", "refused"]
    assert got == []
    assert any("Content Security Policy" in line for line in seen.watch.said)


def test_the_page_is_whole_and_its_own(seen: Seen, stack: Stack) -> None:
    """Everything that it loaded is of the API's own origin, and is kept by the browser only while it is unchanged."""
    own = [url for url in seen.watch.asked if not url.startswith("data:")]
    assert own
    assert all(url.startswith(f"{stack.url}/") for url in own)
    scripts = [url for url in own if url.endswith((".js", ".css"))]
    assert scripts
    for url in scripts:
        first = httpx.get(url, trust_env=False)
        again = httpx.get(url, headers={"If-None-Match": first.headers["ETag"]}, trust_env=False)
        assert (first.status_code, again.status_code) == (200, 304)
