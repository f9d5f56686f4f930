"""`tidegate doctor`: what is said of recorded hosts, queues and fleets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from scheduler.settings import load
from scheduler.version import version
from tests.recorded import CAPACITY, GIB, NOW
from tests.recorded_facts import API, ENGINE, FACTS, LIVE, MAC, MODEL, QUEUE, found, model, only, worker
from tidegate.doctor import CHECKS, judge, tell
from tidegate.engine_facts import EngineFacts, Unknown
from tidegate.facts import Facts, Library
from tidegate.finding import Finding, Mark, bad, good, note


def test_where_all_is_well_nothing_is_to_be_done() -> None:
    """Every check has something good to say of such a host, and nothing else."""
    findings = judge(FACTS)
    assert [each for each in findings if each.mark is not Mark.GOOD] == []
    assert [each.cure for each in findings if each.cure] == []
    assert {each.what.split()[0] for each in findings} == {
        *("Python", "libraries", "settings", "device", "memory", "OpenBLAS", "model", "data", "open", "port"),
        *("reach", "queue", "API", "worker", "served", "clock"),
    }


def test_models_that_only_the_api_knows_of_are_no_lack() -> None:
    """`tidegate up --sample` serves one though no variable names it; without an API there is one to be named."""
    unnamed = load(data_dir=Path("/data"), redis_url="rediss://queue:6379/0")
    said = [each for each in judge(replace(FACTS, settings=unnamed)) if each.what == "models"]
    assert said == [good("models", "none is named here; the API serves tiny")]
    for api in (Unknown("refused"), replace(API, models={"data": []}), replace(API, models=Unknown("no"))):
        said = [each for each in judge(replace(FACTS, settings=unnamed, api=api)) if each.what == "models"]
        assert [each.said for each in said] == ["none is named"]


@pytest.mark.parametrize(
    ("seen", "what", "said"),
    [
        ({"python": ("3.10.2", ">=3.11")}, "Python", "3.10.2 is not >=3.11"),
        (
            {"libraries": (Library("rq>=3", "rq", "2.6", False),)},
            "libraries",
            "rq>=3 is asked for; rq 2.6 is here",
        ),
        (
            {"libraries": (Library("rq>=3", "rq", None, False),)},
            "libraries",
            "rq>=3 is asked for; it is not here",
        ),
        (
            {"variables": ("TIDEGATE_MODLES",)},
            "settings",
            "TIDEGATE_MODLES is no setting; is TIDEGATE_MODELS meant?",
        ),
        ({"engine": replace(MAC, device="cpu: arm")}, "device", "cpu: arm: no Metal on a Mac"),
        (model(problem="the folder does not exist"), "model tiny", "/models/tiny: the folder does not exist"),
        (model(kind=None), "model tiny", "/models/tiny: its config.json names no architecture"),
        (model(weights_bytes=0), "model tiny", "/models/tiny: there is no model*.safetensors"),
        (model(weights_bytes=30 * GIB), "model tiny", "llama, 30.0 GiB on disk: more than a worker may use"),
        (model(lacking=("a", "b")), "model tiny", "/models/tiny: 2 files are not here: a, b"),
        (
            {"engine": replace(ENGINE, models=(replace(MODEL, weights_bytes=None),), hub_free_bytes=5 << 20)},
            "downloads",
            "/cache/hub: 5.0 MiB free for tiny",
        ),
        ({"folder": (Path("/data"), False)}, "data folder", "/data cannot be written to"),
        ({"free_bytes": 5 << 20}, "data folder", "/data: 5.0 MiB are free"),
        ({"descriptors": (64, 128)}, "open files", "128 at most"),
        ({"queue": Unknown("refused")}, "queue", "no answer: refused"),
        (
            {"api": replace(API, about={"version": "0.0.9"})},
            "API",
            f"its version is 0.0.9, this command's {version()}",
        ),
        (
            worker(version="0.0.9", engine="cooling down", counters={"engine_deaths": 12}),
            "worker 7d1f0f2b9f3c4a5e",
            "cools down after 12 deaths of its engine",
        ),
        (
            worker(engine="cooling down", counters={"engine_deaths": 12}),
            "worker 7d1f0f2b9f3c4a5e",
            "cools down after 12 deaths of its engine",
        ),
        (
            worker(engine="cooling down", counters={"engine_deaths": 9}, cools_until=NOW + 17),
            "worker 7d1f0f2b9f3c4a5e",
            "cools down after 9 deaths of its engine, for 20 s more",
        ),
        (
            worker(updated_at=NOW + 60),
            "worker 7d1f0f2b9f3c4a5e",
            "its clock is 60 s ahead of the API's, or it is slow to report",
        ),
        (
            worker(updated_at=NOW - 60),
            "worker 7d1f0f2b9f3c4a5e",
            "its clock is 60 s behind the API's, or it is slow to report",
        ),
        (
            worker(queues=["batch"]),
            "workers",
            "none listens to interactive, standard: such jobs wait for ever",
        ),
        ({"api": replace(API, capacity={"workers": []})}, "workers", "none lives"),
        (
            {"api": replace(API, models={"data": [{"id": "big", "ready": False}]})},
            "served big",
            "no live worker serves it: its jobs wait",
        ),
        ({"api": replace(API, models={"data": []})}, "served", "the API lists no model"),
        (
            {"api": replace(API, ahead_seconds=-9.0)},
            "clock",
            "clocks differ from this host's: +0.0 s for the queue's server, -9.0 s for the API",
        ),
    ],
)
def test_what_is_amiss_is_said_with_what_to_do(seen: dict[str, Any], what: str, said: str) -> None:
    """Each by one check; what the check of another version says of it is none of its business."""
    findings = [each for each in found(Mark.BAD, **seen) if each.what == what]
    assert [each.said for each in findings] == [said]
    assert all(each.cure for each in findings)


@pytest.mark.parametrize(
    ("seen", "what", "said"),
    [
        ({"engine": replace(ENGINE, nvidia=True)}, "device", "cpu: x86_64, and an NVIDIA GPU is here"),
        ({"engine": replace(ENGINE, blas="")}, "OpenBLAS", "not here: prompts take some six times as long"),
        (
            model(weights_bytes=None),
            "model tiny",
            "/models/tiny is not on this host: the first job downloads it from Hugging Face",
        ),
        (
            {"descriptors": (256, 1024)},
            "open files",
            "1,024 at most: the API takes fewer connections than 2,000",
        ),
        (
            worker(engine="loading tiny"),
            "worker 7d1f0f2b9f3c4a5e",
            "loading tiny, may use 16.0 GiB, serves mlx-community/Qwen3-4B-4bit, tiny",
        ),
        (
            worker(working_bytes=12 * GIB),
            "worker 7d1f0f2b9f3c4a5e",
            "ready, may use 16.0 GiB, and jobs that run together 12.0 GiB of it now, serves "
            "mlx-community/Qwen3-4B-4bit, tiny",
        ),
        (
            {"settings": load(data_dir=Path("/data"), host="0.0.0.0", redis_url="redis://q", models=("t",))},
            "reach",
            "TIDEGATE_HOST is 0.0.0.0: others may reach the API",
        ),
    ],
)
def test_what_is_only_worth_knowing_is_no_fault(seen: dict[str, Any], what: str, said: str) -> None:
    """The exit status stays 0."""
    assert only(Mark.NOTE, **seen)[:2] == (what, said)
    assert found(Mark.BAD, **seen) == []


@pytest.mark.parametrize(
    ("counters", "why"),
    [
        (
            {"out_of_memory": 1, "sheds": 2},
            "memory ran out (3 times since it began); it comes back by itself",
        ),
        ({}, "its host gives less just now; it comes back by itself"),
    ],
)
def test_why_a_worker_uses_less_is_one_of_two(counters: dict[str, int], why: str) -> None:
    """Where nothing was counted, memory has not run out."""
    (said,) = (
        each
        for each in judge(replace(FACTS, **worker(working_bytes=12 * GIB, counters=counters)))
        if each.why
    )
    assert said.why == why


def test_clocks_are_as_one_or_two_others_have_it() -> None:
    """The queue's server may be one that this host does not ask."""
    both, one = judge(FACTS), judge(replace(FACTS, queue=Unknown("no")))
    assert good("clock", "as the queue's server and the API have it") in both
    assert good("clock", "as the API has it") in one


