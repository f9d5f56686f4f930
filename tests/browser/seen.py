"""The page as its reader knows it: by roles, by names and by the attributes that its module promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from playwright.sync_api import Locator, Page, expect

from tests.browser.chromium import PATIENCE_SECONDS
from tests.browser.watch import Watch
from tests.waiting import wait_until

ENDED: Final = ("completed", "incomplete", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Seen:
    """One page in a browser."""

    page: Page
    watch: Watch

    # The whole

    @property
    def body(self) -> Locator:
        """Its body says what is shown, and how it stands with the API."""
        return self.page.locator("body")

    def until_live(self) -> None:
        """Until what the API says is shown."""
        self.until_link("live")

    def until_link(self, *states: str) -> None:
        """Until it stands so with the API."""
        wait_until(
            lambda: self.body.get_attribute("data-link") in states, f"the page {states}", PATIENCE_SECONDS
        )

    @property
    def link_words(self) -> Locator:
        """How it stands with the API, in words that a screen reader says."""
        return self.page.locator("#link")

    @property
    def problem(self) -> Locator:
        """What keeps the whole view from being shown."""
        return self.page.locator("[data-problem]")

    # Workers

    def worker(self, name: str) -> Locator:
        """A worker's part."""
        return self.page.locator(f'article[data-worker="{name}"]')

    def gauge(self, name: str) -> Locator:
        """A worker's tide gauge."""
        return self.worker(name).locator("[data-gauge]")

    def gauge_bytes(self, name: str, what: str) -> int:
        """One of its numbers: used, reserved, weights, cache, headroom, budget, working."""
        return int(self.gauge(name).get_attribute(f"data-{what}-bytes") or 0)

    def chart(self, name: str) -> Locator:
        """A worker's history."""
        return self.page.locator(f'figure[data-chart="{name}"]')

    def marks(self, name: str, kind: str) -> Locator:
        """What happened to it, of one kind, as its list says it."""
        return self.worker(name).locator(f'ol[data-marks] > li[data-kind="{kind}"]')

    def mark_of(self, name: str, kind: str, job_id: str) -> Locator:
        """Those of them that lead to a job."""
        return self.marks(name, kind).filter(has=self.page.locator(f'a[href="/jobs/{job_id}"]'))

    # Jobs

    def lane(self, priority: str) -> Locator:
        """The part of the queue that is of one class."""
        return self.page.locator(f'[data-class="{priority}"]')

    def waiting(self, job_id: str) -> Locator:
        """A waiting job's row."""
        return self.page.locator(f'[data-class] tr[data-job="{job_id}"]')

    def cell(self, job_id: str, name: str) -> str:
        """What stands in a waiting job's row: position, need or eta."""
        return self.waiting(job_id).locator(f'td[data-cell="{name}"]').inner_text()

    def row(self, table: str, job_id: str) -> Locator:
        """A job's row among those running, or ended."""
        return self.page.locator(f'table[data-table="{table}"] tr[data-job="{job_id}"]')

    # The form

    @property
    def form(self) -> Locator:
        """Where a prompt is tried."""
        return self.page.get_by_role("form", name="Try a prompt")

    def fill(self, prompt: str, tokens: int, **choices: str) -> None:
        """Fill the form, by its labels; choices are by the fields' names."""
        self.form.get_by_label("Prompt").fill(prompt)
        self.form.get_by_label("Most tokens").fill(str(tokens))
        for name, value in choices.items():
            self.form.locator(f'select[name="{name}"]').select_option(value)

    def send(self) -> None:
        """Send it."""
        self.form.get_by_role("button", name="Send").click()

    def refusal(self, code: str) -> Locator:
        """Why it was refused, said aloud."""
        return self.page.locator(f'[role=alert][data-refusal="{code}"]')

    # A job's page

    @property
    def job(self) -> Locator:
        """A job's page."""
        return self.page.locator("[data-job-page]")

    @property
    def job_id(self) -> str:
        """Of the job whose page this is."""
        return self.job.get_attribute("data-job-page") or ""

    @property
    def status(self) -> str:
        """The job's."""
        return self.job.get_attribute("data-status") or ""

    def until_status(self, *statuses: str) -> None:
        """Until the job's page says one of these."""
        wait_until(lambda: self.status in statuses, f"the page's job {statuses}", PATIENCE_SECONDS)

    @property
    def output(self) -> str:
        """The answer so far, exactly."""
        return self.page.locator("[data-output]").text_content() or ""

    def until_output(self, letters: int) -> None:
        """Until the answer has so many letters."""
        wait_until(lambda: len(self.output) >= letters, f"{letters} letters", PATIENCE_SECONDS)

    def events(self) -> list[str]:
        """The kinds of what happened to the job, in order."""
        items = self.page.locator("ol[data-timeline] > li[data-event]")
        return [kind or "" for kind in items.evaluate_all("all => all.map(item => item.dataset.event)")]

    def memory_bytes(self, what: str) -> int:
        """A bar's number: estimated, reserved, peak."""
        return int(self.page.locator(f'[data-memory="{what}"]').get_attribute("data-bytes") or 0)

    def error(self, code: str) -> Locator:
        """What went wrong with the job."""
        return self.page.locator(f'[data-error="{code}"]')

    def press(self, action: str) -> None:
        """Press Cancel or Retry."""
        button = self.page.get_by_role("button", name=action, exact=True)
        expect(button).to_be_enabled()
        button.click()
