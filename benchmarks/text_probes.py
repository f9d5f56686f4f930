"""What is asked of `/v1/completions`, field by field."""

from __future__ import annotations

from typing import Final

from benchmarks.completion_probes import BOTH, field, text_of

TEXT: Final = "/v1/completions"

_TEXT_FIELDS: Final = (
    field(
        "prompt",
        ["Say something.", "Say more."],
        "a choice for each of two prompts",
        lambda body: len(body["choices"]) == 2,
    ),
    field(
        "logprobs",
        3,
        "of each token, with three others",
        lambda body: len(body["choices"][0]["logprobs"]["tokens"]) == 24,
    ),
    field(
        "echo", True, "the prompt before the text", lambda body: text_of(body).startswith("Say something.")
    ),
    field("suffix", "end", "text that leads to it", lambda _: False),
    field(
        "best_of",
        2,
        "one choice, and the tokens of two",
        lambda body: body["usage"]["completion_tokens"] == 48,
    ),
)

TEXT_PROBES: Final = tuple(make(TEXT) for make in (*BOTH, *_TEXT_FIELDS))