def test_a_host_where_nothing_was_started_is_well() -> None:
    """Before the first `tidegate up`: what is not there is noted, with what starts it."""
    fresh: dict[str, Any] = {
        "settings": load(data_dir=Path("/home/me/data")),
        "queue": Unknown("no such file"),
        "api": Unknown("nothing answers at http://127.0.0.1:8400 (refused); `tidegate up` starts it"),
        "port_error": None,
        "folder": (Path("/home/me"), True),
        "engine": replace(ENGINE, models=()),
    }
    assert found(Mark.BAD, **fresh) == []
    said = {each.what: (each.said, each.cure) for each in found(Mark.NOTE, **fresh)}
    assert said["API"] == ("nothing answers at http://127.0.0.1:8400 (refused)", "`tidegate up` starts it")
    assert said["queue"] == ("the embedded server does not run", "`tidegate up` starts it")
    assert said.keys() == {"API", "queue", "models", "clock"}
    assert only(Mark.BAD, **fresh | {"port_error": "in use"})[:2] == (
        "port",
        "127.0.0.1:8400 cannot be had: in use",
    )
    assert only(Mark.BAD, **fresh | {"url_given": True})[0] == "API"


def test_a_queue_that_is_away_is_one_fault() -> None:
    """Whatever asks it: what the API cannot say without it is not looked at."""
    away = {"error": {"code": "store_unavailable", "message": "Redis does not answer"}}
    refused = Unknown("store_unavailable: Redis does not answer")
    lost: dict[str, Any] = {
        "settings": load(data_dir=Path("/data"), models=("t",)),
        "api": replace(API, ready=(503, away), capacity=refused, models=refused),
        "queue": Unknown("no such file"),
    }
    what, said, cure = only(Mark.BAD, **lost)
    assert (what, said.partition(",")[0]) == ("queue", "the embedded server does not answer")
    assert "start it again" in cure
    assert {"API ready", "workers"} <= {each.what for each in found(Mark.NOTE, **lost)}
    assert only(Mark.BAD, **lost | {"queue": FACTS.queue})[0] == "API ready"
    named = load(data_dir=Path("/data"), models=("t",), redis_url="redis://q")
    assert only(Mark.BAD, **lost | {"settings": named})[:2] == ("queue", "no answer: no such file")


