"""Memory runs out for real, and what every kind of client is told: over HTTP, before the first token and in mid-stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import psutil
import pytest

from benchmarks.address_space import limited
from benchmarks.following import Crowd
from benchmarks.random_models import write_random_llama
from scheduler.card import ModelCard
from scheduler.footprint import alone_bytes, batch_bytes
from scheduler.foresight import Row
from tests.contract.served import serve
from tests.key_leaks import leaks
from tests.running import RunningWorker, Site, a_site

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS"),
    pytest.mark.timeout(300),  # half a dozen engines, one after another
]

MODEL = "huge"
CHUNK = 16
EXACT = ("env", "MALLOC_ARENA_MAX=1", "MALLOC_MMAP_THRESHOLD_=131072")
"""No address space that glibc has put by for later: what an allocation takes counts at once."""

TEMPLATE_TOKENS = 40  # more than the chat template takes
THROWS_HISTORY_AWAY = ("context length", "maximum context", "too long")
"""Words that make agents delete what was said."""

INNOCENT = {"model": MODEL, "prompt": "small", "max_tokens": 230, "temperature": 0}
"""Its cache never grows beyond its first 256 tokens, which are there in any case."""


@dataclass(frozen=True, slots=True)
class Large:
    """A job that outgrows what there is, though not its worker's budget."""

    prompt_tokens: int
    max_tokens: int
    writes: bool
    """Whether it gets as far as a token."""

    @property
    def body(self) -> dict[str, Any]:
        """As a job."""
        return {
            "model": MODEL,
            "prompt": "x" * self.prompt_tokens,
            "max_tokens": self.max_tokens,
            "temperature": 0,
        }

    @property
    def chat(self) -> dict[str, Any]:
        """As a chat completion."""
        fields: dict[str, Any] = {name: value for name, value in self.body.items() if name != "prompt"}
        return fields | {"messages": [{"role": "user", "content": self.body["prompt"]}]}

    @property
    def row(self) -> Row:
        """What it takes at most."""
        return Row(self.prompt_tokens + TEMPLATE_TOKENS, self.max_tokens)


LARGE = {
    "before the first token": Large(1500, 20, writes=False),
    "in mid-stream": Large(150, 850, writes=True),
}


