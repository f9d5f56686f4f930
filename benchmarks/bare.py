"""mlx-lm alone, one request after another: ``python -m benchmarks.bare MODEL MAX_TOKENS < PROMPTS``.

The prompts are a JSON list; each is a chat of one message. Prints a JSON line: the seconds that all took, the
model loaded and warm, and the tokens made.
"""

from __future__ import annotations

import json
import os
import sys
import time

from mlx_lm import load, stream_generate


def main() -> None:
    """Measure and print."""
    folder, max_tokens = sys.argv[1], int(sys.argv[2])
    prompts: list[str] = json.load(sys.stdin)
    model, tokenizer = load(folder)[:2]

    def answer(prompt: str, length: int) -> int:
        chat = [{"role": "user", "content": prompt}]
        tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
        return sum(1 for _ in stream_generate(model, tokenizer, tokens, max_tokens=length))

    answer("warm", 2)
    started = time.monotonic()
    made = sum(answer(prompt, max_tokens) for prompt in prompts)
    print(json.dumps({"seconds": time.monotonic() - started, "tokens": made}), flush=True)
    os._exit(0)  # MLX's threads are sometimes waited for without end when the interpreter ends


if __name__ == "__main__":
    main()
