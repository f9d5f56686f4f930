"""What `tidegate doctor` checks of the queue's server: that it is near, keeps what it is given, and keeps others out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from scheduler.errors import gib
from tidegate.engine_facts import Unknown
from tidegate.facts import Facts
from tidegate.finding import Finding, bad, good, note
from tidegate.server_facts import QueueFacts
from tidegate.text import figure, on_one_line

SLOW_SECONDS: Final = 0.05
"""A worker asks the queue's server once a step, which takes as long on a small model."""

LEAST_VERSION: Final = (7, 0)
"""Redis's, which Valkey tells too: ``EXPIRE`` takes a condition (``GT``, ``NX``) from there on."""

FREE_BYTES: Final = 1 << 30
"""On the disk of its files."""

_FULL: Final = 0.9
"""Of ``maxmemory``: the server refuses writes from there on before long."""

_STARTS: Final = "`tidegate up` starts it"


def queue(facts: Facts) -> Iterator[Finding]:
    """The queue's server: reachable, soon, and of a version that knows what it is asked."""
    seen, own = facts.queue, facts.settings.redis_url is None
    if isinstance(seen, Unknown):
        api = facts.api
        if own and isinstance(api, Unknown):
            yield note("queue", "the embedded server does not run", _STARTS)
        elif own and not isinstance(api, Unknown) and api.ready[0] != 200:  # noqa: PLR2004 - HTTP's
            said = "the embedded server does not answer, and the API waits for it: no job is taken or run"
            yield bad(
                "queue", said, "end `tidegate up`, if it runs yet, and start it again; its data are kept"
            )
        elif own:
            yield note("queue", "the embedded server does not run here; the API has another")
        else:
            yield bad("queue", f"no answer: {seen.reason}", "start the server that TIDEGATE_REDIS_URL names")
        return
    said = f"{_server(seen)} at {seen.url} answers in {1000 * seen.latency_seconds:.1f} ms"
    if seen.latency_seconds > SLOW_SECONDS:
        yield bad("queue", said, "move it nearer, or off a busy host: each step of a batch asks it")
    elif (known := _version(seen.info)) and known < LEAST_VERSION:
        yield bad("queue", f"{said}: too old", "Redis 7.0 or later, or Valkey")
    else:
        yield good("queue", said)


def _server(seen: QueueFacts) -> str:
    valkey = seen.info.get("valkey_version")
    name, number = ("Valkey", valkey) if valkey else ("Redis", seen.info.get("redis_version", ""))
    return f"{name} {on_one_line(number)}".strip()


def _version(info: Mapping[str, Any]) -> tuple[int, int] | None:
    found = re.match(r"(\d{1,4})\.(\d{1,4})", str(info.get("redis_version", "")))
    return (int(found[1]), int(found[2])) if found else None


def keeping(facts: Facts) -> Iterator[Finding]:
    """Whether it keeps on disk what it is given."""
    if isinstance(facts.queue, Unknown):
        return
    info, config = facts.queue.info, facts.queue.config
    if not info:
        yield note("queue keeps", "not known: this client may not ask INFO")
        return
    if not figure(info.get("aof_enabled")):
        cure = "start it with --appendonly yes --appendfsync everysec"
        yield bad("queue keeps", "no append-only file: a restart may lose the queue", cure)
    elif isinstance(config, Unknown):
        said = "every write goes to an append-only file; how often that is flushed is not known"
        yield note("queue keeps", f"{said}: CONFIG is refused ({on_one_line(config.reason)})")
    else:
        yield _flushed(on_one_line(config.get("appendfsync")))
    yield from _writes(info, config)


def _flushed(policy: str) -> Finding:
    if policy == "no":
        said = "its append-only file is flushed when the system likes: a crash may lose half a minute"
        return bad("queue keeps", said, "set appendfsync everysec")
    lost = "nothing" if policy == "always" else "up to a second"
    return good(
        "queue keeps", f"every write goes to an append-only file, flushed {policy}: a crash loses {lost}"
    )


