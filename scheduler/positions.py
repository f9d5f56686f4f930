"""Refusing at submit a prompt that has more tokens than the model has positions, where the API can count it.

What the API does not know for certain waits for the worker, which counts every prompt before it computes any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scheduler.errors import ClientError
from scheduler.request import JobRequest
from scheduler.tokenizers import COUNTED_CHARACTERS, PromptCounter, PromptTokens
from scheduler.verdict import WorkerView

_SEAM_TOKENS: Final = 8
"""A text that is counted in pieces may make so many tokens less for each seam as a whole."""

_PIECES_MOST: Final = 16
"""Pieces that are counted, each in 15 to 30 ms; a model with more positions than they fill has its worker count."""

_ALWAYS_RENDERED: Final = frozenset({"system", "user"})
"""Roles whose text every chat template takes whole; of an assistant's, some leave the reasoning out."""


def refuse_overlong(
    counter: PromptCounter, request: JobRequest, prompt: PromptTokens, workers: Sequence[WorkerView]
) -> None:
    """Refuse what no worker that takes the job has positions for.

    Args:
        counter: with the model's tokenizer, where it is published.
        request: the job.
        prompt: how long the counter took it to be.
        workers: the live ones that take it; of those that have not measured the model nothing is known.

    Raises:
        ClientError: ``invalid_request``, as where a worker counts the prompt.
    """
    cards = [view.cards[request.model] for view in workers if request.model in view.cards]
    positions = max((card.context_tokens for card in cards), default=0)
    if not positions or prompt.likely < positions:
        return
    exact = request.prompt is not None and prompt.least == prompt.likely
    least = prompt.likely if exact else _counted(counter, request, positions)
    if least >= positions:
        reason = (
            f"the prompt has {'' if exact else 'at least '}{least:,} tokens; "
            f"{request.model} has {positions:,} positions"
        )
        raise ClientError("invalid_request", reason, param="messages" if request.messages else "prompt")


def _counted(counter: PromptCounter, request: JobRequest, enough: int) -> int:
    """Tokens that a prompt has at least, counted until there are enough; 0 where they cannot be counted."""
    around = counter.count(JobRequest(model=request.model, prompt="a")).likely - 1
    tokens = 0
    for piece in _pieces(request)[:_PIECES_MOST]:
        counted = counter.count(JobRequest(model=request.model, prompt=piece))
        if counted.least != counted.likely:
            return 0
        tokens += max(0, counted.likely - around - (_SEAM_TOKENS if tokens else 0))
        if tokens >= enough:
            break
    return tokens


def _pieces(request: JobRequest) -> list[str]:
    """What is certain to be rendered, in pieces that are counted whole."""
    texts = [request.prompt or ""]
    if request.messages is not None:
        texts = [message.text.strip() for message in request.messages if message.role in _ALWAYS_RENDERED]
    step = COUNTED_CHARACTERS
    return [text[start : start + step] for text in texts for start in range(0, len(text), step)]
