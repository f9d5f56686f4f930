"""What an engine would find on this host, told as JSON: for `tidegate doctor`, which imports no MLX itself.

``python -m workers.about``, with the worker's own variables. It computes nothing, loads nothing and changes nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import psutil
from huggingface_hub import constants

from scheduler.errors import ModelUnusable
from scheduler.settings import Settings, is_missing_folder, load
from workers import gauge, macos
from workers.environment import engine_environment
from workers.model_folder import check_folder
from workers.residency import files_here, weights_on_disk


def about(settings: Settings) -> dict[str, Any]:
    """The device, the memory in bytes with every limit on it, the BLAS and the models."""
    limits = gauge.read_limits()
    steady, steady_source = gauge.steady_budget(limits, settings.memory_budget)
    now, now_source = gauge.derive_budget(limits, settings.memory_budget)
    metal = mx.metal.is_available()
    blas = engine_environment(dict(os.environ), preload=settings.blas_preload == "auto").get("LD_PRELOAD", "")
    return {
        "platform": sys.platform,
        "device": gauge.device_name(),
        "nvidia": Path("/proc/driver/nvidia/version").exists(),
        "limits_bytes": limits,
        "steady_bytes": steady,
        "steady_source": steady_source,
        "now_bytes": now,
        "now_source": now_source,
        "pressure": macos.pressure_level().name.lower(),
        "total_bytes": psutil.virtual_memory().total,
        "swap_bytes": psutil.swap_memory().used,
        "wired_limit_mb": macos.sysctl_number("iogpu.wired_limit_mb") if metal else None,
        "blas": blas,
        "offline": bool(constants.HF_HUB_OFFLINE),
        "hub_folder": constants.HF_HUB_CACHE,
        "hub_free_bytes": _free_bytes(Path(constants.HF_HUB_CACHE)),
        "models": [_model(name, source) for name, source in settings.model_sources.items()],
    }


def _free_bytes(folder: Path) -> int:
    """What is free where a folder is, or will be made."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _model(name: str, source: str) -> dict[str, Any]:
    """A model's files as a worker would find them; nothing is fetched."""
    said: dict[str, Any] = {"name": name, "source": source, "is_folder": Path(source).expanduser().is_dir()}
    if is_missing_folder(source):
        return said | {"problem": "the folder does not exist"}
    configs = files_here(source, "config.json")
    weights = weights_on_disk(source)
    if not configs and not weights:
        return said | {"problem": "there is no config.json" if said["is_folder"] else ""}
    said |= {"kind": _kind(configs), "weights_bytes": weights, "lacking": _lacking(source)}
    try:
        if configs and weights and not said["lacking"]:
            check_folder(configs[0].parent)
    except ModelUnusable as error:
        return said | {"problem": str(error)}
    return said


def _kind(configs: list[Path]) -> str | None:
    """The architecture that a ``config.json`` names; None where it cannot be read."""
    try:
        kind = json.loads(configs[0].read_text())["model_type"] if configs else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return kind if isinstance(kind, str) else None


def _lacking(source: str) -> list[str]:
    """Weight files that the model's own index names and that are not here."""
    found = {path.name for path in files_here(source, "*.safetensors")}
    named: set[str] = set()
    for index in files_here(source, "model.safetensors.index.json"):
        try:
            named |= set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return [index.name]
    return sorted(named - found)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(about(load())))