def test_an_api_that_cannot_take_jobs_says_why() -> None:
    """By /readyz's own words; what it refuses to show is said too."""
    busy = {"error": {"code": "internal_error", "message": "a bug"}}
    assert only(Mark.BAD, api=replace(API, ready=(503, busy)))[:2] == (
        "API ready",
        "/readyz answers 503: a bug",
    )
    closed = replace(API, capacity=Unknown("unauthorized: an API key is needed"))
    assert only(Mark.BAD, api=closed) == (
        "API",
        "/v1/capacity: unauthorized: an API key is needed",
        "set TIDEGATE_API_KEY",
    )


def test_without_mlx_what_needs_it_is_not_judged() -> None:
    """That it does not start is the one fault."""
    gone: dict[str, Any] = {"engine": Unknown("it ended with signal 11: without a word")}
    assert only(Mark.BAD, **gone)[:2] == (
        "device",
        "MLX does not start: it ended with signal 11: without a word",
    )
    assert {each.what for each in found(Mark.NOTE, **gone)} == {"memory", "models"}


def test_a_budget_is_shown_with_what_binds_it() -> None:
    """For good and just now, what was set, and what this host's workers hold already."""

    def memory(engine: EngineFacts, **seen: Any) -> Finding:
        (one,) = (each for each in judge(replace(FACTS, engine=engine, **seen)) if each.what == "memory")
        return one

    assert memory(ENGINE).said == (
        "of 32.0 GiB a worker may use 30.0 GiB, by RAM, less what is left to the system (host_total); just now 20.0 GiB, "
        "by what the system could give up now (host_available)"
    )
    assert memory(ENGINE, hostname="studio.local").said.endswith("; workers here hold 16.0 GiB")
    assert memory(replace(ENGINE, now_bytes=1)).mark is Mark.NOTE
    assert memory(replace(ENGINE, steady_bytes=200 << 20)).mark is Mark.BAD
    own = replace(ENGINE, steady_bytes=40 * GIB, steady_source="TIDEGATE_MEMORY_BUDGET")
    settings = FACTS.settings.model_copy(update={"memory_budget": 40 * GIB})
    assert memory(own, settings=settings).said.endswith("and this host has 30.0 GiB")
    assert memory(own, settings=settings).mark is Mark.BAD