def _writes(info: Mapping[str, Any], config: Mapping[str, str] | Unknown) -> Iterator[Finding]:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    failed = [name for name in names if info.get(name, "ok") != "ok"]
    if failed:
        asked = {} if isinstance(config, Unknown) else config
        stops = "rdb_last_bgsave_status" in failed and asked.get("stop-writes-on-bgsave-error") == "yes"
        why = "stop-writes-on-bgsave-error: it refuses every write until one succeeds" if stops else ""
        said = f"its last writes failed: {', '.join(failed)}"
        yield bad("queue disk", said, "see its log, and its disk's room", why)
    elif on_one_line(info.get("role", "master")) != "master":
        cure = "name its primary in TIDEGATE_REDIS_URL"
        yield bad("queue disk", "it is a replica, and takes no writes", cure)


def room(facts: Facts) -> Iterator[Finding]:
    """Whether the disk has room for its files, where that is this host's: the log is written anew beside itself."""
    if isinstance(facts.queue, Unknown) or facts.queue.folder is None:
        return
    folder, free_bytes = facts.queue.folder
    log_bytes = int(figure(facts.queue.info.get("aof_current_size")))
    said = f"{folder}: {gib(free_bytes)} free, and its log has {gib(log_bytes)}"
    if free_bytes < FREE_BYTES + log_bytes:
        yield bad("queue room", said, "make room on that disk: where it is full, every write is refused")
    else:
        yield good("queue room", said)


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether it keeps in memory what it is given: it must refuse where that is short, not forget."""
    if isinstance(facts.queue, Unknown) or not facts.queue.info:
        return
    info = facts.queue.info
    policy = on_one_line(info.get("maxmemory_policy", "noeviction"))
    most, used = figure(info.get("maxmemory")), figure(info.get("used_memory"))
    bound = f"{gib(int(used))} of {gib(int(most))}" if most else f"{gib(int(used))}, without a bound"
    cure = "set maxmemory-policy noeviction"
    if forgotten := figure(info.get("evicted_keys")):
        yield bad("queue memory", f"{policy} has forgotten {forgotten:,.0f} keys since it began", cure)
    elif policy != "noeviction":
        yield bad("queue memory", f"{policy} forgets jobs where memory is short", cure)
    elif most and used > _FULL * most:
        yield bad("queue memory", f"{bound}: nearly full", "raise maxmemory, or lower TIDEGATE_RESULT_TTL")
    else:
        yield good("queue memory", f"{bound}; noeviction: it refuses rather than forgets")


def reach(facts: Facts) -> Iterator[Finding]:
    """Who gets into it: whoever does may read every prompt, and write what workers read."""
    seen = facts.queue
    if isinstance(seen, Unknown):
        return
    clear = not seen.here and seen.url.startswith("redis:")
    if seen.lets_all_in is None:
        yield note("queue reach", "not known: this client may not ask who is let in")
    elif not seen.lets_all_in and clear:
        cure = "rediss:// (TLS), or a private network"
        yield note("queue reach", "it asks for a password, which crosses the network in the clear", cure)
    elif not seen.lets_all_in:
        yield good("queue reach", "it asks for a password")
    elif not seen.here or _listens_wide(seen.config):
        cure = "set requirepass, and the password in TIDEGATE_REDIS_URL; or bind 127.0.0.1"
        said = "it is reached over the network, and asks nobody for a password"
        yield bad("queue reach", said, cure, "whoever reaches it may read every prompt and answer")
    else:
        yield good("queue reach", "this machine alone reaches it")


def _listens_wide(config: Mapping[str, str] | Unknown) -> bool:
    """Whether a server on this host answers others too: beyond loopback, and not protected."""
    if isinstance(config, Unknown) or config.get("protected-mode") != "no":
        return False
    places = [each.removeprefix("-") for each in config.get("bind", "").split()]
    return not places or not all(each in {"127.0.0.1", "::1", "localhost"} for each in places)
