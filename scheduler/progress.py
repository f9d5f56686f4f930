"""How far a job is, as clients see it: its tokens, and how fast they come. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

Tokens = Annotated[int, Field(ge=0, le=1 << 53)]


@dataclass(frozen=True, slots=True)
class Far:
    """How far a worker is with a job, as it last reported."""

    prompt_tokens: Tokens
    prompt_tokens_computed: Tokens
    """Of the prompt, and in a later attempt of what was made before, as far as the engine told."""
    completion_tokens: Tokens
    tokens_per_second: Annotated[FiniteFloat, Field(ge=0)] | None = None


def progress(
    far: Far, created_at: float, first_token_at: float | None, *, running: bool = False
) -> Mapping[str, Any]:
    """A job's progress; seconds to the first token are counted from its submission.

    Args:
        far: how far it is, or was.
        created_at: Unix seconds.
        first_token_at: likewise; None where there was none, or that is not known.
        running: whether a worker has it now.
    """
    waited = None if first_token_at is None else round(max(0.0, first_token_at - created_at), 3)
    said: dict[str, Any] = {"prompt_tokens": far.prompt_tokens}
    if running:
        said["prompt_tokens_computed"] = min(far.prompt_tokens, far.prompt_tokens_computed)
    return said | {
        "completion_tokens": far.completion_tokens,
        "tokens_per_second": None if far.tokens_per_second is None else round(far.tokens_per_second, 2),
        "first_token_seconds": waited,
    }


def rate(tokens: int, first_at: float | None, last_at: float | None) -> float | None:
    """Tokens a second between the first of them and the last; None where two times do not tell."""
    if first_at is None or last_at is None or tokens < 2 or last_at <= first_at:  # noqa: PLR2004
        return None
    return (tokens - 1) / (last_at - first_at)