def test_a_model_that_may_not_be_fetched_has_to_be_here() -> None:
    """Where Hugging Face is switched off."""
    offline = replace(ENGINE, offline=True, models=(replace(MODEL, weights_bytes=None, source="org/tiny"),))
    assert only(Mark.BAD, engine=offline)[:2] == (
        "model tiny",
        "org/tiny is not on this host, and is not to be fetched",
    )


@pytest.mark.parametrize("odd", [{"workers": [None, {"updated_at": "x"}]}, {"workers": 7}, {}])
def test_an_answer_that_is_not_understood_ends_no_examination(odd: dict[str, Any]) -> None:
    """It is judged as far as it goes."""
    findings = judge(replace(FACTS, api=replace(API, capacity=odd, models=odd)))
    assert {"served", "clock"} <= {each.what for each in findings}


def test_a_check_that_fails_is_a_finding() -> None:
    """And the others are made all the same."""

    def broken(facts: Facts) -> Iterator[Finding]:
        raise ZeroDivisionError
        yield

    findings = judge(FACTS, [broken, *CHECKS])
    assert (findings[0].what, findings[0].mark) == ("broken", Mark.BAD)
    assert findings[1:] == judge(FACTS)


FINDINGS = [good("a", "well\x1b[2J"), bad("model [b]", "ill", "mend it", "of old"), note("c", "so so")]


def test_a_finding_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With its mark, what was seen and what to do; the status is 1 where something is amiss."""
    console = Console(highlight=False, soft_wrap=True, width=20)
    assert tell(FINDINGS, console, as_json=False) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✓ a          well[2J",
        "✗ model [b]  ill (of old) → mend it",
        "– c          so so",
    ]
    assert tell(FINDINGS[::2], console, as_json=False) == 0


def test_findings_as_json_are_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """True, false, or null where it is neither."""
    console = Console(highlight=False, soft_wrap=True, width=20)
    assert tell(FINDINGS, console, as_json=True) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert [each["ok"] for each in said["findings"]] == [True, False, None]
    assert [each["state"] for each in said["findings"]] == ["ok", "bad", "note"]
    assert said["findings"][1] == {
        "check": "model [b]",
        "state": "bad",
        "ok": False,
        "said": "ill",
        "why": "of old",
        "cure": "mend it",
    }


def test_a_worker_of_another_release_is_amiss_only_where_it_runs_nothing_that_waits() -> None:
    """While hosts are updated one after another, it is as it should be."""
    (finding,) = of_worker(Mark.NOTE, {}, version="0.0.9")
    assert finding.said.startswith(
        f"of release 0.0.9, the API of {version()}: fine while you upgrade; ready, may use"
    )
    (finding,) = of_worker(Mark.NOTE, {1: 4, 2: 3}, version="")
    assert finding.said.startswith(
        f"of an earlier release, the API of {version()}: fine while you upgrade; ready"
    )
    (finding,) = of_worker(Mark.BAD, {2: 3}, version="0.0.9")
    assert finding.said == f"of release 0.0.9, the API of {version()}: it runs none of the jobs that wait"
    assert of_worker(Mark.BAD, {2: 3}, version="0.0.9", envelope_versions=[1, 2]) == []


def of_worker(mark: Mark, waiting: dict[int, int], **fields: Any) -> list[Finding]:
    """What is found of a worker while jobs of these versions wait."""
    findings = found(mark, queue=replace(QUEUE, waiting=waiting), **worker(**fields))
    return [each for each in findings if each.what.startswith("worker ")]


def test_jobs_that_no_live_worker_reads_are_told() -> None:
    """Of another release, as where workers went back; those that one reads are not."""
    (finding,) = found(Mark.BAD, queue=replace(QUEUE, waiting={1: 4, 2: 1200}))
    assert finding.said == "1,200 jobs of version 2 wait, which no live worker runs"
    newer = {**LIVE, "envelope_versions": [1, 2]}
    both = replace(API, capacity={**CAPACITY, "workers": [newer]})
    assert found(Mark.BAD, queue=replace(QUEUE, waiting={1: 4, 2: 1200}), api=both) == []
