"""Write random-weight models of mlx-lm's own classes as folders that `mlx_lm.load` opens.

For tests and benchmarks: no network, small ones in well under a second. A token is a byte, so that
a prompt's length in tokens is its length in UTF-8. The weights are noise, but the output is not:

- **Text.** The output projection is fitted to the hidden states that the model really has: only
  printable ASCII and newline win (and the EOS token, unless `never_stops`), however long the
  vocabulary is. No token is ahead on average, so that greedy output does not settle on one.
- **The same text in any company.** The two leading logits lie `logit_spread / 3` apart at the
  median. Between a batch of one and of eight, MLX's own float32 matmul on a CPU gave equal logits,
  OpenBLAS logits that differ by up to 2e-5 of the spread (two layers): a lead that small comes
  once in 30,000 tokens, so fix the seed, and a test does not meet it.
"""

import importlib
import json
import string
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.small_models import ALONE_CONFIGS, BYTES, COMMON, SMALL_CONFIGS, SPECIAL_TOKENS

GAIN = 2.0  # of every matrix: sharp attention, so that what comes next hangs on the whole history
WRITABLE = [ord(character) for character in string.printable if character not in "\t\r\x0b\x0c"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_random_llama(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    intermediate: int | None = None,
    vocab: int = 512,
    max_position: int = 4096,
    seed: int = 0,
    dtype: str = "float32",
    logit_spread: float = 4.0,
    eos_token: str = "<|im_end|>",
    never_stops: bool = False,
) -> Path:
    """Write a llama with grouped-query attention; see `write_random_model`.

    Its KV cache takes 2 x layers x kv_heads x head_dim x the dtype's bytes per token.
    """
    config = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim or hidden // heads,
        "intermediate_size": intermediate or 2 * hidden,
        "vocab_size": vocab,
        "max_position_embeddings": max_position,
    }
    return write_random_model(
        folder,
        "llama",
        config,
        seed=seed,
        dtype=dtype,
        logit_spread=logit_spread,
        eos_token=eos_token,
        never_stops=never_stops,
    )


def write_random_model(
    folder: Path,
    model_type: str,
    config_overrides: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    dtype: str = "float32",
    logit_spread: float = 4.0,
    eos_token: str = "<|im_end|>",
    never_stops: bool = False,
) -> Path:
    """Write a model of the class `mlx_lm.models.<model_type>`; return `folder`.

    `config_overrides` go over `SMALL_CONFIGS[model_type]` or `ALONE_CONFIGS[model_type]`; a type that is not listed there needs
    them in full. `logit_spread` is the standard deviation of the logits of printable tokens: about
    4 leaves sampling at temperature 1 some choice, 0.5 makes it nearly uniform. With `never_stops`
    the EOS token is 40 spreads below the rest, so that only `max_tokens` ends an answer; without,
    it is as likely as any letter. Seeds MLX's global random generator with `seed`.
    """
    known = SMALL_CONFIGS | ALONE_CONFIGS
    config = COMMON | known.get(model_type, {}) | (config_overrides or {})
    config |= {"model_type": model_type, "dtype": dtype}
    if "text_config" in config:
        config["text_config"] = {name: value for name, value in config.items() if name != "text_config"}
    if config["vocab_size"] < BYTES + len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size is {config['vocab_size']}; bytes and specials take 260")
    eos_id = BYTES + SPECIAL_TOKENS.index(eos_token)
    config |= {"bos_token_id": BYTES, "eos_token_id": eos_id}
    tokens = WRITABLE if never_stops else [*WRITABLE, eos_id]
    model = _build_model(config, seed)
    if model_type == "afm7":
        _fit_embedding(model, tokens)
    else:
        inner: Any = getattr(model, "language_model", model)
        _fit_lm_head(inner, tokens, logit_spread)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: w.astype(getattr(mx, dtype)) for name, w in _weights(model).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_tokenizer(folder, eos_token, config["max_position_embeddings"])
    return folder


def _build_model(config: dict[str, Any], seed: int) -> nn.Module:
    """The model with random matrices; norms, biases and SSM rates stay as its class makes them.

    Hidden feature 0 belongs to no token and no layer writes to it, so that it reaches the output
    projection with the same sign whatever was read.
    """
    mx.random.seed(seed)
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    embeddings = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    weights = _weights(model)
    for name, weight in weights.items():
        if weight.ndim < 2:
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                weights[name] = weight + (GAIN - 1.0)  # the norm hides the gain of the matrix
            continue
        # Of unit variance; uniform numbers cost a quarter of normal ones.
        matrix = mx.random.uniform(-(3**0.5), 3**0.5, weight.shape)
        if name in embeddings:
            matrix[:, 0] = 4.0
        else:
            convolves = weight.shape[-1] == 1
            matrix *= GAIN * weight.shape[-2 if convolves else -1] ** -0.5
            if weight.shape[-2] == config["hidden_size"]:
                matrix[..., 0, :] = 0.0
        weights[name] = matrix
    model.update(tree_unflatten(list(weights.items())))
    return model


def _weights(model: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def _fit_lm_head(model: nn.Module, tokens: list[int], logit_spread: float) -> None:
    """Make `tokens` compete evenly for the next place, and every other token lose."""
    vocab, features = model.lm_head.weight.shape
    model.lm_head.weight = mx.eye(features)
    prompt = mx.random.randint(ord(" "), ord("~"), (4, 64))
    hidden = model(prompt).reshape(-1, features)
    mean = hidden.mean(axis=0)
    head = mx.zeros((vocab, features))
    head[:, 0] = -40.0 * logit_spread / mean[0]
    mean[0] = 0.0
    rows = mx.random.normal((len(tokens), features))
    rows[:, 0] = 0.0
    rows -= (rows @ mean)[:, None] * mean / mean.square().sum()
    head[mx.array(tokens)] = rows * (logit_spread / mx.std(hidden @ rows.T))
    model.lm_head.weight = head


def _fit_embedding(model: nn.Module, tokens: list[int]) -> None:
    """Make every token but `tokens` lose, where a token's embedding is its row of the output projection."""
    kept = mx.array(tokens)
    first = mx.full(model.model.embedding.weight.shape[0], -40.0)
    first[kept] = model.model.embedding.weight[kept, 0]
    model.model.embedding.weight[:, 0] = first


def _write_tokenizer(folder: Path, eos_token: str, max_position: int) -> None:
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(BYTES) if byte not in kept]
    # GPT-2's byte alphabet, which `pre_tokenizers.ByteLevel` speaks.
    alphabet = {chr(byte): byte for byte in kept}
    alphabet |= {chr(BYTES + place): byte for place, byte in enumerate(moved)}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": eos_token,
        "pad_token": SPECIAL_TOKENS[3],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_position,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
