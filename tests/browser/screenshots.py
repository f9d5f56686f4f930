"""Pictures of the page in every state, taken of a tidegate that runs: `make screenshots` renews those in docs/."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from scheduler.keyring import KeyBook
from tests.browser import chromium
from tests.browser.seen import ENDED, Seen
from tests.browser.stack import BUDGET_BYTES, LONG_TOKENS, NEVER_TOKENS, Stack, a_stack
from tests.browser.watch import Watch
from tests.keys import make_key
from tests.waiting import wait_until

FOLDER: Final = Path(__file__).parents[2] / "docs" / "screenshots"
STATES: Final = (
    "empty",
    "loading",
    "tide",
    "dark",
    "queue",
    "streaming",
    "done",
    "out-of-memory",
    "ran-out",
    "refusal",
    "offline",
    "server-away",
    "unknown-job",
    "key",
    "phone",
)
"""Each is a file there, and is explained in docs/page.md."""

COLOURS: Final = 96
DESKTOP: Final[dict[str, Any]] = {"viewport": {"width": 1180, "height": 760}, "device_scale_factor": 1}
PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 390, "height": 760},
    "device_scale_factor": 1.5,
    "has_touch": True,
    "is_mobile": True,
}
HISTORY_SECONDS: Final = 120.0
"""Of work before the pictures of it, so that the chart shows some."""

PROMPT: Final = "Tell me of the tide, and of the moon that makes it."


@dataclass(frozen=True, slots=True)
class Camera:
    """Takes pictures of a stack in a browser, into a folder."""

    browser: Browser
    stack: Stack
    folder: Path

    @contextmanager
    def looking(self, path: str = "/", **options: Any) -> Iterator[Seen]:
        """The page, in a context of its own."""
        chosen = {"locale": "en-GB", "timezone_id": "UTC", "reduced_motion": "reduce"} | DESKTOP | options
        context = self.browser.new_context(**chosen)
        context.set_default_timeout(chromium.PATIENCE_SECONDS * 1000)
        page = context.new_page()
        page.goto(f"{self.stack.url}{path}")
        yield Seen(page, Watch(context))
        context.close()

    def take(self, state: str, page: Page, part: Locator | None = None) -> None:
        """Keep what is seen, or all of a part, in few colours: a page has no more."""
        shot = part.screenshot() if part is not None else page.screenshot()
        with Image.open(io.BytesIO(shot)) as image:
            small = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
            small.save(self.folder / f"{state}.png", optimize=True)
        click.echo(f"{state}: {(self.folder / f'{state}.png').stat().st_size >> 10} KiB")


def without_a_worker(camera: Camera) -> None:
    """A tidegate that was just started; and what is seen before it has said anything."""
    with camera.looking() as seen:
        seen.until_live()
        expect(seen.page.locator("[data-empty=workers]")).to_be_visible()
        camera.take("empty", seen.page)
    with camera.looking("/docs") as seen:
        asked: list[Route] = []

        def hold(route: Route) -> None:
            asked.append(route)

        seen.page.route("**/v1/tide/stream", hold)  # it is asked for, and not yet answered
        seen.page.goto(camera.stack.url)
        expect(seen.body).to_have_attribute("data-link", "loading")
        camera.take("loading", seen.page)
        for each in asked:
            each.abort()


def make_history(stack: Stack) -> None:
    """Work as it comes: some jobs beside each other, longer and shorter, some cancelled."""
    end = time.monotonic() + HISTORY_SECONDS
    sizes = (3000, 700, 9000, 1500, 400, 5000)
    made = 0
    while time.monotonic() < end:
        listed = stack.http.get(f"{stack.url}/v1/jobs?status=in_progress").json()["data"]
        if len(listed) < 2:
            stack.submit(PROMPT, max_tokens=sizes[made % len(sizes)], metadata={"example": f"{made}"})
            made += 1
        elif made > 3 and made % 4 == 0:
            stack.http.post(f"{stack.url}/v1/jobs/{listed[-1]['id']}/cancel")
        time.sleep(1)
    stack.cancel_all()


def jobs(camera: Camera) -> None:
    """A job that writes, one that has ended, one that ran out of memory."""
    stack = camera.stack
    done = stack.submit(PROMPT, max_tokens=300, temperature=0.7, seed=7)
    stack.until(done, *ENDED)
    if sys.platform == "linux":
        stack.starve(8 << 20)
        dies = stack.submit(PROMPT, max_tokens=4000, max_attempts=1)
        with camera.looking(f"/jobs/{dies}") as seen:
            seen.until_status("failed")
            expect(seen.page.get_by_role("button", name="Retry", exact=True)).to_be_enabled()
            camera.take("out-of-memory", seen.page)
        with camera.looking() as seen:
            seen.until_live()
            name = stack.worker.name
            expect(seen.marks(name, "out_of_memory")).not_to_have_count(0)
            wait_until(lambda: seen.gauge_bytes(name, "weights") > 0, "its next engine", 60)
            wait_until(lambda: seen.gauge_bytes(name, "working") < BUDGET_BYTES, "its caution", 60)
            camera.take("ran-out", seen.page, seen.worker(name))
    with camera.looking(f"/jobs/{done}") as seen:
        seen.until_status(*ENDED)
        seen.until_output(300)
        camera.take("done", seen.page)
    stack.cancel_all()
    writes = stack.submit(PROMPT, max_tokens=LONG_TOKENS)
    with camera.looking(f"/jobs/{writes}") as seen:
        seen.until_output(400)
        camera.take("streaming", seen.page)
    stack.cancel_all()


def tides(camera: Camera) -> None:
    """The tide with jobs that run and wait: by day, by night, on a phone; and a prompt that never fits."""
    stack = camera.stack
    for tokens in (9000, 4000):
        stack.until(stack.submit(PROMPT, max_tokens=tokens, priority="interactive"), "in_progress")
    for priority in ("interactive", "standard", "standard", "batch"):
        stack.submit(PROMPT, max_tokens=LONG_TOKENS, priority=priority)
    tall = {"viewport": {"width": 1180, "height": 1240}}
    with camera.looking(**tall) as seen, camera.looking(color_scheme="dark") as dark:
        for each in (seen, dark):
            each.until_live()
            wait_until(
                lambda each=each: each.gauge_bytes(stack.worker.name, "reserved") > BUDGET_BYTES // 4,
                "a tide",
                60,
            )
            expect(each.lane("standard")).to_have_attribute("data-jobs", "2")
        camera.take("tide", seen.page)
        camera.take("dark", dark.page)
        camera.take("queue", seen.page, seen.page.locator("#queue"))
        seen.fill(PROMPT, NEVER_TOKENS)
        seen.send()
        expect(seen.refusal("memory_never_fits")).to_be_visible()
        camera.take("refusal", seen.page, seen.form)
    with camera.looking(**PHONE) as seen:
        seen.until_live()
        expect(seen.lane("standard")).to_have_attribute("data-jobs", "2")
        camera.take("phone", seen.page)


def shut(camera: Camera) -> None:
    """An API that is away, one whose queue's server is, one that knows no such job, and one that wants a key."""
    stack = camera.stack
    with camera.looking() as seen:
        seen.until_live()
        stack.kill_api()
        seen.until_link("reconnecting")
        wait_until(lambda: re.search(r"\d", seen.page.locator("#age").inner_text()), "its age", 60)
        camera.take("offline", seen.page)
        stack.start_api()
        seen.until_live()
        stack.server.kill()
        try:
            seen.until_link("trouble")
            camera.take("server-away", seen.page)
        finally:
            stack.server.start()
        seen.until_live()
    with camera.looking(f"/jobs/job_{'0' * 26}") as seen:
        expect(seen.page.locator("[data-problem=not_found]")).to_be_visible()
        camera.take("unknown-job", seen.page)
    stack.cancel_all()
    _, key = make_key(stack.site.connection)
    wait_until(lambda: stack.http.get(f"{stack.url}/v1/jobs").status_code == 401, "a shut API", 60)
    with camera.looking() as seen:
        seen.until_link("key")
        camera.take("key", seen.page)
    KeyBook(stack.site.connection).remove(key.owner)
    wait_until(lambda: stack.http.get(f"{stack.url}/v1/jobs").is_success, "an open API", 60)


@click.command()
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, help="Where they go."
)
def main(folder: Path) -> None:
    """Take them all; some minutes."""
    program = chromium.find()
    if program is None:
        raise click.ClickException(chromium.WANTED)
    folder.mkdir(parents=True, exist_ok=True)
    with chromium.running(program) as browser, a_stack(with_worker=False) as stack:
        camera = Camera(browser, stack, folder)
        without_a_worker(camera)
        stack.start_worker()
        make_history(stack)
        tides(camera)
        stack.cancel_all()
        jobs(camera)
        shut(camera)
        stack.cancel_all()


if __name__ == "__main__":
    main()
