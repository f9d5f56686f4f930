"""`/metrics`: who may read it, what it tells, and that it tells it in both formats whatever is the matter."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from redis import Redis

from api.app import create_app
from api.metric_table import METRICS
from api.metrics import OPENMETRICS, WORKERS_MOST
from scheduler.blame import Failure, Fault
from scheduler.errors import ClientError
from scheduler.fleet import WORKERS_KEY, worker_key
from scheduler.job import PRIORITIES, State
from scheduler.lifecycle import Lifecycle
from scheduler.measures import VALUES
from scheduler.outcome import Outcome
from scheduler.reasons import Reason
from scheduler.settings import Settings
from scheduler.tally import Tally
from tests.conftest import MODEL
from tests.pretend_worker import GIB, PretendWorker
from tests.waiting import wait_until
from workers.counting import Counting

BODY = {"model": MODEL, "prompt": "a", "max_tokens": 10}
ASKS = {"Accept": f"{OPENMETRICS};version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}
"""As Prometheus does."""


def scraped(client: FlaskClient, **headers: str) -> dict[str, Metric]:
    """What Prometheus reads, by name; and the same in the other format."""
    plain, asked = client.get("/metrics", headers=headers), client.get("/metrics", headers=headers | ASKS)
    assert plain.status_code == asked.status_code == 200, plain.text
    assert plain.mimetype == "text/plain" and asked.mimetype == OPENMETRICS
    found = {each.name: each for each in read_text(plain.text)}
    assert found.keys() == {each.name for each in read_openmetrics(asked.text)}
    return found


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float | None:
    """A sample's; None where there is none."""
    family = re.sub(r"_(total|bucket|sum|count)$", "", name)
    every = metrics.get(name, metrics.get(family))
    assert every is not None, name
    found = [each.value for each in every.samples if each.name == name and each.labels == labels]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.fixture
def busy(worker: PretendWorker, client: FlaskClient) -> Iterator[dict[str, Metric]]:
    """Where everything happened once: what is told of it."""
    tally = Tally()
    counting = Counting(tally)
    for priority in PRIORITIES:
        assert client.post("/v1/jobs", json=BODY | {"priority": priority}).status_code == 202
    for held in [worker.claim() for _ in PRIORITIES][:2]:
        counting.claimed(held)
        counting.computed(held, 7, 5)
        counting.began(held, held.rec.created_at + 0.2)
        counting.made({MODEL: 3})
        counting.put_back(held, Reason.MEMORY)
        counting.put_back(held, Reason.PREEMPTED)
        failure = Failure(Fault.OUT_OF_MEMORY, died=True, company=2)
        counting.fault(failure)
        counting.failed(held, failure)
        done = replace(held, rec=replace(held.rec, meta=replace(held.rec.meta, footprint_ratio=1.2)))
        counting.ended(done, Outcome(State.COMPLETED, {}))
        error = ClientError("insufficient_memory", "none", retry_after=7).body()
        tally.ended(Outcome(State.FAILED, error=error))
    counters = {"engine_deaths": 4, "out_of_memory": 2}
    worker.report(
        measures=tally.dump(), counters=counters, used_bytes=5, working_bytes=GIB // 2, updated_at=time.time()
    )
    assert client.post("/v1/jobs", json=BODY).status_code == 202
    assert client.post("/v1/jobs", json=BODY | {"max_tokens": 1_000_000}).status_code == 413
    assert client.get("/v1/jobs/job_" + "0" * 26).status_code == 404
    assert client.get("/nowhere").status_code == 404
    restarts = {"worker": "pretend"}
    wait_until(
        lambda: value(scraped(client), "tidegate_worker_engine_restarts_total", **restarts) == 4,
        "its report is read",
        5,
    )
    return scraped(client)


