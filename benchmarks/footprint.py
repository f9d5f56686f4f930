"""What batches take against what was foreseen: ``python -m benchmarks.footprint [--plot FILE]``.

Random-weight models of mlx-lm's own classes, probed as a worker probes them, run single and in batches
through the very batch and guard that the engine runs, under a memory limit of just what was foreseen. Before
a job joins, the batch's peak is foreseen with what the batches before it taught; then it is measured. Prints a
table and one JSON line last:

``cases``            batches measured
``kv_exact``         share of them whose caches' peak was foreseen to the byte
``under_max``        the worst (measured - foreseen) / measured; below 0 nothing was said too small
``over_median``, ``over_p95``   of (foreseen - measured) / measured
``probe_over_load``  the probe's time over the loading's, median over models

and beside them ``probed_…``: the same with the card as it was probed, nothing learnt. Peaks are counted
beside the weights. The caches' bytes are MLX's own (``nbytes``) after each loop of the generator.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import parser
from benchmarks.batches import JOINED, SHAPES, Case, run_case
from benchmarks.random_models import write_random_model
from workers import gauge
from workers.batch import ModelBatch
from workers.environment import engine_environment
from workers.models import load_model
from workers.probe import measure

CHUNK_TOKENS: Final = 512
PREFILL_ROWS: Final = 4


def architectures(*, large: bool) -> dict[str, dict[str, Any]]:
    """Configurations, of one kind of cache or attention each: a CPU's size, or a GPU's."""
    head = 64 if large else 32
    hidden, layers = (1024, 8) if large else (256, 4)
    heads, expert = hidden // head, hidden // 2
    alternate = ["sliding_attention", "full_attention"] * (layers // 2)
    common = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": head,
        "vocab_size": 32_768 if large else 2048,
        "max_position_embeddings": 16_384,
    }
    mixers = ["attention" if at % 4 == 2 else "mamba" for at in range(layers)]
    own: dict[str, dict[str, Any]] = {
        "llama": {},
        "gemma3_text": {
            "sliding_window": 512,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": head,
        },
        "qwen3_moe": {"moe_intermediate_size": expert},
        "mamba2": {
            "num_heads": 2 * heads,
            "head_dim": head,
            "intermediate_size": 2 * hidden,
            "state_size": 64,
        },
        "granitemoehybrid": {
            "layer_types": mixers,
            "mamba_n_heads": 2 * heads,
            "mamba_d_head": head,
            "shared_intermediate_size": hidden,
            "intermediate_size": expert,
        },
        "deepseek_v3": {
            "num_key_value_heads": heads,
            "moe_intermediate_size": expert,
            "q_lora_rank": expert,
            "kv_lora_rank": expert,
            "qk_rope_head_dim": head,
            "qk_nope_head_dim": head,
            "v_head_dim": head,
        },
        "gpt_oss": {"intermediate_size": hidden, "sliding_window": 128, "layer_types": alternate},
        "qwen3_next": {
            "moe_intermediate_size": expert,
            "shared_expert_intermediate_size": expert,
            "linear_num_value_heads": heads,
            "linear_num_key_heads": heads // 2,
            "linear_key_head_dim": head,
            "linear_value_head_dim": head,
        },
    }
    return {name: common | fields for name, fields in own.items()}


def run_model(name: str, folder: Path, *, large: bool) -> Iterator[dict[str, Any]]:
    """Load, probe and run one model; a line for its timings, then one for each batch."""
    limits = gauge.read_limits()
    budget, _ = gauge.derive_budget(limits, None)
    mx.set_memory_limit(budget)
    mx.set_cache_limit(min(1 << 30, budget // 16))
    dtype = "bfloat16" if large else "float32"
    fields = architectures(large=large)[name]
    write_random_model(folder / name, name, fields, never_stops=True, dtype=dtype)
    started = time.monotonic()
    loaded = load_model(name, str(folder / name))
    load_seconds = time.monotonic() - started
    started = time.monotonic()
    room = budget - mx.get_active_memory()
    card = measure(
        loaded,
        gauge.device_name(),
        chunk_tokens=CHUNK_TOKENS,
        prefill_rows=PREFILL_ROWS,
        room_bytes=room,
        load_seconds=load_seconds,
    )
    seconds = {"load_seconds": load_seconds, "probe_seconds": time.monotonic() - started}
    yield seconds | {"card": card.to_json()}
    batch = ModelBatch(loaded, card, chunk_tokens=CHUNK_TOKENS, prefill_rows=PREFILL_ROWS, max_batch=32)
    for jobs in (*([(*job, 0) for job in shape] for shape in SHAPES), *JOINED):
        yield asdict(run_case(batch, card, loaded, jobs))


def child(name: str) -> list[dict[str, Any]]:
    """Run one model in a process of its own, with the engine's environment."""
    environment = engine_environment(dict(os.environ), preload=True)
    command = [sys.executable, "-m", "benchmarks.footprint", "--model", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def summary(cases: list[Case], probes: list[float]) -> dict[str, Any]:
    """The figures of the module's text."""
    exact = sum(case.kv_foreseen_bytes == case.kv_measured_bytes for case in cases)
    figures: dict[str, Any] = {"cases": len(cases), "kv_exact": round(exact / len(cases), 4)}
    for prefix in ("", "probed_"):
        overs = sorted(getattr(case, f"{prefix}over") for case in cases)
        figures[f"{prefix}under_max"] = round(-overs[0], 4)
        figures[f"{prefix}over_median"] = round(statistics.median(overs), 4)
        figures[f"{prefix}over_p95"] = round(overs[min(len(overs) - 1, int(0.95 * len(overs)))], 4)
    return figures | {"probe_over_load": round(statistics.median(probes), 3)}


def show(cases: dict[str, list[Case]], probes: dict[str, float], console: Console) -> None:
    """The table, a line for each model."""
    table = Table(title="Peak beside the weights: foreseen against measured")
    for column in ("model", "cases", "KV exact", "worst under", "median over", "p95 over", "probe / load"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, mine in cases.items():
        line = summary(mine, [probes[name]])
        shares = [f"{100 * line[key]:.1f} %" for key in ("under_max", "over_median", "over_p95")]
        exact = f"{100 * line['kv_exact']:.0f} %"
        table.add_row(name, str(line["cases"]), exact, *shares, f"{probes[name]:.2f}")
    console.print(table)


def main() -> None:
    """Run every model and print what came of it."""
    options = parser("footprint", __doc__)
    options.add_argument("--model", help="run this model only, in this process; a JSON line for each batch")
    options.add_argument("--models", nargs="+", help="run these only, each in a process of its own")
    options.add_argument("--plot", type=Path, help="write a scatter plot there")
    options.add_argument("--cases", type=Path, help="write every card and case there, as JSON")
    asked = options.parse_args()
    large = mx.default_device() == mx.Device(mx.gpu)
    if asked.model:
        with tempfile.TemporaryDirectory() as folder:
            for line in run_model(asked.model, Path(folder), large=large):
                print(json.dumps(line), flush=True)
        return
    console = Console(stderr=True)
    cases: dict[str, list[Case]] = {}
    probes: dict[str, float] = {}
    cards: dict[str, Any] = {}
    for name in asked.models or architectures(large=large):
        started = time.monotonic()
        timings, *lines = child(name)
        console.print(f"{name}: {len(lines)} batches, {time.monotonic() - started:.0f} s")
        cases[name] = [Case(**line) for line in lines]
        probes[name] = timings["probe_seconds"] / timings["load_seconds"]
        cards[name] = timings["card"]
        every = [case for mine in cases.values() for case in mine]
        if asked.cases:
            found = {"cards": cards, "cases": [asdict(case) for case in every]}
            asked.cases.write_text(json.dumps(found))
    show(cases, probes, console)
    if asked.plot:
        from benchmarks.plots import scatter_footprints  # noqa: PLC0415 - drawn only where asked for

        scatter_footprints(cases, asked.plot, gauge.device_name())
    print(json.dumps(summary(every, list(probes.values())) | {"device": gauge.device_name()}))


if __name__ == "__main__":
    main()
