"""A host, a queue and a fleet as `tidegate doctor` saw them, recorded: what its checks are tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from scheduler.settings import load
from scheduler.version import version
from tests.recorded import CAPACITY, GIB, NOW, WORKER
from tidegate.doctor import judge
from tidegate.engine_facts import EngineFacts, ModelFacts
from tidegate.facts import ApiFacts, Facts, Library
from tidegate.finding import Finding, Mark
from tidegate.mac_facts import MacFacts, Panics
from tidegate.server_facts import QueueFacts

MODEL = ModelFacts("tiny", "/models/tiny", is_folder=True, kind="llama", weights_bytes=4 * GIB)
ENGINE = EngineFacts(
    platform="linux",
    device="cpu: x86_64",
    nvidia=False,
    limits_bytes={"host_total": 30 * GIB, "host_available": 20 * GIB},
    steady_bytes=30 * GIB,
    steady_source="host_total",
    now_bytes=20 * GIB,
    now_source="host_available",
    pressure="normal",
    total_bytes=32 * GIB,
    swap_bytes=GIB,
    wired_limit_mb=None,
    blas="/usr/lib/x86_64-linux-gnu/libopenblas.so.0",
    offline=False,
    hub_folder="/cache/hub",
    hub_free_bytes=100 * GIB,
    models=(MODEL,),
)
MAC = replace(ENGINE, platform="darwin", device="metal: Apple M2", blas="", wired_limit_mb=0)
ON_A_MAC: dict[str, Any] = {"engine": MAC, "mac": MacFacts("27.0", 0, Panics(0, 0))}
INFO: dict[str, Any] = {
    "redis_version": "7.2.4",
    "valkey_version": "9.0.0",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "used_memory": 2 << 20,
    "role": "master",
}
CONFIG = {
    "appendfsync": "everysec",
    "save": "",
    "dir": "/data",
    "stop-writes-on-bgsave-error": "yes",
    "bind": "* -::*",
    "protected-mode": "no",
}
QUEUE = QueueFacts(
    "rediss://queue:6379/0",
    INFO,
    latency_seconds=0.0004,
    ahead_seconds=0.01,
    config=CONFIG,
    lets_all_in=False,
    folder=None,
)
LIVE = {**WORKER, "version": version(), "updated_at": NOW - 3}
API = ApiFacts(
    about={"name": "tidegate", "version": version()},
    ready=(200, {"status": "ready"}),
    ahead_seconds=-0.4,
    capacity={**CAPACITY, "workers": [LIVE]},
    models={"data": [{"id": "tiny", "ready": True}]},
)
FACTS = Facts(
    settings=load(data_dir=Path("/data"), models=("tiny=/models/tiny",), redis_url="redis://queue:6379/0"),
    variables=("PATH", "TIDEGATE_MODELS"),
    url="http://127.0.0.1:8400",
    url_given=False,
    python=("3.12.1", ">=3.11"),
    libraries=(Library("mlx<0.33,>=0.32.4", "mlx", "0.32.4", True),),
    engine=ENGINE,
    mac=None,
    queue=QUEUE,
    api=API,
    folder=(Path("/data"), True),
    free_bytes=100 * GIB,
    port_error="Address already in use",
    descriptors=(1024, 524288),
    now_seconds=NOW,
    hostname="elsewhere",
)


def found(mark: Mark, **seen: Any) -> list[Finding]:
    """What has this mark."""
    return [each for each in judge(replace(FACTS, **seen)) if each.mark is mark]


def only(mark: Mark, **seen: Any) -> tuple[str, str, str]:
    """What is said of the only one."""
    (one,) = found(mark, **seen)
    return one.what, one.said, one.cure


def worker(**said: Any) -> dict[str, Any]:
    """An API whose only worker says so."""
    return {"api": replace(API, capacity={**CAPACITY, "workers": [{**LIVE, **said}]})}


def model(**said: Any) -> dict[str, Any]:
    """An engine whose only model is such a one."""
    return {"engine": replace(ENGINE, models=(replace(MODEL, **said),))}


def queue(**info: Any) -> dict[str, Any]:
    """A queue's server that says so."""
    return {"queue": replace(QUEUE, info={**INFO, **info})}
