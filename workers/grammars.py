"""One model's grammars: its tokenizer as llguidance reads it, and what was compiled before."""

from __future__ import annotations

import json
from copy import copy
from functools import cached_property, lru_cache
from typing import Any, Final

from llguidance import LLMatcher, LLTokenizer

from scheduler.compiling import LIMITS, plain
from scheduler.grammar import CallMarks, grammar_of, unfit
from scheduler.request import JobRequest

_KEPT: Final = 16
"""Compiled grammars: whoever asks for one usually asks for it again."""

_JSON_CALLS: Final = "mlx_lm.tool_parsers.json_tools"


class Grammars:
    """Makes matchers for one model's jobs. Nothing is made before a job asks for it.

    Args:
        tokenizer: mlx-lm's wrapper.
        vocabulary: size of the logits.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._compiled = lru_cache(_KEPT)(self._compile)

    def matcher(self, request: JobRequest) -> LLMatcher | None:
        """A matcher at the beginning of a job's answer; None where the answer may be anything.

        Raises:
            ClientError: ``invalid_request``; the form that is asked for cannot be imposed.
        """
        grammar = grammar_of(request, self.call_marks)
        if grammar is None:
            return None
        try:
            compiled = self._compiled(grammar)
        except ValueError as error:
            raise unfit(request, str(error)) from None
        return compiled.deep_copy()

    @cached_property
    def call_marks(self) -> CallMarks | None:
        """Of calls that the model writes as JSON between marks; None where it writes them in another way, or none."""
        if getattr(self._tokenizer.tool_parser, "__module__", None) != _JSON_CALLS:
            return None
        return CallMarks(
            _mark(self._tokenizer.tool_call_start, self._tokenizer.tool_call_start_tokens),
            _mark(self._tokenizer.tool_call_end, self._tokenizer.tool_call_end_tokens),
        )

    @cached_property
    def _words(self) -> LLTokenizer:
        """The tokenizer with one bit a token; of 150,000 tokens it takes about a second, once.

        Raises:
            ValueError: llguidance reads no tokenizers of its kind.
        """
        backend = copy(getattr(self._tokenizer, "backend_tokenizer", None))
        if backend is None:
            raise ValueError("the model's tokenizer is not one of Hugging Face's fast ones")
        backend.no_padding()
        backend.no_truncation()
        ends = sorted(int(token) for token in self._tokenizer.eos_token_ids)
        size = max(self._vocabulary, backend.get_vocab_size(with_added_tokens=True))
        return LLTokenizer(backend.to_str(), n_vocab=size, eos_token=ends or None)

    def _compile(self, grammar: str) -> LLMatcher:
        """A matcher that is only copied.

        Raises:
            ValueError: what is wrong with the grammar.
        """
        compiled = LLMatcher(self._words, grammar, log_level=0, limits=LIMITS)
        if fault := plain(compiled):
            raise ValueError(fault)
        return compiled


def _mark(text: str, tokens: tuple[int, ...]) -> str:
    """A mark as the grammar has it: one token by its number, since the same letters may be other tokens too."""
    return f"<[{tokens[0]}]>" if len(tokens) == 1 else json.dumps(text)
