"""A model's card: one that was kept, by this host or another, else a measured one that is kept from now on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scheduler.card import CARD_VERSION, ModelCard
from workers.caches import cache_groups, runs_alone
from workers.models import LoadedModel
from workers.probe import measure
from workers.residency import files_here


def card_for(
    loaded: LoadedModel,
    source: str,
    device: str,
    folder: Path,
    kept: Iterable[dict[str, Any]] = (),
    *,
    chunk_tokens: int,
    prefill_rows: int,
    for_good: bool = True,
    **limits: Any,
) -> ModelCard:
    """A model's card: one that is kept for these very files, MLX and device, else a measured one.

    Args:
        loaded: the model.
        source: what it was loaded from.
        device: where.
        folder: of the cards on disk.
        kept: cards of other hosts, as :meth:`ModelCard.to_json` wrote them.
        chunk_tokens: the engine's prefill chunk.
        prefill_rows: how many prompts it computes together.
        for_good: whether what is measured now is to be kept: not where little room is left for longer chunks.
        limits: as for :func:`measure`.

    Raises:
        ModelUnsupported: as for :func:`~workers.caches.cache_groups`.
    """
    fingerprint = fingerprint_of(source, device, chunk_tokens, prefill_rows)
    card = _known(kept, folder, fingerprint)
    if card is None:
        card = measure(loaded, device, chunk_tokens=chunk_tokens, prefill_rows=prefill_rows, **limits)
        fingerprint = fingerprint if for_good else ""
    else:  # whoever keeps cards may have written it: what is counted in a moment is not taken from it
        card = replace(
            card,
            weights_bytes=loaded.weights_bytes,
            caches=cache_groups(loaded),
            logits_bytes=loaded.vocabulary * 4,
            context_tokens=loaded.context_tokens,
            alone=runs_alone(loaded),
        )
    card = replace(card, model=loaded.name, fingerprint=fingerprint)
    keep_card(card, folder)
    return card


def _known(kept: Iterable[dict[str, Any]], folder: Path, fingerprint: str) -> ModelCard | None:
    """A card of these very files, MLX and device: among those told, else on disk."""
    for fields in (*kept, _on_disk(folder, fingerprint)):
        try:
            card = ModelCard.from_json(fields)
        except ValueError:
            continue
        if card.fingerprint == fingerprint:
            return card
    return None


def keep_card(card: ModelCard, folder: Path) -> None:
    """Write a card to disk, its folder made in the data folder; one without a fingerprint is for now."""
    if not card.fingerprint:
        return
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the mode is not for parents
    folder.mkdir(exist_ok=True)
    partial = folder / f"{card.fingerprint}.partial"
    partial.write_text(json.dumps(card.to_json()))
    partial.replace(folder / f"{card.fingerprint}.json")


def _on_disk(folder: Path, fingerprint: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads((folder / f"{fingerprint}.json").read_text())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def fingerprint_of(source: str, device: str, chunk_tokens: int, prefill_rows: int) -> str:
    """Of a model's files as they are loaded, MLX's version, the device and how prompts are computed."""
    (config,) = (path.read_text() for path in files_here(source, "config.json"))
    sizes = sorted((path.name, path.stat().st_size) for path in files_here(source, "*.safetensors"))
    buffers = sorted(item for item in os.environ.items() if item[0].startswith("MLX_MAX_"))
    versions = [CARD_VERSION, version("mlx"), version("mlx-lm")]
    parts = [*versions, config, sizes, device, buffers, chunk_tokens, prefill_rows]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
