"""What is strange: answers that nobody expects, streams that are cut, others that answer in the API's stead."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
from playwright.sync_api import Route, expect

from tests.browser.chromium import PATIENCE_SECONDS
from tests.browser.seen import Seen
from tests.browser.stack import Stack
from tests.browser.watch import NOT_LOADED
from tests.waiting import wait_until

JOB: Final = "job_0000000000000000000000000z"
BASE: Final[dict[str, Any]] = {
    "id": JOB,
    "model": "m",
    "priority": "standard",
    "status": "completed",
    "attempt": 1,
    "created_at": 1_790_000_000.0,
    "started_at": 1_790_000_001.0,
    "completed_at": 1_790_000_003.0,
    "queue": None,
    "memory": {"estimated_bytes": 1 << 30, "reserved_bytes": 0, "peak_bytes": 1 << 20},
    "progress": {"prompt_tokens": 3, "completion_tokens": 7, "tokens_per_second": 3.5},
    "error": None,
    "result": None,
}
STREAM: Final = "text/event-stream"


def an_event(number: int, kind: str, data: object) -> str:
    """As the API writes one."""
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def tell(seen: Seen, log: str, **fields: Any) -> None:
    """Open the page of a job of whom the API says this, and that log."""
    page = seen.page
    page.route(re.compile(rf"/v1/jobs/{JOB}(\?.*)?$"), lambda route: route.fulfill(json=BASE | fields))
    page.route(
        f"**/v1/jobs/{JOB}/stream",
        lambda route: route.fulfill(body=f"{log}data: [DONE]\n\n", content_type=STREAM),
    )
    page.goto(f"{page.url.partition('/jobs')[0].rstrip('/')}/jobs/{JOB}")
    seen.until_status(BASE["status"] if "status" not in fields else fields["status"])


@pytest.mark.parametrize(
    "text",
    [
        "<b onclick=alert(1)>bold</b> &amp; </pre><script>document.title='stolen'</script>",
        "👩‍👩‍👧‍👦 🇳🇴 e\u0301 \u200b\u200d\u2028 end",
        "long " * 40_000,
    ],
    ids=["html", "unseen", "200 kB"],
)
def test_an_answer_is_shown_letter_for_letter(seen: Seen, text: str) -> None:
    """However it is cut into pieces; none of it becomes an element."""
    half = len(text) // 2
    log = an_event(1, "delta", {"text": text[:half]}) + an_event(2, "delta", {"text": text[half:]})
    tell(seen, log, result={"text": text})
    wait_until(lambda: seen.output == text, "the answer", PATIENCE_SECONDS)
    assert seen.page.locator("[data-output] *").count() == 0
    assert "stolen" not in seen.page.title()


def test_a_log_that_lacks_its_beginning_is_made_whole_by_the_result(seen: Seen) -> None:
    """What was written before is in the job's result."""
    tell(
        seen,
        an_event(7, "delta", {"text": "the end", "reasoning": "so"}),
        result={"text": "From there to the end", "reasoning": "And so"},
    )
    wait_until(lambda: seen.output == "From there to the end", "the whole answer", PATIENCE_SECONDS)
    expect(seen.page.locator("[data-reasoning]")).to_have_text("And so")


def test_calls_of_tools_are_an_answer_too(seen: Seen) -> None:
    """It is not said of them that nothing was written; as JSON they can be read by keyboard."""
    call = {"id": "1", "function": {"name": "moon", "arguments": "{}"}}
    tell(seen, "", result={"text": "", "tool_calls": [call]})
    expect(seen.page.locator("[data-calls]")).to_contain_text("moon")
    expect(seen.page.locator("[data-output]")).to_be_hidden()
    expect(seen.page.get_by_role("region", name="Calls of tools")).to_have_attribute("tabindex", "0")


def test_what_is_written_from_right_to_left_begins_at_the_right(seen: Seen) -> None:
    """Each paragraph for itself."""
    tell(seen, "", result={"text": "Hello\nשלום"})
    wait_until(lambda: "Hello" in seen.output, "the answer", PATIENCE_SECONDS)
    left, right = seen.page.locator("[data-output]").evaluate(
        """node => {
            const text = node.firstChild, box = node.getBoundingClientRect(), range = document.createRange();
            return [[0, 5], [6, 10]].map(([from, to]) => {
                range.setStart(text, from);
                range.setEnd(text, to);
                return range.getBoundingClientRect().left - box.left < box.width / 2;
            });
        }"""
    )
    assert (left, right) == (True, False)