@dataclass(frozen=True, slots=True)
class Place:
    """An API, and what is known of the model before memory is short: bytes, and undisturbed texts by job."""

    site: Site
    url: str
    card: ModelCard
    engine_bytes: int
    """Address space of an engine that is ready."""
    texts: dict[str, str]

    def budget(self, large: Large) -> int:
        """What the operator says that a worker may use: room for a large job and an innocent one."""
        together = batch_bytes(self.card, [large.row, Row(5, 230)], CHUNK, 8)
        return self.card.weights_bytes + int(1.2 * together)

    @contextmanager
    def short_of_memory(self, large: Large) -> Iterator[RunningWorker]:
        """A worker whose engine has half of what the large job's cache takes."""
        takes = alone_bytes(self.card, large.row, CHUNK) - self.card.weights_bytes
        prefix = (*EXACT, *limited(self.engine_bytes + takes // 2))
        with self.site.worker(prefix=prefix, memory_budget=self.budget(large)) as worker:
            yield worker
            assert worker.process.poll() is None
            assert "SIGSEGV" in worker.log


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A model with 16 KiB of cache a token, measured; every job's text where nothing is short."""
    folder = tmp_path_factory.mktemp("out")
    model = write_random_llama(
        folder / MODEL, heads=8, kv_heads=8, head_dim=128, max_position=2048, never_stops=True
    )
    with (
        a_site({MODEL: model}, prefill_chunk=CHUNK) as site,
        serve(site.url, folder, f"{MODEL}={model}") as url,
    ):
        with site.worker(memory_budget=2 << 30):
            """Measures the model: the next one has its card, and its engine has never held more."""
        with site.worker(prefix=EXACT, memory_budget=2 << 30) as free:
            space = psutil.Process(free.engine_pid).memory_info().vms
            report = free.report
            assert report is not None
            card = ModelCard.from_json(report.cards[MODEL])
            jobs = {"innocent": site.submit(**INNOCENT)}
            for name, large in LARGE.items():
                jobs |= {name: site.submit(**large.body), f"{name}, chat": site.submit(**large.chat)}
            texts = {name: site.text(job_id) for name, job_id in jobs.items()}
        yield Place(site, url, card, space, texts)
        assert leaks(site.connection) == []


def assert_ran_out(error: Any, limit_bytes: int) -> None:
    """The one body, wherever it is read: a failure that a retry can cure, with its numbers."""
    assert (error["status"], error["type"]) == (503, "server_error"), error
    assert (error["code"], error["retryable"]) == ("insufficient_memory", True)
    assert 1 <= error["retry_after"] <= 120
    assert 0 < error["estimated_bytes"] <= error["limit_bytes"] == limit_bytes
    assert error["message"].startswith("insufficient memory")
    assert not any(words in error["message"].lower() for words in THROWS_HISTORY_AWAY)


def assert_cut_off(text: str, whole: str, large: Large) -> None:
    """What was sent is how the undisturbed text begins; nothing, where memory ran out before the first token."""
    assert whole.startswith(text)
    assert (0 < len(text) < large.max_tokens) if large.writes else text == ""


@pytest.mark.parametrize("when", LARGE)
def test_streams_pollers_and_waiting_clients_hear_of_it_and_an_innocent_job_does_not(
    place: Place, when: str
) -> None:
    """A stream ends with the error and `[DONE]`; who polls sees it in the job, and as the result's status; who
    waits gets a 503. The job that shared the batch ends as if it had been alone.
    """
    large = LARGE[when]
    body, limit = large.body | {"max_attempts": 1}, place.budget(large)
    with (
        place.short_of_memory(large) as worker,
        httpx.Client(base_url=place.url, timeout=120, trust_env=False) as http,
    ):
        innocent = Crowd(place.url, [INNOCENT])
        innocent.wait_until(lambda story: bool(story.text), every=True)
        following = Crowd(place.url, [body])
        following.wait_until(lambda story: bool(story.sent), every=True)
        polled, url = poll(http, newest(http))
        (story,) = following.stay()
        assert [each.number for each in story.sent] == list(range(1, len(story.sent) + 1))
        assert (story.ending[0], story.done) == ("failed", True)
        assert_cut_off(story.text, place.texts[when], large)
        assert_ran_out(polled["error"], limit)
        assert story.sent[-1].data["error"] == polled["error"]
        assert_is_refused(http.get(f"{url}/result"), polled["error"])

        waited = http.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
        assert_ran_out(waited.json()["error"], limit)
        assert_is_refused(waited, http.get(waited.headers["Location"]).json()["error"])

        (beside,) = innocent.stay()
        assert (beside.text, beside.ending[0]) == (place.texts["innocent"], "incomplete")
        assert [each.number for each in beside.sent] == list(range(1, len(beside.sent) + 1))
        assert len(beside.starts()) > 1, "they never shared a batch"
        assert worker.log.count("engine died") >= 3


def newest(http: httpx.Client) -> str:
    """Where the job is that was submitted last."""
    return f"/v1/jobs/{http.get('/v1/jobs', params={'limit': 1}).json()['data'][0]['id']}"


def poll(http: httpx.Client, url: str) -> tuple[dict[str, Any], str]:
    """Ask for a job again and again until it has ended, and for its result, which is not there before."""
    while True:
        answer = http.get(url, params={"wait": 5})
        job = answer.raise_for_status().json()
        if job["status"] not in {"queued", "in_progress"}:
            assert job["status"] == "failed"
            return job, url
        assert "Retry-After" in answer.headers
        assert job["error"] is None
        assert http.get(f"{url}/result").status_code in {202, 503}


def assert_is_refused(answer: httpx.Response, error: dict[str, Any]) -> None:
    """503, when to come again, and the same body."""
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, str(error["retry_after"]))
    assert answer.json() == {"error": error}


@pytest.mark.parametrize("when", LARGE)
def test_openais_client_raises_what_it_retries(place: Place, when: str) -> None:
    """`InternalServerError` with 503 and `Retry-After`; once text was streamed, an `APIError` with the same body."""
    large = LARGE[when]
    with (
        place.short_of_memory(large),
        openai.OpenAI(base_url=f"{place.url}/v1", api_key="none", max_retries=0, timeout=120) as sdk,
    ):
        with pytest.raises(openai.InternalServerError) as refused:
            sdk.chat.completions.create(**large.chat)
        assert refused.value.status_code == 503
        assert_ran_out(refused.value.body, place.budget(large))
        assert refused.value.response.headers["Retry-After"] == str(refused.value.body["retry_after"])

        said: list[str] = []
        with pytest.raises(openai.APIError) as broken:
            said.extend(
                chunk.choices[0].delta.content or ""
                for chunk in sdk.chat.completions.create(**large.chat, stream=True)
            )
        assert_ran_out(broken.value.body, place.budget(large))
        assert_cut_off("".join(said), place.texts[f"{when}, chat"], large)
