"""What `tidegate doctor` checks of the API, its workers, and between them and the queue's server. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from scheduler.envelope import ENVELOPE_VERSION
from scheduler.errors import gib, so_many
from scheduler.job import PRIORITIES
from scheduler.loopback import is_loopback
from scheduler.version import version
from tidegate.engine_facts import Unknown
from tidegate.facts import ApiFacts, Facts
from tidegate.finding import Finding, Mark, bad, good, note
from tidegate.server_facts import QueueFacts
from tidegate.text import fields_of, figure, list_of, on_one_line

SKEW_SECONDS: Final = 2.0
"""By which clocks may differ: an API tells its own to the second."""

_STARTS: Final = "`tidegate up` starts it"


def api(facts: Facts) -> Iterator[Finding]:
    """The API: reachable, of this version, and able to take jobs."""
    seen = facts.api
    if isinstance(seen, Unknown):
        yield (bad if facts.url_given else note)("API", _gist(seen.reason), _STARTS)
        return
    other = on_one_line(seen.about.get("version", "an earlier one"))
    if other == version():
        yield good("API", f"tidegate {other} at {facts.url}")
    else:
        yield bad(
            "API", f"its version is {other}, this command's {version()}", "update one of them, and restart it"
        )
    status, body = seen.ready
    if _lacks_store(seen):
        if not isinstance(facts.queue, Unknown):
            cure = "has it the same TIDEGATE_REDIS_URL? else see its log"
            yield bad("API ready", "it does not reach its queue's server, and this command reaches one", cure)
        else:
            yield note("API ready", "not while its queue's server is away: see above")
        yield note("workers", "not looked at: the API knows of none without its queue's server")
        return
    if status == 200:  # noqa: PLR2004 - HTTP's
        yield good("API ready", "it takes jobs")
    else:
        reason = on_one_line(fields_of(body, "error").get("message") or body or "it does not say why")
        yield bad("API ready", f"/readyz answers {status}: {reason}", "see its log, and the queue above")
    for path, said in (("/v1/capacity", seen.capacity), ("/v1/models", seen.models)):
        if isinstance(said, Unknown):
            cure = "set TIDEGATE_API_KEY" if said.reason.startswith("unauthorized") else "see the API's log"
            yield bad("API", f"{path}: {_gist(said.reason)}", cure)


def _lacks_store(seen: ApiFacts) -> bool:
    """Whether the one thing that is wrong with an API is that its queue's server does not answer it."""
    status, body = seen.ready
    return status == 503 and fields_of(body, "error").get("code") == "store_unavailable"  # noqa: PLR2004 - HTTP's


def _gist(reason: str) -> str:
    """A reason without the cure that a command's error has behind it."""
    return re.sub(r"; `tidegate up` starts it(, and .*)?$", "", on_one_line(reason))


def workers(facts: Facts) -> Iterator[Finding]:
    """The live workers: there, of the API's version, in time, with an engine; every class has one that listens."""
    if isinstance(facts.api, Unknown) or isinstance(facts.api.capacity, Unknown):
        return
    found = [fields_of(each) for each in list_of(facts.api.capacity, "workers")]
    if not found:
        yield bad("workers", "none lives", "`tidegate worker` starts one; its log says why it ended")
        return
    for each in found:
        yield _worker(each, facts, facts.api)
    unheard = [name for name in PRIORITIES if not any(name in list_of(each, "queues") for each in found)]
    if unheard:
        cure = f"start one with the queues {' '.join(PRIORITIES)}"
        yield bad("workers", f"none listens to {', '.join(unheard)}: such jobs wait for ever", cure)

    if isinstance(facts.queue, QueueFacts):
        yield from _unread(facts.queue.waiting, found)


def _unread(waiting: Mapping[int, int], workers: Iterable[Mapping[str, Any]]) -> Iterator[Finding]:
    """Jobs of a version that no live worker runs, as where workers went back to an earlier release."""
    read = {version for each in workers for version in _read(each)}
    for other, jobs in waiting.items():
        if other not in read:
            said = f"{so_many(jobs, 'job')} of version {other} wait, which no live worker runs"
            yield bad("queue", said, "start a worker of the release that made them, or cancel them")


def _read(worker: Mapping[str, Any]) -> list[Any]:
    """The versions of jobs that a worker runs."""
    return list_of(worker, "envelope_versions") or [ENVELOPE_VERSION]


def _worker(worker: Mapping[str, Any], facts: Facts, api: ApiFacts) -> Finding:
    """How a worker is; that it is of another release than the API is amiss only where it has nothing to do for that."""
    found, own, wanted = _state_of(worker, facts, api), worker.get("version"), api.about.get("version")
    if own == wanted or found.mark is Mark.BAD:
        return found
    said = f"of {f'release {on_one_line(own)}' if own else 'an earlier release'}, the API of {on_one_line(wanted)}"
    waiting = facts.queue.waiting if isinstance(facts.queue, QueueFacts) else {}
    if waiting and not any(version in waiting for version in _read(worker)):
        return bad(found.what, f"{said}: it runs none of the jobs that wait", "update and restart it")
    return note(found.what, f"{said}: fine while you upgrade; {found.said}", "", found.why)