def test_a_job_that_never_ran_has_no_numbers_made_up(seen: Seen) -> None:
    """Neither tokens nor seconds nor a dash in their place."""
    none = {"estimated_bytes": 1 << 30, "reserved_bytes": 0, "peak_bytes": None}
    tell(seen, "", status="cancelled", started_at=None, progress=None, memory=none)
    expect(seen.page.locator(".answer .facts")).to_have_text("cancelled")


def test_a_look_that_comes_late_does_not_take_the_end_back(seen: Seen) -> None:
    """What was asked before the end, and answered behind it, is of yesterday."""
    page, asked = seen.page, list[Route]()
    runs = BASE | {"status": "in_progress", "completed_at": None}

    def look(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.fulfill(json=runs)

    log = an_event(1, "started", {"attempt": 1, "worker": "w"}) + an_event(2, "completed", BASE)
    page.route(re.compile(rf"/v1/jobs/{JOB}(\?.*)?$"), look)
    page.route(
        f"**/v1/jobs/{JOB}/stream",
        lambda route: route.fulfill(body=f"{log}data: [DONE]\n\n", content_type=STREAM),
    )
    page.goto(f"{page.url.rstrip('/')}/jobs/{JOB}")
    seen.until_status("completed")
    assert len(asked) == 2
    with page.expect_event("requestfinished"):
        asked[1].fulfill(json=runs)
    page.wait_for_timeout(200)  # for nothing to happen
    assert seen.status == "completed"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "text/html"), (503, "text/html"), (200, "text/html"), (403, "application/json")],
)
def test_a_proxy_that_answers_in_the_apis_stead_is_outlived(seen: Seen, status: int, kind: str) -> None:
    """Its page is no word of the API's: the page asks again, ever more seldom, until the API is there."""
    seen.watch.allowed.append(NOT_LOADED)
    answered: list[float] = []

    def proxy(route: Route) -> None:
        answered.append(0)
        route.fulfill(status=status, body='{"error": "<h1>Bad gateway</h1>"}', content_type=kind)

    seen.page.route("**/v1/tide/stream", proxy)
    seen.page.reload()
    wait_until(lambda: seen.body.is_visible() and len(answered) > 2, "it asks again", PATIENCE_SECONDS)
    seen.until_link("reconnecting")
    assert seen.problem.count() == 0
    seen.page.unroute("**/v1/tide/stream")
    seen.until_live()


def test_streams_that_end_without_a_word_are_asked_for_ever_more_seldom(seen: Seen) -> None:
    """A server that closes at once is not hammered."""
    page = seen.page
    page.clock.install()
    count: list[float] = []

    def nothing(route: Route) -> None:
        count.append(0)
        route.fulfill(body="retry: 1\n\n", content_type=STREAM)

    page.route("**/v1/tide/stream", nothing)
    page.reload()
    for _ in range(60):
        page.clock.run_for(500)
        page.wait_for_timeout(10)
    assert 3 <= len(count) <= 12  # half a second apart there would be sixty


def test_a_stream_may_be_cut_anywhere(seen: Seen) -> None:
    """Within a letter, a line's end or an event: what is whole is told once, what is not is left."""
    text = ': hi\r\nid: 1\r\nevent: delta\r\ndata: {"text":\r\ndata: "moon 🌙"}\r\n\r\nid: 2\ndata: é\n\nid: 3\ndata: cut'
    told = seen.page.evaluate(
        """async text => {
            const { readEvents } = await import('/page/js/sse.js');
            const bytes = new TextEncoder().encode(text), told = [];
            for (const size of [1, 2, 3, 5, 1000]) {
                const pieces = new ReadableStream({ start(to) {
                    for (let at = 0; at < bytes.length; at += size) to.enqueue(bytes.slice(at, at + size));
                    to.close();
                } });
                const events = [];
                await readEvents(new Response(pieces), event => { events.push(event); });
                told.push(events);
            }
            return told;
        }""",
        text,
    )
    whole = [
        {"id": "1", "kind": "delta", "data": '{"text":\n"moon 🌙"}'},
        {"id": "2", "kind": "message", "data": "é"},
    ]
    assert told == [whole] * 5


