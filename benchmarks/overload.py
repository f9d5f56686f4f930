"""Servers under more load than their memory holds: ``python -m benchmarks.overload``.

A random-weight float32 llama with a KV cache of 128 KiB a token, and 24 clients at once (OpenAI's package), each
with a long prompt of its own, streaming. Every server runs in the same room: the address space that it takes when
idle, plus a quarter of what the 24 caches take all at once (``benchmarks.address_space``). tidegate is told no
budget. Beside it, from PyPI in environments of their own: mlx-lm, rapid-mlx and vllm-mlx. What they cannot do for
reasons of our own set-up does not count: each must first answer a short request without a limit, and one under it;
otherwise it is named in ``not_comparable``, with no share. Whether it also answers one request of the load's own
length under the limit, alone, is in ``PEER_alone``.

All have OpenBLAS preloaded where it is installed, as tidegate's engine has. Where the address space ends, a server
then dies of a segmentation fault, or goes on without answering, busy in the kernel: run with ``LD_PRELOAD=`` (set,
and empty) to see all of them without it.

Prints a table, then one JSON line:

``completed_share``           tidegate's clients that were answered, of 24
``engine_deaths``             how often its engine died meanwhile
``wall_over_serial``          until the last of them was answered, over the 24 one after another: by mlx-lm's
                              ``stream_generate`` in a bare loop, or through a tidegate without a limit,
                              whichever is faster
``PEER_completed_share``      each peer's; ``PEER_exit`` how its server ended, None where it still ran
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import peers
from benchmarks.address_space import idle_bytes, kv_bytes_per_token, limited, load_bytes, room_bytes
from benchmarks.arguments import parser
from benchmarks.peers import PEERS, Peer, PeerFailed
from benchmarks.random_models import write_random_llama
from benchmarks.stack import Stack, stack
from benchmarks.streaming import Asked, Round, ask
from scheduler import fleet
from workers.environment import with_fast_blas

MODEL: Final = "large-cache"
CLIENTS: Final = 24
PROMPT_CHARACTERS: Final = 1430
ANSWER_TOKENS: Final = 48
TOKENS: Final = 1536
"""The most of a request: its prompt, some forty tokens of chat template, its answer."""

SHORT: Final = "Is anybody there?"
SHORT_SECONDS: Final = 60.0
SECONDS_LEAST: Final = 120.0
SECONDS_OF_SERIAL: Final = 2.0
"""A client waits so many times as long as all requests take one after another, and ``SECONDS_LEAST`` at least."""

REPORTED_SECONDS: Final = 3.0
"""Within which a worker has told what it counted."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one server did; bytes of address space, seconds."""

    server: str
    idle_bytes: int = 0
    limit_bytes: int = 0
    free_answers: bool = False
    """A short request, without a limit."""

    tight_answers: bool = False
    """A short request, under it."""

    alone: bool = False
    """One request of the load's length, under it."""

    share: float = 0.0
    seconds: float = 0.0
    exit_code: int | None = None
    deaths: int = 0
    errors: str = ""

    @property
    def comparable(self) -> bool:
        """Whether it is the load that it fails under, if it fails."""
        return self.free_answers and self.tight_answers


def main() -> None:
    """Measure and print."""
    options = parser("overload", __doc__)
    options.add_argument(
        "--peers-dir", type=Path, default=peers.FOLDER, help="where the environments are kept"
    )
    options.add_argument(
        "--only", choices=["tidegate", *(peer.name for peer in PEERS)], help="one server alone"
    )
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-overload-") as folder:
        # One layer: its attention over the prompt is never asked for, but its cache is filled.
        model = write_random_llama(
            Path(folder) / MODEL, layers=2, heads=8, kv_heads=8, head_dim=1024, never_stops=True
        )
        whole = load_bytes(CLIENTS, TOKENS, kv_bytes_per_token(model))
        room = room_bytes(whole)
        trials, serial = [], {}
        if chosen.only in {None, "tidegate"}:
            serial["mlx-lm"] = _bare_seconds(model)
            trial, serial["tidegate"] = _try_tidegate(model, room, serial["mlx-lm"])
            trials.append(trial)
        for peer in PEERS:
            if chosen.only in {None, peer.name}:
                scratch = Path(folder) / peer.name
                trials.append(
                    _try_peer(peer, chosen.peers_dir, model, scratch, room, serial.get("mlx-lm", 0))
                )
    print(table(trials))
    print(json.dumps(figures(trials, serial) | {"load_bytes": whole, "room_bytes": room}))


