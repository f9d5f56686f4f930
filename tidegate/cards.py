"""Model cards as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from scheduler.card import MARGIN, ModelCard
from scheduler.errors import gib
from scheduler.slots import CacheGroup
from tidegate.text import fields_of, figure, printable

COOLING: Final = "cooling down"
"""What a worker says of its engine where engines died again and again, of memory most of all."""


def measured(workers: Iterable[dict[str, Any]], model: str | None = None) -> Iterator[dict[str, Any]]:
    """Each worker's models with their cards, from what ``/v1/capacity`` says of workers.

    Args:
        workers: the live ones.
        model: the only one wanted; None for all.
    """
    for worker in workers:
        for served in worker["models"]:
            if model in {None, served["id"]}:
                yield {
                    "worker": worker["name"],
                    "engine": worker.get("engine"),
                    "out_of_memory": fields_of(worker, "counters").get("out_of_memory", 0),
                    "model": served["id"],
                    "card": served["card"],
                }


def remarks(workers: Iterable[dict[str, Any]]) -> dict[str, str]:
    """What is to be remarked of models, by their names: where jobs run alone, and where an engine is to recover."""
    said: dict[str, list[str]] = {}
    for each in measured(workers):
        if fields_of(each["card"]).get("alone") is True:
            said.setdefault(each["model"], []).append(f"runs alone on {each['worker']}")
        if each["engine"] == COOLING:
            said.setdefault(each["model"], []).append(f"{each['worker']} cools down")
    return {model: "; ".join(each) for model, each in said.items()}


def title(said: dict[str, Any]) -> str:
    """Whose card of what it is."""
    return printable(f"{said['model']} on {said['worker']}")


def figures(said: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """One worker's card of one model: names and values."""
    fields = said["card"]
    if said.get("engine") == COOLING:
        yield "cools down", "the worker's engine died again and again; a new one is started in a while"
        yield "out of memory", f"{figure(said['out_of_memory']):,.0f} times since the worker began"
    if fields is None:
        yield "card", "not measured yet: the model was not loaded since the worker's engine began"
        return
    try:
        card = ModelCard.from_json(fields)
    except ValueError as error:
        yield "card", str(error)
        return
    if card.alone:
        yield "runs alone", "its jobs cannot share a batch: one at a time"
    yield "weights", gib(card.weights_bytes)
    yield from map(_cache, card.caches)
    yield "row of logits", gib(card.logits_bytes)
    for tokens, size in card.chunk_bytes:
        yield f"first chunk of {tokens:,} tokens", f"{gib(size)} for a while"
    for rows, tokens, share in card.together:
        yield f"{rows} chunks of {tokens:,} tokens together", f"{share:.0%} of {rows} times one"
    for tokens, per_key, contexts in card.later_bytes:
        sizes = ", ".join(f"{gib(int(size))} at {context:,}" for context, size in contexts)
        yield f"later chunk of {tokens:,} tokens", f"{sizes}, {per_key:,.0f} B a token beyond"
    yield (
        "decode step",
        f"{gib(card.decode_bytes)} and {card.decode_bytes_per_key:,.1f} B a key, for each row",
    )
    yield "copies", f"{card.copied_layers:.2f} layers at once"
    yield "padding", f"{card.padded_bytes_per_pair:.1f} B a new token and key, beside rows of another length"
    yield "margins", f"prefill {_margin(card.prefill_margin)}, decode {_margin(card.decode_margin)}"
    yield "positions", f"{card.context_tokens:,} tokens"
    yield "measured on", card.device
    yield "fingerprint", f"{card.fingerprint or '-'} (version {card.version})"


def _cache(group: CacheGroup) -> tuple[str, str]:
    layers = f"{group.layers:,} layer{'s' if group.layers != 1 else ''}"
    if group.kind == "state":
        return "state", f"{gib(group.state_bytes)} a row in {layers}"
    window = f", window of {group.window_tokens:,} tokens" if group.kind == "sliding" else ""
    return f"{group.kind} cache", f"{group.bytes_per_token:,} B a token in {layers}{window}"


def _margin(margin: float) -> str:
    return f"× {margin:.2f}" + (" (learnt)" if margin != MARGIN else "")