@pytest.mark.parametrize("first_seconds", [0.2, 0.25, 0.2504])
def test_a_first_token_comes_before_the_end(seen: Seen, first_seconds: float) -> None:
    """Also where the whole answer came at once, and the token's time is rounded up to behind the end."""
    told = seen.page.evaluate(
        """async first => {
            const { Story } = await import('/page/js/story.js');
            const story = new Story();
            const ended = { created_at: 100, completed_at: 100.25, progress: { first_token_seconds: first } };
            story.take({ id: "1", kind: "queued", data: { at: 100 } });
            story.take({ id: "2", kind: "started", data: { at: 100.1, attempt: 1 } });
            story.take({ id: "3", kind: "completed", data: ended });
            return story.steps(ended).map(({ kind, at }) => [kind, at]);
        }""",
        first_seconds,
    )
    assert [kind for kind, _ in told] == ["queued", "started", "first_token", "completed"]
    assert [at for _, at in told] == sorted(at for _, at in told)


def test_a_prompt_that_is_sent_again_makes_one_job(seen: Seen, stack: Stack) -> None:
    """Its answer was lost, which is not told to be nothing: the second time leads to what the first one made."""
    seen.watch.allowed.append(NOT_LOADED)
    made: list[str] = []

    def lose(route: Route) -> None:
        if route.request.method == "POST" and not made:
            made.append(route.fetch().json()["id"])
            route.abort("connectionreset")
        else:
            route.continue_()

    seen.page.route("**/v1/jobs", lose)
    seen.fill("Tell me of the sea", 8)
    seen.send()
    expect(seen.refusal("away")).to_contain_text("not known")
    seen.send()
    wait_until(lambda: seen.job.count() > 0, "its page", PATIENCE_SECONDS)
    assert [seen.job_id] == made
    stack.until(made[0], "incomplete")


def test_who_presses_twice_means_it_once(seen: Seen, stack: Stack) -> None:
    """Cancel, in whose place Retry comes, makes no other job; Retry makes one."""
    job = stack.submit(max_tokens=10_000)
    seen.page.goto(f"{stack.url}/jobs/{job}")
    seen.until_output(1)
    seen.page.get_by_role("button", name="Cancel", exact=True).click()
    seen.until_status("cancelled")
    retry = seen.page.get_by_role("button", name="Retry", exact=True)
    retry.click(force=True)
    assert not any(url.endswith("/retry") for url in seen.watch.asked)
    expect(retry).to_be_enabled()
    retry.dblclick()
    wait_until(lambda: seen.job_id not in {"", job}, "another job", PATIENCE_SECONDS)
    assert len([url for url in seen.watch.asked if url.endswith("/retry")]) == 1


def test_a_link_to_the_form_leads_there(seen: Seen, stack: Stack) -> None:
    """On a phone it is far down."""
    seen.page.set_viewport_size({"width": 360, "height": 500})
    seen.page.goto("about:blank")
    seen.page.goto(f"{stack.url}/#try")
    seen.until_live()
    expect(seen.page.locator("#try")).to_be_in_viewport()


def test_a_job_that_was_not_begun_is_not_said_to_have_run_out(seen: Seen) -> None:
    """It would rather fail than wait, and another had the room first: what was free, and what it needs beside weights."""
    error = {
        "code": "insufficient_memory",
        "status": 503,
        "message": "insufficient memory now: the job needs 0.05 GiB, 5 GiB are free, and it had not started within 2 s",
        "estimated_bytes": 50 << 20,
        "limit_bytes": 5 << 30,
        "retry_after": 65,
    }
    tell(seen, "", status="failed", started_at=None, attempt=0, progress=None, error=error)
    shown = seen.error("insufficient_memory")
    expect(shown).to_contain_text("No room for it now")
    expect(shown).to_contain_text(re.compile(r"beside the weights\s*50\.0 MiB.*free now\s*5\.0 GiB"))
    expect(shown).not_to_contain_text(re.compile("ran out|smaller budget"))
