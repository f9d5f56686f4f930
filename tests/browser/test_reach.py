"""Everybody reaches everything: by keyboard, by screen reader, on a phone, in the dark."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Open
from tests.browser.seen import Seen
from tests.browser.stack import LONG_TOKENS, NEVER_TOKENS, Stack

PHONE: Final[dict[str, Any]] = {
    "viewport": {"width": 320, "height": 640},  # the narrowest that WCAG asks for (1.4.10)
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
MOST_STOPS: Final = 80
FULL_LEGEND: Final = """
    const rows = document.querySelectorAll('.legend > div');
    if (!rows.length) throw Error('no gauge');
    for (const row of rows) {
        row.hidden = false;
        row.lastChild.textContent = '1,023.9 MiB';
    }
"""
"""Every row that a gauge can have, with the longest size."""


def faults(page: Page) -> list[str]:
    """What axe-core finds amiss, one line each, with the elements."""
    page.evaluate(AXE_SCRIPT)
    run = f"() => axe.run({json.dumps({'runOnly': RULES, 'resultTypes': ['violations']})})"
    found = page.evaluate(run)["violations"]
    return [f"{each['id']}: {each['help']}: {[node['target'] for node in each['nodes']]}" for each in found]


def tab_to(page: Page, wanted: Locator, key: str = "Tab") -> int:
    """Press Tab until it has the focus, which is seen wherever it stops; how many stops that were."""
    for stop in range(1, MOST_STOPS):
        page.keyboard.press(key)
        expect(page.locator(":focus")).to_have_count(1)
        assert page.locator(":focus").evaluate(FOCUS_IS_SEEN), page.locator(":focus").evaluate(
            "it => it.outerHTML"
        )
        if wanted.evaluate("it => it === document.activeElement"):
            return stop
    raise AssertionError(f"{MOST_STOPS} stops, and {wanted} was none of them")


FOCUS_IS_SEEN: Final = """it => {
    const style = getComputedStyle(it);
    return (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none';
}"""


def too_wide(page: Page, first: str = "") -> list[str]:
    """What makes the whole page scroll sideways, where it does; after a script that changes it, at once."""
    found = page.evaluate(
        f"""() => {{ {first} """
        """
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            const all = [...document.querySelectorAll('body *')];
            return ['the page', ...all.filter(it => it.getBoundingClientRect().right > width).map(it => it.outerHTML.slice(0, 80))];
        }"""
    )
    return list(found)


def busy(stack: Stack) -> tuple[str, str]:
    """A job that runs and one that waits for its room; their ids."""
    runs = stack.submit("Tell me of the sea " * 40, max_tokens=LONG_TOKENS)
    stack.until(runs, "in_progress")
    return runs, stack.submit(max_tokens=LONG_TOKENS)


def test_a_prompt_is_tried_and_cancelled_by_keyboard_alone(seen: Seen, stack: Stack) -> None:
    """Past the navigation by the skip link, through the form, to the job's page, whose heading comes first there."""
    page = seen.page
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    tab_to(page, seen.form.get_by_label("Prompt"))
    page.keyboard.type("Tell me of the sea")
    tab_to(page, seen.form.get_by_label("Most tokens"))
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type(str(LONG_TOKENS))
    tab_to(page, seen.form.get_by_role("button", name="Send"))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/jobs/"))
    seen.until_output(1)
    expect(page.locator("main:focus, main h1:focus")).to_have_count(1)
    tab_to(page, page.get_by_role("button", name="Cancel", exact=True))
    page.keyboard.press("Enter")
    seen.until_status("cancelled")
    assert stack.job(seen.job_id)["status"] == "cancelled"
    expect(page.locator(":focus")).to_have_count(1)
    tab_to(page, page.get_by_role("link", name="Tide", exact=True), "Shift+Tab")
    page.keyboard.press("Enter")
    seen.until_live()
    expect(page.locator("body")).to_have_attribute("data-view", "tide")


def test_the_history_is_read_by_keyboard(seen: Seen, stack: Stack) -> None:
    """Marks are one stop, between which keys lead, and say what happened; a slider reads the chart, point by point."""
    name = stack.worker.name
    job = stack.submit(max_tokens=8)
    stack.until(job, "incomplete")
    expect(seen.mark_of(name, "admitted", job)).to_have_count(1)
    marks = seen.chart(name).locator("button[data-mark]")
    stop = seen.chart(name).locator('button[data-mark][tabindex="0"]')
    expect(stop).to_have_count(1)
    tab_to(seen.page, stop)
    for key, place in (("Home", marks.first), ("End", marks.last)):
        seen.page.keyboard.press(key)
        expect(place).to_be_focused()
    expect(marks.last).to_have_attribute("aria-label", re.compile(r"\d\d:\d\d.*admitted", re.IGNORECASE))
    readout = seen.chart(name).locator("[data-readout]")
    expect(readout).to_contain_text(re.compile("admitted", re.IGNORECASE))
    slider = seen.chart(name).get_by_role("slider")
    tab_to(seen.page, slider)
    seen.page.keyboard.press("Home")
    first = slider.get_attribute("aria-valuetext")
    assert first
    seen.page.keyboard.press("ArrowRight")
    expect(slider).not_to_have_attribute("aria-valuetext", first)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_audit_finds_nothing_amiss(open_page: Open, stack: Stack, scheme: str) -> None:
    """Names, roles, contrast and order, by axe-core, in the tide with everything in it, and on jobs' pages."""
    seen = open_page(color_scheme=scheme, reduced_motion="reduce")
    seen.until_live()
    assert faults(seen.page) == []
    runs, waits = busy(stack)
    expect(seen.waiting(waits)).to_be_visible()
    expect(seen.row("running", runs)).to_be_visible()
    assert faults(seen.page) == []
    seen.row("running", runs).get_by_role("link").first.click()
    seen.until_output(1)
    assert faults(seen.page) == []
    seen.press("Cancel")
    seen.until_status("cancelled")
    assert faults(seen.page) == []


def test_an_audit_finds_nothing_amiss_where_something_is_wrong(open_page: Open, stack: Stack) -> None:
    """A refusal, and a job that is not there."""
    seen = open_page(reduced_motion="reduce")
    seen.until_live()
    seen.watch.allowed += ["status of 413", "status of 404"]
    seen.fill("Tell me of everything", NEVER_TOKENS)
    seen.send()
    expect(seen.refusal("memory_never_fits")).to_be_visible()
    assert faults(seen.page) == []
    seen.page.goto(f"{stack.url}/jobs/job_0000000000000000000000000a")
    expect(seen.page.locator("[data-problem=not_found]")).to_be_visible()
    assert faults(seen.page) == []


def test_a_screen_reader_has_landmarks_names_and_numbers(seen: Seen, stack: Stack) -> None:
    """One heading of the first order; the gauge says its numbers as a sentence; how it stands is a live region."""
    for role in ("banner", "navigation", "main", "contentinfo"):
        expect(seen.page.get_by_role(role)).to_have_count(1)  # type: ignore[arg-type]
    expect(seen.page.get_by_role("heading", level=1)).to_have_count(1)
    gauge = seen.page.get_by_role("meter", name=re.compile(re.escape(stack.worker.name)))
    expect(gauge).to_have_attribute(
        "aria-valuetext", re.compile(r"of 512\.0 MiB used.*weights.*reserved.*headroom")
    )
    expect(seen.link_words).to_have_attribute("role", "status")
    expect(seen.page).to_have_title(re.compile("tidegate"))
    assert seen.page.locator("html").get_attribute("lang") == "en"


def test_a_phone_shows_everything_without_scrolling_sideways(open_page: Open, stack: Stack) -> None:
    """The tide, busy; a job's page with a long prompt; a refusal; and an audit, which measures what a finger can hit."""
    seen = open_page(**PHONE, reduced_motion="reduce")
    seen.until_live()
    assert too_wide(seen.page) == []
    assert too_wide(seen.page, FULL_LEGEND) == []
    runs, waits = busy(stack)
    expect(seen.waiting(waits)).to_be_visible()
    expect(seen.row("running", runs)).to_be_visible()
    assert too_wide(seen.page) == []
    assert faults(seen.page) == []
    seen.watch.allowed.append("status of 413")
    seen.fill("Tell me of everything", NEVER_TOKENS)
    seen.form.get_by_role("button", name="Send").tap()
    expect(seen.refusal("memory_never_fits")).to_be_visible()
    assert too_wide(seen.page) == []
    seen.row("running", runs).get_by_role("link").first.tap()
    seen.until_output(30)
    assert too_wide(seen.page) == []
    assert faults(seen.page) == []


def brightness(page: Page) -> float:
    """Of what is behind everything, from 0 to 1."""
    colour = page.evaluate(
        """() => {
            const pixel = new OffscreenCanvas(1, 1).getContext('2d');
            for (const at of [document.documentElement, document.body]) {
                pixel.fillStyle = getComputedStyle(at).backgroundColor;
                pixel.fillRect(0, 0, 1, 1);
            }
            return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }"""
    )
    return float(sum(colour)) / 3 / 255


def test_it_is_dark_where_the_system_is_and_where_its_reader_wants_it(open_page: Open) -> None:
    """Until its reader chooses, the system does; what is chosen is kept."""
    dark = open_page(color_scheme="dark")
    dark.until_live()
    assert brightness(dark.page) < 0.25
    light = open_page(color_scheme="light")
    light.until_live()
    assert brightness(light.page) > 0.75
    html, button = light.page.locator("html"), light.page.locator("[data-theme-toggle]")
    expect(html).to_have_attribute("data-theme", "auto")
    while html.get_attribute("data-theme") != "dark":
        button.click()
    assert brightness(light.page) < 0.25
    light.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert brightness(light.page) > 0.75  # on paper
    light.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert brightness(light.page) < 0.25
    light.page.reload()
    light.until_live()
    assert brightness(light.page) < 0.25
    expect(html).to_have_attribute("data-theme", "dark")