def test_every_metric_of_the_table_is_told_with_its_kind_and_words(busy: dict[str, Metric]) -> None:
    """In the table's order, and no other; each sample has the table's labels, of those values alone."""
    assert [*busy] == [name.removesuffix("_total") for name in METRICS]
    for name, said in METRICS.items():
        family = busy[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (said.kind.value, said.help)
        for sample in family.samples:
            assert sample.name in said.series
            labels = sample.labels.keys() - ({"le"} if sample.name.endswith("_bucket") else set())
            assert labels == {*said.labels}
            for label, each in sample.labels.items():
                assert label not in VALUES or each in VALUES[label]


def test_nearly_every_metric_has_samples_where_all_happened(busy: dict[str, Metric]) -> None:
    """The rest needs a queue that is full, or a server that is away."""
    silent = {name for name, family in busy.items() if not family.samples}
    assert silent <= {
        "tidegate_api_retry_after_needed_seconds",
        "tidegate_api_retry_after_told_seconds",
        "tidegate_api_jobs_ended",
        "tidegate_webhooks_ended",
    }


def test_what_a_worker_counted_stands_under_its_name(busy: dict[str, Metric]) -> None:
    """Counters, distributions and its account."""

    def of(name: str, **labels: str) -> float | None:
        return value(busy, f"tidegate_worker_{name}", worker="pretend", **labels)

    assert of("claims_total", priority="interactive") == of("claims_total", priority="standard") == 1
    assert of("claims_total", priority="batch") == 0
    assert of("wait_seconds_count", priority="interactive") == 1
    assert of("time_to_first_token_seconds_bucket", priority="standard", le="0.1") == 0
    assert of("time_to_first_token_seconds_bucket", priority="standard", le="0.25") == 1
    assert of("sheds_total", priority="standard") == of("preemptions_total", priority="interactive") == 1
    assert of("requeues_total", priority="standard", reason="memory") == 1
    labels = {"priority": "standard", "fault": "out_of_memory", "blame": "company"}
    assert of("attempts_failed_total", **labels) == 1
    assert of("faults_total", fault="out_of_memory") == 2 and of("faults_total", fault="bug") == 0
    assert of("jobs_ended_total", state="failed", code="insufficient_memory") == 2
    assert of("jobs_ended_total", state="completed", code="none") == 2
    assert of("retry_after_told_seconds_sum", code="insufficient_memory") == 14
    assert of("prompt_tokens_total", model=MODEL) == 14 and of("completion_tokens_total", model=MODEL) == 6
    assert of("prompt_tokens_cached_total", model=MODEL) == 10
    assert of("memory_predicted_over_measured_ratio_bucket", model=MODEL, le="1.1") == 0
    assert of("memory_predicted_over_measured_ratio_bucket", model=MODEL, le="1.25") == 2
    assert of("engine_restarts_total") == 4 and of("out_of_memory_total") == 2
    assert of("budget_bytes") == GIB and of("working_bytes") == GIB // 2 and of("used_bytes") == 5
    parts = [of(f"{part}_bytes") for part in ("weights", "reserved", "cache", "headroom")]
    assert sum(part or 0 for part in parts) == GIB
    assert of("engine_ready") == 1 and of("cooling_down") == 0
    assert (of("report_age_seconds") or 0) < 60


def test_what_the_api_did_is_counted_by_route_and_code(busy: dict[str, Metric]) -> None:
    """By a route's pattern, whatever was asked for; what has no route under one name."""

    def requests(route: str, method: str, status: str) -> float | None:
        labels = {"route": route, "method": method, "status": status}
        return value(busy, "tidegate_api_http_requests_total", **labels)

    assert requests("/v1/jobs", "POST", "202") == 4
    assert requests("/v1/jobs", "POST", "413") == 1
    assert requests("/v1/jobs/<job_id>", "GET", "404") == 1
    assert requests("none", "GET", "404") == 1
    assert (
        value(busy, "tidegate_api_http_request_duration_seconds_count", route="/v1/jobs", method="POST") == 5
    )
    assert value(busy, "tidegate_api_submissions_total", priority="standard") == 2
    assert value(busy, "tidegate_api_refusals_total", code="memory_never_fits") == 1
    assert value(busy, "tidegate_api_store_up") == 1


def test_the_queue_is_told_by_class(busy: dict[str, Metric]) -> None:
    """One waits: the other three were claimed."""
    assert value(busy, "tidegate_queue_jobs", priority="standard") == 1
    assert (value(busy, "tidegate_queue_tokens", priority="standard") or 0) > 0
    assert 0 < (value(busy, "tidegate_queue_oldest_age_seconds", priority="standard") or 0) < 60
    assert value(busy, "tidegate_queue_oldest_age_seconds", priority="batch") == 0
    assert value(busy, "tidegate_workers") == 1
    assert value(busy, "tidegate_webhooks_pending") == 0


def test_methods_that_clients_make_up_are_one(client: FlaskClient) -> None:
    """A series a word would be as many as a client likes."""
    for method in ("TIDE", "EBB"):
        client.open("/v1/jobs", method=method)
    labels = {"route": "none", "method": "OTHER", "status": "405"}
    assert value(scraped(client), "tidegate_api_http_requests_total", **labels) == 2


def test_a_job_that_ends_while_it_waits_is_counted_where_that_was_found(client: FlaskClient) -> None:
    """Here by a client's wish."""
    job = client.post("/v1/jobs", json=BODY).get_json()["id"]
    client.post(f"/v1/jobs/{job}/cancel")
    found = value(scraped(client), "tidegate_api_jobs_ended_total", state="cancelled", code="none")
    assert found == 1


def test_an_open_stream_is_counted_until_it_ends(client: FlaskClient) -> None:
    """Whether its client leaves or it is done."""
    job = client.post("/v1/jobs", json=BODY).get_json()["id"]
    stream = client.get(f"/v1/jobs/{job}/stream", buffered=False)
    assert value(scraped(client), "tidegate_api_streams_open") == 1
    stream.close()
    assert value(scraped(client), "tidegate_api_streams_open") == 0


def test_what_was_told_and_what_was_needed(
    settings: Settings, connection: Redis, worker: PretendWorker
) -> None:
    """A refusal is told a time; it is known what it needed once as many jobs started as had to."""
    app = create_app(settings.model_copy(update={"max_queued_jobs": 2}), connection)
    client, tally = app.test_client(), Tally()
    tally.count("claims", "standard", by=5)
    worker.report(measures=tally.dump())
    for _ in range(2):
        assert client.post("/v1/jobs", json=BODY).status_code == 202
    refused = client.post("/v1/jobs", json=BODY)
    assert refused.status_code == 503
    name = "tidegate_api_retry_after_needed_seconds"
    metrics = scraped(client)
    assert value(metrics, f"{name}_count") is None
    told = "tidegate_api_retry_after_told_seconds_sum"
    assert value(metrics, told, code="queue_full") == int(refused.headers["Retry-After"])
    tally.count("claims", "standard", by=1)
    worker.report(measures=tally.dump())
    wait_until(lambda: value(scraped(client), f"{name}_count") == 1, "that its place was free is seen", 5)
    assert 0 < (value(scraped(client), f"{name}_sum") or 0) < 10


# What others write


def test_what_others_write_into_reports_costs_nothing_but_itself(
    client: FlaskClient, worker: PretendWorker, connection: Redis
) -> None:
    """Counts that are none, labels that there are not, names of all kinds, the same name twice, many workers."""
    bad: Any = {
        "claims": {"interactive": -1, "standard": "x", "batch": True, "nobody": 5, "interactive|x": 1},
        "wait_seconds": {"batch": [1.0, 2], "standard": [float("nan"), *[0] * 15], "interactive": 7},
        "sheds": [1],
        "unknown": {"a": 1},
        "faults": {"bug": 1 << 60, "victim": 2},
        "completion_tokens": {"evil\nmodel": 4},
    }
    worker.report(measures=bad, host='h"\\\n' * 100, counters={"engine_deaths": -3})
    for number in range(WORKERS_MOST + 20):
        PretendWorker(connection, f"w{number:03}").report()
    twin = connection.get(worker_key("pretend"))
    connection.set(worker_key("twin"), twin or b"", px=60_000)
    connection.sadd(WORKERS_KEY, "twin")
    metrics = scraped(client)
    of = {each.labels["worker"] for each in metrics["tidegate_worker_budget_bytes"].samples}
    assert len(of) == WORKERS_MOST == len(metrics["tidegate_worker_budget_bytes"].samples)
    assert value(metrics, "tidegate_workers") == WORKERS_MOST + 22
    named = {"worker": "pretend"}
    assert "pretend" in of
    assert [
        value(metrics, "tidegate_worker_claims_total", priority=each, **named) for each in PRIORITIES
    ] == [0, 0, 0]
    assert value(metrics, "tidegate_worker_faults_total", fault="victim", **named) == 2
    assert value(metrics, "tidegate_worker_faults_total", fault="bug", **named) == 0
    assert value(metrics, "tidegate_worker_engine_restarts_total", **named) == 0
    for name in ("wait_seconds", "completion_tokens"):
        assert not [
            each for each in metrics[f"tidegate_worker_{name}"].samples if each.labels["worker"] == "pretend"
        ]


def test_keys_of_another_type_are_left_out(client: FlaskClient, connection: Redis) -> None:
    """What others put in the place of a queue hides that queue, and nothing else."""
    connection.set("rq:queue:batch", "x")
    connection.set("tidegate:webhooks:ended", "x")
    metrics = scraped(client)
    assert {each.labels["priority"] for each in metrics["tidegate_queue_jobs"].samples} == {
        "interactive",
        "standard",
    }
    assert value(metrics, "tidegate_api_store_up") == 1
    connection.delete("rq:queue:batch", "tidegate:webhooks:ended")


def test_a_worker_of_an_earlier_release_is_told_as_far_as_it_tells(
    client: FlaskClient, worker: PretendWorker
) -> None:
    """Its account, and what it counted under its old names."""
    worker.report(counters={"engine_deaths": 3})
    metrics = scraped(client)
    assert value(metrics, "tidegate_worker_engine_restarts_total", worker="pretend") == 3
    assert value(metrics, "tidegate_worker_budget_bytes", worker="pretend") == GIB
    assert not metrics["tidegate_worker_wait_seconds"].samples


def test_a_scrape_reads_as_much_whatever_waits(
    lifecycle: Lifecycle, client: FlaskClient, connection: Redis
) -> None:
    """Two commands more for workers; none for jobs."""

    def commands() -> int:
        before = connection.info("commandstats")
        client.get("/metrics")
        after = connection.info("commandstats")
        return sum(
            after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
            for name in after
            if name != "cmdstat_info"
        )

    client.get("/metrics")
    few = commands()
    for _ in range(30):
        assert client.post("/v1/jobs", json=BODY).status_code == 202
    assert commands() <= few + 3  # the keys, or the workers, may be due to be read again
    assert few < 25


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/plain;version=0.0.4", "text/plain"),
        ("application/openmetrics-text", OPENMETRICS),
        (f"{OPENMETRICS};q=0.2,text/plain;q=0.9", "text/plain"),
        (f"{OPENMETRICS};q=0", "text/plain"),
        (f'{OPENMETRICS};version="x\r", ;;=,', OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0; escaping=allow-utf-8", OPENMETRICS),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(client: FlaskClient, accept: str, kind: str) -> None:
    """Plain text for everybody else."""
    assert client.get("/metrics", headers={"Accept": accept.replace("\r", "")}).mimetype == kind
