"""A model's folder looked through before MLX reads it: what is broken is refused in words, and ends no engine.

Its files' words reach clients: a chat template is a part of each prompt, a tokenizer's of each answer. So a link in it
that led to another file of this host would hand that file to them. Links within the folder are followed, those from a
snapshot in Hugging Face's cache to its blobs, and those of weights, wherever they lie: nothing else reads as weights.

MLX maps weights as it computes with them; a file that is shorter than its header says, or a configuration of a
thousand million layers, would end or stall the process that every other model's jobs are in.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from scheduler.errors import ModelUnusable

WEIGHTS: Final = "model*.safetensors"
"""As mlx_lm.utils.load_model reads them."""

_KIND: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONFIG_MOST_BYTES: Final = 16 << 20
_HEADER_MOST_BYTES: Final = 100 << 20  # as the safetensors format has it
_COUNT_MOST: Final = 1 << 16
"""Of layers, heads, experts and whatever else a configuration counts: models' classes loop over them."""

_COUNTED: Final = re.compile(r"num_\w+|n_(layers?|heads?|experts?)")
_NOT_LOOPED: Final = re.compile(r"num_\w*(embeddings|tokens|positions|buckets|vocab\w*|params|parameters)")

_LENGTH: Final = struct.Struct("<Q")
_ITEM_BYTES: Final = {
    "BOOL": 1,
    **dict.fromkeys(("U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


def check_folder(folder: Path) -> None:
    """See to it that MLX can read a model's configuration and weights.

    Raises:
        ModelUnusable: it cannot; the message says what is wrong with which file.
    """
    _check_links(folder)
    config = _object(folder / "config.json", _read_small(folder / "config.json"))
    kind = config.get("model_type")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise ModelUnusable(f"config.json: model_type is no name: {str(kind)[:64]!r}")
    for name, count in _counts(config):
        if not 0 <= count <= _COUNT_MOST:
            raise ModelUnusable(f"config.json: {name} is {str(count)[:32]}")
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        if any(folder.glob("*.gguf")):
            raise ModelUnusable("the folder has weights as GGUF; they are read as safetensors alone")
        raise ModelUnusable(f"the folder has no weights ({WEIGHTS})")
    for path in files:
        _check_weights(path)


def _check_links(folder: Path) -> None:
    """That no link leads to a file of another's."""
    home = folder.resolve()
    within = [home]
    if home.parent.name == "snapshots":
        within.append(home.parent.with_name("blobs"))
    for root, folders, files in os.walk(home):
        for path in (Path(root, name) for name in (*folders, *files)):
            if not path.is_symlink() or (path.suffix == ".safetensors" and path.is_file()):
                continue
            target = Path(os.path.realpath(path))
            if not any(target.is_relative_to(each) for each in within):
                raise ModelUnusable(
                    f"{path.relative_to(home)} is a link out of the model's folder: copy what it leads to"
                )


def _read_small(path: Path) -> bytes:
    try:
        if path.stat().st_size > _CONFIG_MOST_BYTES:
            raise ModelUnusable(f"{path.name} is larger than {_CONFIG_MOST_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ModelUnusable(f"{path.name} cannot be read: {error.strerror}") from None


def _object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(f"{path.name} is not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise ModelUnusable(f"{path.name} holds no object")
    return found


def _counts(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every number that a class may count to, wherever it stands."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif isinstance(value, int) and _COUNTED.fullmatch(name) and not _NOT_LOOPED.fullmatch(name):
            yield name, value


def _check_weights(path: Path) -> None:
    """That a file of weights is as long as its header says, and each tensor as its shape does."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH.size)
            length: int = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size
            if length > min(_HEADER_MOST_BYTES, size - _LENGTH.size):
                raise ModelUnusable(f"{path.name} is cut short, or no safetensors file: {size:,} bytes")
            header = file.read(length)
    except OSError as error:
        raise ModelUnusable(f"{path.name} cannot be read: {error.strerror}") from None
    room = size - _LENGTH.size - length
    for name, tensor in _object(path, header).items():
        if name != "__metadata__":
            _check_tensor(f"{path.name}: {name[:128]}", tensor, room)


def _check_tensor(name: str, tensor: Any, room: int) -> None:
    """That a tensor lies within its file."""
    try:
        kind, shape, (begin, end) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        sound = all(type(each) is int and each >= 0 for each in (*shape, begin, end))
        item = _ITEM_BYTES.get(kind)
    except (TypeError, KeyError, ValueError):
        raise ModelUnusable(f"{name} is described by no type, shape and offsets") from None
    if not sound or begin > end or (item is not None and math.prod(shape) * item != end - begin):
        raise ModelUnusable(f"{name} does not have the length of its shape")
    if end > room:
        raise ModelUnusable(f"{name} ends behind the file, which is cut short by {end - room:,} bytes")
