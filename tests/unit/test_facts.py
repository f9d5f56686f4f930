"""What `tidegate doctor` sees of the host it runs on."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.settings import load
from tests.conftest import MODEL
from tidegate import facts
from tidegate.client import Client
from tidegate.engine_facts import EngineFacts, Unknown, read_engine
from workers.about import about


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_is_free_or_taken(taken: int) -> None:
    """Trying it takes it from nobody."""
    assert facts.port_error("127.0.0.1", taken) == "Address already in use"
    assert facts.port_error("127.0.0.1", 0) is None
    assert facts.port_error("192.0.2.1", 0) == "Cannot assign requested address"
    with socket.create_connection(("127.0.0.1", taken), timeout=5):
        pass


def test_libraries_are_those_that_are_asked_for_here() -> None:
    """What fits, what does not, what is not there; nothing of extras or of other systems."""
    found = facts.libraries(
        [
            "redis[hiredis]>=6",
            "rich<1",
            "no-such-library>=1",
            "mlx[cpu]>=99; extra == 'cpu'",
            "pywin32>=99; sys_platform == 'win32'",
        ]
    )
    assert [(each.name, each.fits, each.installed is None) for each in found] == [
        ("redis", True, False),
        ("rich", False, False),
        ("no-such-library", False, True),
    ]


def test_what_the_project_asks_for_is_here() -> None:
    """By its own metadata, in the environment that the tests run in."""
    asked = facts.libraries(facts.metadata.requires("tidegate") or ())
    assert {"mlx", "mlx-lm", "rq"} <= {each.name for each in asked}
    assert [each for each in asked if not each.fits] == []


def test_the_nearest_folder_that_there_is(tmp_path: Path) -> None:
    """The one itself, or one above it; a file is none."""
    (tmp_path / "file").write_text("")
    assert facts.nearest(tmp_path) == tmp_path
    assert facts.nearest(tmp_path / "a" / "b") == tmp_path
    assert facts.nearest(tmp_path / "file" / "c") == tmp_path


def test_an_api_that_is_not_there_has_a_reason() -> None:
    """The one that every command gives."""
    with Client("http://127.0.0.1:1") as client:
        seen = facts.api(client)
    assert isinstance(seen, Unknown)
    assert seen.reason.startswith("nothing answers at http://127.0.0.1:1 ")


def a_model(folder: Path, **files: str) -> Path:
    """A folder of files."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_models_are_looked_at_where_an_engine_would_look(tmp_path: Path) -> None:
    """Their architecture and size, what they lack, and what is wrong with them; none is loaded or fetched."""
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    whole = a_model(tmp_path / "whole", config__json='{"model_type": "llama"}', model__safetensors="12345")
    half = a_model(tmp_path / "half", config__json='{"model_type": "llama"}', model__safetensors="1")
    (half / "model.safetensors.index.json").write_text(index)
    odd = a_model(tmp_path / "odd", config__json="[]", model__safetensors="12")
    empty = a_model(tmp_path / "empty")
    folders = {"whole": whole, "half": half, "odd": odd, "empty": empty, "gone": tmp_path / "gone"}
    entries = (*(f"{name}={folder}" for name, folder in folders.items()), "nobody/has-this-model")
    seen = read_engine(json.dumps(about(load(models=entries))).encode())
    assert isinstance(seen, EngineFacts)
    models = {each.name: each for each in seen.models}
    assert (models["whole"].kind, models["whole"].weights_bytes, models["whole"].lacking) == ("llama", 5, ())
    assert models["half"].lacking == ("model-2.safetensors",)
    assert (models["odd"].kind, models["odd"].problem) == (None, "config.json holds no object")
    assert models["empty"].problem == "there is no config.json"
    assert models["gone"].problem == "the folder does not exist"
    far = models["nobody/has-this-model"]
    assert (far.weights_bytes, far.problem, far.is_folder) == (None, "", False)


def test_the_device_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command imports no MLX; what binds a budget is among the limits."""
    monkeypatch.setenv("TIDEGATE_MODELS", f"{MODEL}={tmp_path}/gone")
    seen = facts.engine()
    assert isinstance(seen, EngineFacts), seen
    assert seen.device.split(":")[0] in {"cpu", "cuda", "metal"}
    assert seen.limits_bytes[seen.steady_source] == seen.steady_bytes
    assert [each.name for each in seen.models] == [MODEL]
    assert seen.steady_bytes <= seen.total_bytes
    assert seen.hub_free_bytes > 0


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("echo not what was expected", "it said what nobody understands"),
        ("echo one >&2; echo 'the last line' >&2; exit 3", "it ended with status 3: the last line"),
        ("kill -SEGV $$", "it ended with signal 11: without a word"),
        ("exec sleep 60", "MLX said nothing for 0 s"),
    ],
)
def test_an_engine_that_does_not_start_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, reason: str
) -> None:
    """Its last words, how it ended, or that it did not."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    seen = facts.engine(seconds=0.4 if "sleep" in program else 30.0)
    assert isinstance(seen, Unknown)
    assert seen.reason.startswith(reason)
