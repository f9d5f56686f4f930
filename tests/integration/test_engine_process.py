"""The engine as a process: its death, its parent's, its silence; and memory that is left unwired."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import psutil
import pytest
from mlx_lm.generate import BatchGenerator

from scheduler.request import read_request
from scheduler.settings import load
from tests.engines import MODEL, engine
from tests.running import ROOT, gone
from tests.waiting import wait_until
from workers.batch import ModelBatch, RunningJob
from workers.models import load_model
from workers.probe import measure
from workers.supervisor import Supervisor
from workers.text import JobText
from workers.wire import WireBroken


def test_an_engine_ends_with_its_pipe(tiny_model: Path, tmp_path: Path) -> None:
    """Idle or in the midst of a job, within a second or so, with exit code 0."""
    for busy in (False, True):
        with engine(tmp_path) as talk:
            process = psutil.Process(talk.supervisor.pid)
            if busy:
                talk.load(tiny_model)
                key = talk.run(max_tokens=4000)
                talk.until(lambda key=key: talk.tokens(key), "a token")  # type: ignore[misc]
            assert talk.supervisor._outbox is not None
            talk.supervisor._outbox.close()
            talk.supervisor._outbox = None
            wait_until(gone(process.pid), "the engine's end", 5)
            assert talk.supervisor.bury().exit_code == 0


PARENT = """
import sys, time
from scheduler.request import read_request
from scheduler.settings import load
from workers.text import JobText
from workers.supervisor import Supervisor
supervisor = Supervisor(load(data_dir=sys.argv[1]))
supervisor.start()
supervisor.receive()
print("engine", supervisor.pid, flush=True)
time.sleep(60)
"""


def test_an_engine_ends_with_its_parent(tmp_path: Path) -> None:
    """A worker that is killed leaves no engine behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    try:
        pid = int(next(line for line in parent.stdout if line.startswith(b"engine ")).split()[1])
        assert not gone(pid)()
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    wait_until(gone(pid), "the engine's end", 5)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_death_is_told_with_its_signal(tiny_model: Path, tmp_path: Path, signum: signal.Signals) -> None:
    """The next engine starts from nothing and works."""
    with engine(tmp_path) as talk:
        talk.load(tiny_model)
        key = talk.run(max_tokens=4000)
        talk.until(lambda: talk.tokens(key), "a token")
        os.kill(talk.supervisor.pid, signum)
        with pytest.raises(WireBroken):
            talk.until(lambda: False, "nothing any more")
        death = talk.supervisor.bury()
        assert death.exit_code == -signum
        assert signum.name in death.detail
        assert not talk.supervisor.running
        talk.said.clear()
        talk.supervisor.start()
        talk.share()
        talk.load(tiny_model)
        assert talk.result(talk.run(max_tokens=3))


def test_sending_to_a_dead_engine_does_not_raise(tmp_path: Path) -> None:
    """Its death is noticed where its words are heard."""
    supervisor = Supervisor(load(data_dir=tmp_path))
    supervisor.send({"kind": "remove", "key": "nobody is there"})
    supervisor.start()
    try:
        os.kill(supervisor.pid, signal.SIGKILL)
        wait_until(gone(supervisor.pid), "its end")
        supervisor.send({"kind": "remove", "key": "?"})
        with pytest.raises(WireBroken):
            for _ in range(3):
                supervisor.receive()
    finally:
        supervisor.stop()


def test_a_silent_engine_is_killed(tiny_model: Path, tmp_path: Path) -> None:
    """A stopped process says nothing; after the deadline it is ended, and the fault is a timeout."""
    with engine(tmp_path) as talk:
        talk.load(tiny_model)
        os.kill(talk.supervisor.pid, signal.SIGSTOP)
        assert not talk.supervisor.kill_if_silent(60)
        assert talk.supervisor.kill_if_silent(0)
        with pytest.raises(WireBroken):
            talk.until(lambda: False, "nothing any more")
        death = talk.supervisor.bury()
        assert (death.fault.value, death.exit_code) == ("gpu_timeout", -signal.SIGKILL)


def test_the_wired_limit_is_left_alone(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device with wired memory too, where mlx-lm itself would set it."""
    calls: list[int] = []
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: calls.append(limit) or 0)
    monkeypatch.setattr(mx, "device_info", lambda *_: {"max_recommended_working_set_size": 1 << 34})
    loaded = load_model(MODEL, str(tiny_model))
    batch = ModelBatch(loaded, measure(loaded, "cpu"), chunk_tokens=64, prefill_rows=1, max_batch=1)
    generator = BatchGenerator(loaded.model)
    generator.close()
    assert len(batch) == 0 and calls == []


@pytest.mark.parametrize("stop", [[], ["e", "a", "o", " ", "i", "t", "n", "s"]])
def test_a_job_is_done_only_when_the_device_is(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, stop: list[str]
) -> None:
    """Ended by its length or by a stop word: a GPU's late errors come out before its end is told."""
    waited: list[tuple[object, ...]] = []
    loaded = load_model(MODEL, str(tiny_model))
    shape = {"chunk_tokens": 64, "prefill_rows": 1, "max_batch": 1}
    batch = ModelBatch(loaded, measure(loaded, "cpu"), **shape, late_errors=True)
    monkeypatch.setattr(mx, "synchronize", lambda *streams: waited.append(streams))
    request = read_request({"model": MODEL, "prompt": "Hello", "temperature": 0, "stop": stop[:4]})
    text = JobText(loaded.tokenizer, stop)
    batch.add(RunningJob("job/1", request, "standard", 0.0, list(b"Hello"), [], 64, 1, text))
    while len(batch):
        waited.clear()
        steps = batch.step(1 << 40)
    assert steps[-1].result is not None
    assert (steps[-1].result["finish_reason"] == "stop") == bool(stop)
    assert waited[-1] != ()  # for the generator's stream


def test_beside_others_an_end_is_told_after_a_step_that_did_not_fail(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, without waiting for it; if that step fails, the job whose end it holds is one of those it names."""
    loaded = load_model(MODEL, str(tiny_model))
    shape = {"chunk_tokens": 64, "prefill_rows": 2, "max_batch": 2}
    batches = [
        ModelBatch(loaded, measure(loaded, "cpu"), **shape, late_errors=late) for late in (False, True)
    ]
    told = []
    for batch in batches:
        for key, most in (("short/1", 4), ("long/1", 12)):
            request = read_request({"model": MODEL, "prompt": "Hello", "temperature": 0})
            text = JobText(loaded.tokenizer, ())
            batch.add(RunningJob(key, request, "standard", 0.0, list(b"Hello"), [], most, 1, text))
        ends = [[step.key for step in batch.step(1 << 40) if step.result] for _ in range(12)]
        told.append(next(at for at, keys in enumerate(ends) if keys == ["short/1"]))
        assert batch.keys == ["long/1"]
    assert told[1] == told[0] + 1
    late = batches[1]
    while late.running:
        late.step(1 << 40)
    assert late.keys == ["long/1"] and len(late) == 1  # its end is held
    assert [step.key for step in late.step(1 << 40)] == ["long/1"] and len(late) == 0
