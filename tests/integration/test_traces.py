"""A job's trace as a collector has it: from a real API and real workers, one of which is killed."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.collector import Collector, Received, collector
from tests.contract.served import serve
from tests.running import Site, a_site
from tests.waiting import wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASKED = {"model": "tiny", "prompt": "tell nobody of the heron", "temperature": 0}
TOKENS = 3000
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
JITTER_SECONDS = 0.005
"""Processes of one host read one clock; what is between two readings of it may be rounded."""


@dataclass
class Traced:
    """What two jobs came to."""

    collector: Collector
    heron: list[Received]
    plain: list[Received]
    log: str


@pytest.fixture(scope="module")
def traced(tiny_model: Path, cards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A job whose client has a trace, whose API ends before it runs, and whose worker is killed; then one by a
    plain RQ worker, which runs it in a forked horse.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        collector() as made,
        a_site(
            {"tiny": tiny_model}, cards=cards, traces_endpoint=made.url, lease_seconds=2, memory_budget="1GiB"
        ) as site,
    ):
        for name, value in SOON.items():
            patch.setenv(name, value)
        job_id = submit(site, made, tmp_path_factory.mktemp("api"), TOKENS)
        with site.worker() as first:
            site.until_tokens([job_id], 20)
            wait_until(lambda: made.named("queue"), "its first stay told", 30)
            first.process.kill()
            first.process.wait()
        with site.worker() as second:
            site.ended(job_id)
            wait_until(lambda: len(made.named("attempt")) == 2, "both attempts told", 30)
            second.process.send_signal(signal.SIGTERM)
            assert second.exit_code() == 0
            log = second.log
        other = submit(site, made, tmp_path_factory.mktemp("api"), 5, header=None)
        kind = ("--serializer", "json", "--job-class", "workers.GenerationJob")
        with site.worker("--burst", kind=kind, wait=False) as plain:
            assert plain.exit_code(60) == 0, plain.log
        yield Traced(made, of_job(made, job_id), of_job(made, other), log)


def submit(
    site: Site, made: Collector, folder: Path, tokens: int, header: str | None = f"00-{TRACE}-{PARENT}-01"
) -> str:
    """A job from a client of an API that ends right after, its last spans sent."""
    settings = {"TIDEGATE_TRACES_ENDPOINT": made.url}
    with serve(site.url, folder, f"tiny={site.models['tiny']}", more=settings) as url:
        headers = {} if header is None else {"traceparent": header}
        said = httpx.post(
            f"{url}/v1/jobs", json=ASKED | {"max_tokens": tokens}, headers=headers, trust_env=False
        )
        assert said.status_code == 202, said.text
        bad = {"traceparent": f"00-{TRACE}-{PARENT}-01, 00-{TRACE}-{PARENT}-01"}
        assert httpx.get(f"{url}/v1/jobs", headers=bad, trust_env=False).is_success
    return str(said.json()["id"])


def of_job(made: Collector, job_id: str) -> list[Received]:
    """The spans of a job's trace."""
    (trace_id,) = {span.trace_id for span in made.spans if span.attributes.get("tidegate.job.id") == job_id}
    return [span for span in made.spans if span.trace_id == trace_id]


def test_a_job_has_one_trace_whoever_runs_it(traced: Traced) -> None:
    """Its client's: the submission's span under the client's, the stays in the queue and on workers under that,
    in order and without a gap; of the killed worker's attempt the one that took over tells.
    """
    (server,) = [span for span in traced.heron if span.name == "POST /v1/jobs"]
    assert (server.trace_id, server.parent_id, server.service) == (TRACE, PARENT, "tidegate-api")
    stays = [span for span in traced.heron if span.parent_id == server.span_id]
    assert [stay.name for stay in stays] == ["queue", "attempt", "queue", "attempt"]
    assert {stay.service for stay in stays} == {"tidegate-worker"}
    for before, after in itertools.pairwise(stays):
        assert after.began_at == pytest.approx(before.ended_at, abs=JITTER_SECONDS)
    killed, last = stays[1], stays[3]
    assert killed.failed and killed.attributes["tidegate.requeue.reason"] == "worker_lost"
    assert killed.attributes["tidegate.worker"] != last.attributes["tidegate.worker"]
    assert (killed.attributes["tidegate.attempt"], last.attributes["tidegate.attempt"]) == (1, 2)
    assert not last.failed
    assert len(traced.heron) == 7  # these, and two within the last


def test_an_attempt_has_its_prompt_and_its_answer_within(traced: Traced) -> None:
    """From the grant to the first token, and from there to the last; with the tokens that the job has."""
    last = traced.heron[[span.name for span in traced.heron].index("prefill") - 1]
    prefill, decode = (span for span in traced.heron if span.parent_id == last.span_id)
    assert (last.name, prefill.name, decode.name) == ("attempt", "prefill", "decode")
    assert last.began_at <= prefill.began_at <= prefill.ended_at == decode.began_at
    assert decode.began_at < decode.ended_at <= last.ended_at
    said = last.attributes
    assert said["tidegate.job.status"] == "incomplete"
    assert said["gen_ai.request.model"] == "tiny"
    assert said["gen_ai.usage.output_tokens"] == TOKENS
    assert said["gen_ai.response.finish_reasons"] == ["length"]
    assert said["tidegate.resumed_tokens"] >= 20
    assert decode.attributes["tidegate.tokens"] == TOKENS - said["tidegate.resumed_tokens"]
    assert decode.attributes["tidegate.tokens_per_second"] > 0
    assert 0 < said["tidegate.memory.peak_bytes"] < said["tidegate.memory.budget_bytes"]


def test_a_plain_workers_horse_sends_its_spans_before_it_ends(traced: Traced) -> None:
    """Without a header a trace of its own begins with the submission."""
    server = next(span for span in traced.plain if span.name == "POST /v1/jobs")
    assert server.parent_id == ""
    names = [span.name for span in traced.plain]
    assert names == ["POST /v1/jobs", "queue", "attempt", "prefill", "decode"]


def test_no_prompt_and_no_answer_leaves_with_a_trace(traced: Traced) -> None:
    """Nor does a complaint stand in a log; and other requests have no span."""
    assert not any(b"heron" in body for body in traced.collector.bodies)
    assert traced.collector.paths == {"/v1/traces"}
    assert "traces are not sent" not in traced.log
    assert {span.name for span in traced.collector.spans} == {
        *("POST /v1/jobs", "queue", "attempt", "prefill", "decode")
    }
