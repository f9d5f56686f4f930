"""What a form costs: the same batch with and without a schema that its answers are held to.

    python -m benchmarks.constrained FOLDER [--rows 8] [--tokens 128]

FOLDER is a model that `mlx_lm.load` opens. Each round decodes the batch free and held, in turn; reported are the medians
of wall and CPU seconds for a step, and what a mask takes by itself.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any, Final

import click
import mlx.core as mx

from scheduler.request import read_request
from workers.constraint import constrain
from workers.generators import make_generator
from workers.models import LoadedModel, load_model
from workers.sampling import make_processors, make_sampler

SCHEMA: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
    "minItems": 1000,
}
"""It ends no answer before its last token, and has strings, numbers and words that are forced."""


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rows", default=8, show_default=True)
@click.option("--tokens", default=128, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(folder: Path, rows: int, tokens: int, rounds: int) -> None:
    """Measure, and print one JSON object."""
    loaded = load_model("model", str(folder))
    began = time.process_time()
    assert loaded.grammars.matcher(_request(held=True)) is not None
    first_seconds = time.process_time() - began
    steps: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(rounds):
        for held in (False, True):
            steps[held].append(run_batch(loaded, rows, tokens, held=held))
    said: dict[str, Any] = {
        "vocabulary": loaded.vocabulary,
        "rows": rows,
        "first_job_cpu_seconds": first_seconds,
    }
    for held, name in ((False, "free"), (True, "held")):
        wall, cpu = zip(*steps[held], strict=True)
        said |= {
            f"{name}_step_ms": statistics.median(wall) * 1e3,
            f"{name}_step_cpu_ms": statistics.median(cpu) * 1e3,
        }
    said["mask_ms"] = mask_seconds(loaded, tokens) * 1e3
    click.echo(json.dumps({name: round(value, 4) for name, value in said.items()}, indent=2))


def run_batch(loaded: LoadedModel, rows: int, tokens: int, *, held: bool) -> tuple[float, float]:
    """Decode a batch; the wall and CPU seconds of a step."""
    generator = make_generator(loaded.model, alone=False, chunk_tokens=512, prefill_rows=rows, max_batch=rows)
    for at in range(rows):
        request = _request(held=held)
        constraint = constrain(loaded, request, [], "normal")
        sampler = make_sampler(request, at, 0, loaded.vocabulary)
        processors = make_processors(request)
        if constraint is not None:
            sampler = constraint.watched(sampler)
            processors.append(constraint)
        generator.insert(
            [loaded.tokenizer.encode(f"{at} people")],
            max_tokens=[tokens],
            samplers=[sampler],
            logits_processors=[processors],
        )
    while not generator.next()[1]:
        pass
    mx.synchronize()
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while generator.next()[1]:
        steps += 1
    mx.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    generator.close()
    return wall / steps, cpu / steps


def mask_seconds(loaded: LoadedModel, tokens: int) -> float:
    """The median of a job's masks by themselves, over an answer of random tokens that may come."""
    constraint = constrain(loaded, _request(held=True), [], "normal")
    assert constraint is not None
    logits = mx.random.normal((1, loaded.vocabulary))
    mx.eval(logits)
    draw = constraint.watched(make_sampler(_request(held=True), 1, 0, loaded.vocabulary))
    seconds = []
    for _ in range(tokens):
        began = time.perf_counter()
        masked = constraint(None, logits)
        seconds.append(time.perf_counter() - began)
        mx.eval(draw(masked))
    return statistics.median(seconds)


def _request(*, held: bool) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "people", "schema": SCHEMA, "strict": True}}
    return read_request(
        {"model": "model", "prompt": "-", "temperature": 0.8, "response_format": form if held else None}
    )


if __name__ == "__main__":
    main()
