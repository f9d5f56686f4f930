"""A token's own bytes: parts of characters as they are, spaces kept, special tokens by their letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer, load
from tokenizers.pre_tokenizers import ByteLevel

from benchmarks.random_models import SPECIAL_TOKENS, write_random_llama
from workers.token_bytes import token_bytes


class Words:
    """A tokenizer of these pieces, as mlx-lm wraps it."""

    def __init__(self, pieces: list[str], reads: Callable[[Any], Any]) -> None:
        self.pieces = pieces
        self.detokenizer = reads(self)

    def __len__(self) -> int:
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.pieces[each] for each in ids]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[each] if each < len(self.pieces) else "" for each in ids)


@pytest.mark.parametrize(
    ("reads", "pieces", "told"),
    [
        (SPMStreamingDetokenizer, ["▁the", "▁", "<0xF0>", "é", "<s>"], [" the", " ", b"\xf0", "é", "<s>"]),
        (BPEStreamingDetokenizer, ["Ġthe", "ð", "Ċ", "<|end|>", "<｜end｜>"], [" the", b"\xf0", "\n"]),
        (lambda _: None, ["the", " é"], ["the", " é"]),
    ],
    ids=["sentencepiece", "bytes", "other"],
)
def test_each_kind_of_tokenizer_is_read(
    reads: Callable[[Any], Any], pieces: list[str], told: list[str | bytes]
) -> None:
    """As its own text has them; what is told of no more is told by its letters, and what is no token by nothing."""
    words = Words(pieces, reads)
    whole = [each.encode() if isinstance(each, str) else each for each in told]
    whole += [each.encode() for each in pieces[len(told) :]]
    assert [token_bytes(words, at) for at in range(len(pieces))] == whole
    assert token_bytes(words, len(pieces)) == b""


def test_every_byte_is_told_as_itself(tmp_path: Any) -> None:
    """By a real tokenizer, whose single tokens are no characters."""
    tokenizer = load(write_random_llama(tmp_path, layers=1, hidden=8, heads=1, kv_heads=1))
    assert len(ByteLevel.alphabet()) == 256
    assert [token_bytes(tokenizer, byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert [token_bytes(tokenizer, 256 + at).decode() for at in range(len(SPECIAL_TOKENS))] == [
        *SPECIAL_TOKENS
    ]
