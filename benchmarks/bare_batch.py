"""The limit: mlx-lm's ``BatchGenerator`` in a loop, nothing around it: ``python -m benchmarks.bare_batch MODEL``.

Each line read is a JSON object with ``prompts`` (chats of one message), ``concurrency`` and ``max_tokens``; each is
answered by a line with ``tokens``, ``seconds``, and of each prompt the seconds of its first token after it was put in
and those between its tokens. As with clients that stream, each prompt is put in as soon as another has its answer.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workers.environment import with_fast_blas

END_SECONDS = 10.0


class BareBatch:
    """The process, for who compares."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, prompts: list[str], concurrency: int, max_tokens: int) -> dict[str, Any]:
        """Answer prompts; see the module."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"prompts": prompts, "concurrency": concurrency, "max_tokens": max_tokens}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def bare_batch(model: Path) -> Iterator[BareBatch]:
    """Start the process, with the BLAS of tidegate's engine and MLX's own defaults, and end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_batch", str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=with_fast_blas(dict(os.environ)),
    )
    try:
        yield BareBatch(process)
    finally:
        process.kill()  # MLX's threads are sometimes waited for without end when the interpreter ends
        process.wait(END_SECONDS)


def main() -> None:
    """Answer until the input ends."""
    from mlx_lm import load  # noqa: PLC0415 - who starts this process needs no MLX

    model, tokenizer = load(sys.argv[1])[:2]
    for line in sys.stdin:
        asked = json.loads(line)
        chats = [[{"role": "user", "content": prompt}] for prompt in asked["prompts"]]
        prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        print(json.dumps(_run(model, prompts, asked["concurrency"], asked["max_tokens"])), flush=True)


def _run(model: Any, prompts: list[list[int]], concurrency: int, max_tokens: int) -> dict[str, Any]:
    from mlx_lm.generate import BatchGenerator  # noqa: PLC0415 - as above

    generator = BatchGenerator(model, max_tokens=max_tokens, completion_batch_size=max(8, concurrency))
    waiting = prompts[::-1]
    times: dict[int, list[float]] = {}
    running, tokens, started = 0, 0, time.monotonic()
    while waiting or running:
        fresh = [waiting.pop() for _ in range(min(len(waiting), concurrency - running))]
        if fresh:
            running += len(fresh)
            times |= {uid: [time.monotonic()] for uid in generator.insert(fresh)}
        _, responses = generator.next()
        now = time.monotonic()
        for response in responses:
            tokens += 1
            times[response.uid].append(now)
            running -= response.finish_reason is not None
    seconds = time.monotonic() - started
    firsts = [each[1] - each[0] for each in times.values()]
    gaps = [b - a for each in times.values() for a, b in itertools.pairwise(each[1:])]
    return {"tokens": tokens, "seconds": seconds, "first_seconds": firsts, "gap_seconds": gaps}


if __name__ == "__main__":
    main()
