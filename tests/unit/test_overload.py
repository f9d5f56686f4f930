"""The overload benchmark's own arithmetic: what a server is given, and what is said of it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.address_space import kv_bytes_per_token, limited, load_bytes, room_bytes
from benchmarks.overload import CLIENTS, TOKENS, Trial, figures, prompts, table
from benchmarks.peers import PEERS, environment

SERIAL = {"mlx-lm": 50.0, "tidegate": 40.0}


def trial(server: str, **fields: object) -> Trial:
    chosen = {"free_answers": True, "tight_answers": True} | fields
    return Trial(server, **chosen)  # type: ignore[arg-type]


def test_the_room_is_a_quarter_of_what_the_caches_take_together(tmp_path: Path) -> None:
    """Keys and values of every layer and head, in float32; a cache grows by 256 tokens at a time."""
    config = {"num_hidden_layers": 1, "num_key_value_heads": 16, "head_dim": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    per_token = kv_bytes_per_token(tmp_path)
    assert per_token == 128 << 10
    assert load_bytes(24, 2048, per_token) == 6 << 30
    assert load_bytes(24, 2049, per_token) == 24 * 2304 * (128 << 10)
    assert room_bytes(6 << 30) == 3 << 29
    assert room_bytes(4 * 4097) == 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")
def test_a_limited_command_and_its_children_have_the_limit() -> None:
    """And this process has not."""
    limit = 3 << 30
    ask = "import resource; print(resource.getrlimit(resource.RLIMIT_AS))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], check=True)"
    for code in (ask, child):
        command = [*limited(limit), sys.executable, "-c", code]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert said.strip() == str((limit, limit))
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != limit


def test_every_client_asks_something_long_of_its_own() -> None:
    """No two prompts share a beginning, so that no prefix cache helps; each leaves room for its answer."""
    asked = prompts()
    assert len({prompt[:2] for prompt in asked}) == len(asked) == CLIENTS
    assert all(TOKENS - 160 < len(prompt) < TOKENS - 64 for prompt in asked)


def test_the_time_is_beside_the_faster_way_one_after_another() -> None:
    """Whoever that is, mlx-lm's loop or tidegate."""
    made = figures([trial("tidegate", share=1.0, seconds=36.0, deaths=2)], SERIAL)
    assert (made["wall_over_serial"], made["serial_by"]) == (0.9, "tidegate")
    assert (made["completed_share"], made["engine_deaths"]) == (1.0, 2)


def test_who_cannot_answer_one_short_request_is_not_compared() -> None:
    """It has no share at all, rather than 0; who answers one and fails under the load has 0."""
    trials = [
        trial("mlx-lm", exit_code=-11, alone=True),
        trial("rapid-mlx", tight_answers=False),
        trial("vllm-mlx", free_answers=False),
    ]
    made = figures(trials, SERIAL)
    assert made.pop("not_comparable") == ["rapid-mlx", "vllm-mlx"]
    assert made == {"mlx-lm_completed_share": 0.0, "mlx-lm_alone": True, "mlx-lm_exit": -11}
    rows = table(trials).splitlines()[1:]
    assert [row.split()[0] for row in rows] == [each.server for each in trials]


def test_a_peer_asks_nobody_and_has_this_projects_blas() -> None:
    """No hub, no telemetry, not the user's home; and none of tidegate's own settings."""
    made = environment(
        {"HOME": "/home/me", "TIDEGATE_PORT": "1", "PATH": "/bin", "LD_PRELOAD": "x"}, Path("/h")
    )
    assert made["HF_HUB_OFFLINE"] == made["DO_NOT_TRACK"] == "1"
    assert (made["HOME"], made["PATH"], made["LD_PRELOAD"]) == ("/h", "/bin", "x")
    assert "TIDEGATE_PORT" not in made
    assert not [
        name for name in made if name.startswith("MLX_")
    ]  # what tidegate sets for its engine is its own


def test_peers_listen_on_loopback_only_and_are_pinned() -> None:
    """Each by its version, and MLX too."""
    for peer in PEERS:
        words = peer.words(Path("python"), Path("/a b/model"), 1234)
        assert "127.0.0.1" in words
        assert "/a b/model" in words
        assert "1234" in words
        assert all("==" in requirement for requirement in peer.requirements)
