"""A broken model's folder is refused in words that name the file; code that comes with a model has a bound."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import pytest

from scheduler.errors import ModelUnusable
from workers.deadline import processor_seconds
from workers.model_folder import check_folder

TENSOR = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def folder(path: Path, config: object = None, header: object = None, data: bytes = bytes(16)) -> Path:
    """A model's folder."""
    said = {"model_type": "llama", "num_hidden_layers": 1} if config is None else config
    (path / "config.json").write_text(said if isinstance(said, str) else json.dumps(said))
    head = json.dumps({"__metadata__": {}, "a": TENSOR} if header is None else header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def test_a_sound_folder_is_let_through(tmp_path: Path) -> None:
    """Also with a type of tensor that is not known here, and large numbers that nothing loops over."""
    check_folder(folder(tmp_path))
    config = {"model_type": "x-1_Y", "vocab_size": 1 << 20, "max_position_embeddings": 1 << 30}
    check_folder(folder(tmp_path, config, {"a": TENSOR | {"dtype": "F4", "shape": [3]}}))


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "tokenizer.json", "more/templates/x.jinja", "vocab.txt"]
)
def test_a_link_to_another_file_of_the_host_is_refused(tmp_path: Path, name: str) -> None:
    """Its words would be a part of prompts or answers; the message names the link, and not where it leads."""
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("s")
    made = folder(tmp_path / "model")
    (made / name).parent.mkdir(parents=True, exist_ok=True)
    (made / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ModelUnusable, match=rf"^{name} is a link out of the model's folder: copy what"):
        check_folder(made)


def test_a_link_to_another_folder_of_the_host_is_refused(tmp_path: Path) -> None:
    """Likewise, whatever it is called."""
    (tmp_path / "model").mkdir()
    made = folder(tmp_path / "model")
    (made / "more.safetensors").symlink_to(tmp_path)
    with pytest.raises(ModelUnusable, match=r"^more\.safetensors is a link out"):
        check_folder(made)


def test_links_that_models_are_made_of_are_followed(tmp_path: Path) -> None:
    """Hugging Face's from a snapshot to its blobs; within a folder; of weights; and the folder's own name."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1f", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    made = folder(snapshot)
    for each in list(made.iterdir()):
        each.rename(blobs / each.name)
        each.symlink_to(f"../../blobs/{each.name}")
    check_folder(made)
    (made / "again.json").symlink_to("config.json")
    (tmp_path / "big").mkdir()
    (blobs / "model.safetensors").rename(tmp_path / "big" / "weights")
    (made / "model.safetensors").unlink()
    (made / "model.safetensors").symlink_to(tmp_path / "big" / "weights")
    (tmp_path / "name").symlink_to(made)
    check_folder(tmp_path / "name")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "config.json is not JSON"),
        ("[" * 5000, "config.json is not JSON"),
        ([], "config.json holds no object"),
        ({}, "model_type is no name"),
        ({"model_type": "../evil"}, "model_type is no name: '../evil'"),
        ({"model_type": "a.b"}, "model_type is no name"),
        ({"model_type": "llama", "num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"model_type": "llama", "text_config": {"n_layers": -1}}, "n_layers is -1"),
    ],
)
def test_a_configuration_that_no_class_could_follow(tmp_path: Path, config: object, words: str) -> None:
    """Before any class is looked up or made."""
    with pytest.raises(ModelUnusable, match=words):
        check_folder(folder(tmp_path, config))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([], "holds no object"),
        ({"a": {}}, "no type, shape and offsets"),
        ({"a": TENSOR | {"shape": [-2, -2]}}, "does not have the length of its shape"),
        ({"a": TENSOR | {"shape": [2, 3]}}, "does not have the length of its shape"),
        ({"a": TENSOR | {"data_offsets": [16, 0]}}, "does not have the length of its shape"),
        ({"a": TENSOR | {"dtype": ["F32"]}}, "no type, shape and offsets"),
        ({"a": TENSOR | {"data_offsets": [16, 32]}}, "cut short by 16 bytes"),
    ],
)
def test_weights_that_are_not_what_their_header_says(tmp_path: Path, header: object, words: str) -> None:
    """The file is named, and the tensor."""
    with pytest.raises(ModelUnusable, match=f"^model.safetensors.*{words}"):
        check_folder(folder(tmp_path, header=header))


@pytest.mark.parametrize(
    "content", [b"", b"\x05", struct.pack("<Q", 1 << 63) + b"{}", b"GGUF\x03\0\0\0" + bytes(9)]
)
def test_weights_of_another_format(tmp_path: Path, content: bytes) -> None:
    """Cut short in the header, or of another format under that name."""
    (folder(tmp_path) / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelUnusable, match="cut short, or no safetensors file"):
        check_folder(tmp_path)


def test_what_lacks_is_named(tmp_path: Path) -> None:
    """Weights, weights of a format that is not read, the configuration."""
    (folder(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match="has no weights"):
        check_folder(tmp_path)
    (tmp_path / "m.gguf").touch()
    with pytest.raises(ModelUnusable, match="GGUF"):
        check_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelUnusable, match=r"config.json cannot be read"):
        check_folder(tmp_path)


def test_code_that_loops_for_ever_is_interrupted() -> None:
    """By what it takes of the processor; what ends in time is left alone."""
    with pytest.raises(TimeoutError, match=r"0.05 s"), processor_seconds(0.05):
        while True:
            pass
    with processor_seconds(0.05):
        pass
    spent = time.process_time() + 0.1
    while time.process_time() < spent:
        pass