def _state_of(worker: Mapping[str, Any], facts: Facts, api: ApiFacts) -> Finding:
    what, engine = f"worker {on_one_line(worker.get('name'))}", on_one_line(worker.get("engine"))
    late = facts.now_seconds + (api.ahead_seconds or 0.0) - figure(worker.get("updated_at"))
    if engine == "cooling down":
        return _cooling(what, worker)
    usual = facts.settings.lease_seconds / 2  # a live worker says how it is three times within its lease
    if late < -SKEW_SECONDS or late > usual + SKEW_SECONDS:
        side = "ahead of" if late < 0 else "behind"
        cure = "set both hosts' clocks (NTP): deadlines and times of starts go by them"
        return bad(what, f"its clock is {abs(late):.0f} s {side} the API's, or it is slow to report", cure)
    models = (
        ", ".join(on_one_line(fields_of(each).get("id")) for each in list_of(worker, "models")) or "nothing"
    )
    whole, working = figure(worker.get("budget_bytes")), worker.get("working_bytes")
    budget = f"may use {gib(int(whole))}"
    if working is None or figure(working) >= whole:
        return (good if engine == "ready" else note)(what, f"{engine}, {budget}, serves {models}")
    counted = fields_of(worker, "counters")
    ran_out = figure(counted.get("out_of_memory")) + figure(counted.get("sheds"))
    budget += f", and jobs that run together {gib(int(figure(working)))} of it now"
    why = (
        f"memory ran out ({ran_out:,.0f} times since it began)" if ran_out else "its host gives less just now"
    )
    return note(what, f"{engine}, {budget}, serves {models}", "", f"{why}; it comes back by itself")


def _cooling(what: str, worker: Mapping[str, Any]) -> Finding:
    """A worker whose engines died too often."""
    counted = fields_of(worker, "counters")
    deaths, ran_out = figure(counted.get("engine_deaths")), figure(counted.get("out_of_memory"))
    said = f"cools down after {deaths:,.0f} deaths of its engine"
    if (left := figure(worker.get("cools_until")) - figure(worker.get("updated_at"))) > 0:
        said += f", for {left:,.0f} s more"
    why = f"{ran_out:,.0f} jobs ran out of memory" if ran_out else ""
    return bad(what, said, "see its log for what ended them", why)


def served(facts: Facts) -> Iterator[Finding]:
    """Every listed model has a live worker that runs its jobs."""
    if isinstance(facts.api, Unknown) or isinstance(facts.api.models, Unknown):
        return
    found = [fields_of(each) for each in list_of(facts.api.models, "data")]
    for each in found:
        if each.get("ready") is not True:
            waits = (
                "its jobs wait" if facts.settings.queue_without_worker else "its jobs are refused: no_worker"
            )
            cure = "start a worker with it in TIDEGATE_MODELS; a worker's log says why it could not load it"
            yield bad(f"served {on_one_line(each.get('id'))}", f"no live worker serves it: {waits}", cure)
    if not found:
        yield bad("served", "the API lists no model", "set TIDEGATE_MODELS where it runs")
    elif all(each.get("ready") is True for each in found):
        yield good("served", f"all {len(found)} listed models have a live worker")


def port(facts: Facts) -> Iterator[Finding]:
    """Whether the API has its port, or could have it."""
    where = f"{facts.settings.host}:{facts.settings.port}"
    if facts.url_given:
        return
    if not isinstance(facts.api, Unknown):
        yield good("port", f"{where} is the API's")
    elif facts.port_error is None:
        yield good("port", f"{where} is free")
    else:
        yield bad(
            "port",
            f"{where} cannot be had: {facts.port_error}",
            "set TIDEGATE_PORT, or end what listens there",
        )


def keys(facts: Facts) -> Iterator[Finding]:
    """Where the API may be reached from."""
    if is_loopback(facts.settings.host):
        yield good("reach", f"TIDEGATE_HOST is {facts.settings.host}: this machine alone reaches the API")
    else:
        said = f"TIDEGATE_HOST is {facts.settings.host}: others may reach the API"
        yield note("reach", said, "see to keys (`tidegate keys list`) and to TLS before it")


def clock(facts: Facts) -> Iterator[Finding]:
    """This host's clock, beside the queue's server's and the API's."""
    others: dict[str, float] = {}
    if isinstance(facts.queue, QueueFacts):
        others["the queue's server"] = facts.queue.ahead_seconds
    if isinstance(facts.api, ApiFacts) and facts.api.ahead_seconds is not None:
        others["the API"] = facts.api.ahead_seconds
    if not others:
        yield note("clock", "nothing answers that it could be compared with")
    elif any(abs(ahead) > SKEW_SECONDS for ahead in others.values()):
        said = ", ".join(f"{ahead:+.1f} s for {name}" for name, ahead in others.items())
        yield bad("clock", f"clocks differ from this host's: {said}", "set them (NTP)")
    else:
        yield good("clock", f"as {' and '.join(others)} {'has' if len(others) == 1 else 'have'} it")
