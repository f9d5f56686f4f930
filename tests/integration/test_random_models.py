"""Random models load, write text, and write the same text in any company."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import mlx_lm
import pytest
from mlx import nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.tokenizer_utils import TokenizerWrapper

from benchmarks.random_models import write_random_llama, write_random_model
from benchmarks.small_models import SMALL_CONFIGS

TEXTS = [
    "a",
    "Hello there",
    "The quick brown fox jumps over the lazy dog. " * 3,
    "x" * 40,
    "12",
    "once upon a time",
    "def f(x):\n    return x",
    "zzz top",
]


def load(folder: Path) -> tuple[nn.Module, TokenizerWrapper]:
    model, tokenizer = mlx_lm.load(str(folder))[:2]
    return model, tokenizer


def generate(
    model: nn.Module, prompts: Sequence[list[int]], max_tokens: int, eos_ids: Sequence[int] = ()
) -> tuple[list[list[int]], float]:
    """Greedy tokens of each prompt, generated in one batch; and the least lead of a token."""
    generator = BatchGenerator(model, max_tokens=max_tokens, stop_tokens=[[token] for token in eos_ids])
    uids = generator.insert(list(prompts))
    tokens: dict[int, list[int]] = {uid: [] for uid in uids}
    least_lead = float("inf")
    while responses := generator.next_generated():
        for response in responses:
            tokens[response.uid].append(response.token)
            lead = mx.diff(mx.sort(response.logprobs)[-2:]).item()
            least_lead = min(least_lead, cast("float", lead))
    generator.close()
    return [tokens[uid] for uid in uids], least_lead


def test_a_llama_is_written_in_a_second(tmp_path: Path) -> None:
    """Small models cost so little that a test may have its own."""
    took = []
    for number in range(3):
        started = time.monotonic()
        write_random_llama(tmp_path / str(number))
        took.append(time.monotonic() - started)
    assert min(took) < 1.0


def test_output_is_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    """Eight prompts of unlike lengths give, byte for byte, what each gives alone."""
    model, tokenizer = load(write_random_llama(tmp_path, never_stops=True))
    prompts = [tokenizer.encode(text) for text in TEXTS]
    together, least_lead = generate(model, prompts, 100)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,), _ = generate(model, [prompt], 100)
        assert tokenizer.decode(alone).encode() == tokenizer.decode(answer).encode()
    # Ten times the noise measured between a batch of one and of eight (6e-5 at a spread of 4).
    assert least_lead > 6e-4


def test_output_depends_on_the_whole_prompt(tmp_path: Path) -> None:
    """A change in a prompt's first byte changes the answer: a wrong cache row would be seen."""
    model, tokenizer = load(write_random_llama(tmp_path, never_stops=True))
    tail = "the same text from here on, for more than a few tokens"
    answers, _ = generate(model, [tokenizer.encode(head + tail) for head in "abcdefgh"], 16)
    assert len({tuple(answer) for answer in answers}) == 8


@pytest.mark.parametrize("model_type", SMALL_CONFIGS)
def test_output_is_readable_and_does_not_settle(tmp_path: Path, model_type: str) -> None:
    """Greedy output is printable, 100 tokens long, and not one token over and over."""
    model, tokenizer = load(write_random_model(tmp_path, model_type, never_stops=True))
    prompts = [tokenizer.encode(text) for text in TEXTS]
    answers, _ = generate(model, prompts, 100, tokenizer.eos_token_ids)
    for answer in answers:
        text = tokenizer.decode(answer)
        assert len(answer) == len(text) == 100
        assert text.replace("\n", " ").isprintable()
        assert len(set(zip(answer, answer[1:], answer[2:], strict=False))) > 40


@pytest.mark.parametrize("model_type", SMALL_CONFIGS)
def test_mlx_lm_loads_and_generates(tmp_path: Path, model_type: str) -> None:
    """Each registered architecture answers a chat with `mlx_lm.generate`."""
    model, tokenizer = load(write_random_model(tmp_path, model_type, never_stops=True))
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": None}, {"role": "user", "content": "Hi"}],
        tools=[{"type": "function", "function": {"name": "f"}}],
        add_generation_prompt=True,
    )
    assert tokenizer.decode(prompt) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert mlx_lm.generate(model, tokenizer, prompt, max_tokens=4)


def test_a_token_is_a_byte(tmp_path: Path) -> None:
    """Any text has as many tokens as bytes, and comes back whole."""
    _, tokenizer = load(write_random_llama(tmp_path))
    text = "\x00\t é \u6f6e 🌊\n" + "".join(map(chr, range(32, 256)))
    assert len(tokenizer.encode(text)) == len(text.encode())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_answer_can_stop(tmp_path: Path) -> None:
    """Unless `never_stops`, some answers end in the EOS token that was asked for."""
    model, tokenizer = load(write_random_llama(tmp_path, eos_token="<|endoftext|>"))
    assert tokenizer.eos_token_ids == {256}
    prompts = [tokenizer.encode(text) for text in TEXTS]
    answers, _ = generate(model, prompts, 300, tokenizer.eos_token_ids)
    assert any(answer[-1] == 256 and len(answer) < 300 for answer in answers)


def test_a_seed_names_the_weights(tmp_path: Path) -> None:
    """The same seed writes the same file; another seed, another file."""
    written = [
        (write_random_llama(tmp_path / str(i), seed=seed) / "model.safetensors").read_bytes()
        for i, seed in enumerate((1, 1, 2))
    ]
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize("logit_spread", [0.5, 8.0])
def test_logits_spread_as_asked(tmp_path: Path, logit_spread: float) -> None:
    """The printable tokens' logits have about the standard deviation that was asked for."""
    model, tokenizer = load(write_random_llama(tmp_path, logit_spread=logit_spread))
    logits = model(mx.array([tokenizer.encode(TEXTS[2])]))[..., 32:127]
    assert mx.std(logits).item() == pytest.approx(logit_spread, rel=0.2)


def test_sizes_are_as_asked(tmp_path: Path) -> None:
    """A model of other sizes and dtype loads, and still writes only what can be read."""
    shape: dict[str, Any] = {"layers": 3, "hidden": 96, "heads": 6, "kv_heads": 3, "head_dim": 32}
    folder = write_random_llama(
        tmp_path, **shape, vocab=32_000, max_position=256, dtype="bfloat16", never_stops=True
    )
    model, tokenizer = load(folder)
    assert model.layers[2].self_attn.k_proj.weight.shape == (96, 96)
    assert model.layers[2].self_attn.k_proj.weight.dtype == mx.bfloat16
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == 256
    (answer,), _ = generate(model, [tokenizer.encode("Hello")], 32)
    assert tokenizer.decode(answer).replace("\n", " ").isprintable()


def test_a_vocabulary_below_the_bytes_is_refused(tmp_path: Path) -> None:
    """256 bytes and four special tokens are the least."""
    with pytest.raises(ValueError, match="vocab_size is 259"):
        write_random_llama(tmp_path, vocab=259)