def prompts() -> list[str]:
    """As many as there are clients, no two with a common beginning."""
    line = "the tide comes in over the flats and takes what was left there, shell by shell; "
    texts = (f"{number:02d} {number * line[: number + 1]}" for number in range(CLIENTS))
    return [(text + line * (PROMPT_CHARACTERS // len(line) + 1))[:PROMPT_CHARACTERS] for text in texts]


def figures(trials: Sequence[Trial], serial: dict[str, float]) -> dict[str, Any]:
    """What the JSON line says.

    Args:
        trials: of tidegate, and of each peer.
        serial: seconds of all requests one after another, by who ran them.
    """
    made: dict[str, Any] = {}
    for trial in trials:
        own = trial.server == "tidegate"
        name = "" if own else f"{trial.server}_"
        if not trial.comparable:
            made.setdefault("not_comparable", []).append(trial.server)
            continue
        made[f"{name}completed_share"] = round(trial.share, 3)
        if own:
            least = min(serial, key=lambda server: serial[server])
            made["engine_deaths"] = trial.deaths
            made["wall_over_serial"] = round(trial.seconds / serial[least], 3)
            made |= {"wall_s": round(trial.seconds, 1), "serial_by": least}
            made |= {f"serial_{server}_s": round(seconds, 1) for server, seconds in serial.items()}
        else:
            made |= {f"{name}alone": trial.alone, f"{name}exit": trial.exit_code}
    return made


def table(trials: Sequence[Trial]) -> str:
    """A line for each server; sizes in MiB."""
    head = f"{'server':<10} {'idle':>6} {'limit':>6}  {'short':<5} {'alone':<5} {'share':>5} {'wall s':>6} {'exit':>5}  errors"
    lines = [head]
    for trial in trials:
        fields = asdict(trial)
        fields |= {"idle": trial.idle_bytes >> 20, "limit": trial.limit_bytes >> 20}
        fields |= {
            "short": "yes" if trial.comparable else "no",
            "long": "yes" if trial.alone else "no",
            "exit": "-" if trial.exit_code is None else trial.exit_code,
        }
        form = "{server:<10} {idle:>6} {limit:>6}  {short:<5} {long:<5} {share:>5.2f} {seconds:>6.1f} {exit:>5}  {errors}"
        lines.append(form.format(**fields))
    return "\n".join(lines)


def _bare_seconds(model: Path) -> float:
    """Every request by mlx-lm alone, in a process with the same BLAS."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare", str(model), str(ANSWER_TOKENS)],
        input=json.dumps(prompts()),
        env=with_fast_blas(dict(os.environ)),
        capture_output=True,
        text=True,
        check=True,
        timeout=2 * SECONDS_LEAST,
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["tokens"] == CLIENTS * ANSWER_TOKENS
    return float(told["seconds"])


def _try_tidegate(model: Path, room: int, serial_seconds: float) -> tuple[Trial, float]:
    """Under the limit, and the seconds of every request one after another without it."""
    with stack({MODEL: model}) as free:
        free_answers = _answers(free.url, MODEL, SHORT, 4)
        idle = idle_bytes(free.workers[0].pid)
        alone = ask(_long(free.url, MODEL, serial_seconds), prompts(), together=False)
        assert alone.share == 1.0, alone.errors
    with stack({MODEL: model}, worker_prefix=limited(idle + room)) as tight:
        tight_answers = _answers(tight.url, MODEL, SHORT, 4)
        asked = _long(tight.url, MODEL, serial_seconds)
        one = ask(asked, prompts()[:1], together=False)
        crowd = ask(asked, prompts(), together=True)
        deaths = _deaths(tight)
        trial = Trial(
            "tidegate",
            idle,
            idle + room,
            free_answers,
            tight_answers,
            one.share == 1.0,
            crowd.share,
            crowd.seconds,
            tight.workers[0].process.poll(),
            deaths,
            _said(crowd),
        )
    return trial, alone.seconds


def _try_peer(
    peer: Peer, folder: Path, model: Path, scratch: Path, room: int, serial_seconds: float
) -> Trial:
    """Without a limit, then under it: a short request, a long one, all."""
    idle = 0
    free_answers = tight_answers = alone = False
    try:
        python = peers.install(peer, folder)
        with peers.serving(peer, python, model, scratch) as free:
            free_answers = _answers(free.url, free.model_name, SHORT, 4)
            idle = idle_bytes(free.process.pid)
        prefix = limited(idle + room)
        with peers.serving(peer, python, model, scratch, prefix) as tight:
            tight_answers = _answers(tight.url, tight.model_name, SHORT, 4)
            asked = _long(tight.url, tight.model_name, serial_seconds)
            alone = ask(asked, prompts()[:1], together=False).share == 1.0
        with peers.serving(peer, python, model, scratch, prefix) as tight:  # whatever one request did to it
            crowd = ask(_long(tight.url, tight.model_name, serial_seconds), prompts(), together=True)
            code = tight.exit_code
    except PeerFailed as error:
        return Trial(
            peer.name, idle, idle + room, free_answers, tight_answers, alone, errors=str(error)[:200]
        )
    return Trial(
        peer.name,
        idle,
        idle + room,
        free_answers,
        tight_answers,
        alone,
        crowd.share,
        crowd.seconds,
        code,
        errors=_said(crowd),
    )


def _answers(url: str, model: str, prompt: str, tokens: int) -> bool:
    return ask(Asked(url, model, tokens, SHORT_SECONDS), [prompt], together=False).share == 1.0


def _long(url: str, model: str, serial_seconds: float) -> Asked:
    return Asked(url, model, ANSWER_TOKENS, max(SECONDS_LEAST, SECONDS_OF_SERIAL * serial_seconds))


def _deaths(running: Stack) -> int:
    """How often the worker's engine died, and the worker itself, which has no engine then."""
    time.sleep(REPORTED_SECONDS)
    reports = list(fleet.live_workers(running.connection))
    told = sum(report.counters.get("engine_deaths", 0) for report in reports)
    for report in reports:
        print(f"budget {report.budget_bytes >> 20} MiB by {report.budget_source}; counted: {report.counters}")
    return told + (not running.workers[0].alive)


def _said(crowd: Round) -> str:
    return ", ".join(f"{times} x {error}" for error, times in crowd.errors.items())


if __name__ == "__main__":
    main()
