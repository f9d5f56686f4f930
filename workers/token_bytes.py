"""What one token is by itself: its bytes, which need not be whole characters."""

from __future__ import annotations

from typing import Any, Final

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer

_PRINTED: Final = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_REST: Final = [byte for byte in range(0x100) if byte not in {*_PRINTED}]
_BYTES: Final = {chr(byte): byte for byte in _PRINTED} | {
    chr(0x100 + at): byte for at, byte in enumerate(_REST)
}
"""GPT-2's letters for bytes: those that print stand for themselves, the others for what comes after Latin 1, in order."""

_SPACE: Final = "▁".encode()


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """A token's bytes; of a tokenizer that is of no known kind, those of its text.

    A tokenizer's own ``decode`` of a single token has a replacement character for a part of one, and leaves out a space
    before a word.

    Args:
        tokenizer: mlx-lm's wrapper.
        token: of its vocabulary, or beyond it.
    """
    reader = tokenizer.detokenizer
    pieces = reader.tokenmap if isinstance(reader, BPEStreamingDetokenizer | SPMStreamingDetokenizer) else ()
    piece = pieces[token] if token < len(pieces) else None
    if isinstance(piece, bytes):
        return piece.replace(_SPACE, b" ")
    if piece is None:
        return str(tokenizer.decode([token])).encode()
    letters = [_BYTES.get(letter) for letter in piece]
    known = [byte for byte in letters if byte is not None]
    return bytes(known) if len(known) == len(letters) else piece.encode()  # a special token's are letters
