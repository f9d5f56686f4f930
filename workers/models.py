"""Loading a served model, and turning a request into its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import load as mlx_load

from scheduler.errors import ClientError, ModelUnsupported, ModelUnusable
from scheduler.message import Message
from scheduler.request import JobRequest
from scheduler.settings import is_missing_folder
from scheduler.tokenizers import SAMPLE
from workers.deadline import processor_seconds
from workers.grammars import Grammars
from workers.model_folder import check_folder
from workers.residency import files_here

_UNKNOWN_KIND = re.compile(r"Model type (\S{1,64}) not supported\.")  # mlx-lm 0.32's words
_NO_CONTEXT_LIMIT = 1 << 20

TEMPLATE_SECONDS: Final = 10.0
"""Of the processor, for a chat template: the longest conversations take one."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory."""

    name: str
    model: Any
    tokenizer: Any
    context_tokens: int
    vocabulary: int
    weights_bytes: int = field(init=False)
    """Bytes of its parameters."""
    grammars: Grammars = field(init=False, compare=False, repr=False)
    """What its jobs' answers can be held to."""

    def __post_init__(self) -> None:
        leaves: Any = tree_flatten(self.model.parameters()) if self.model is not None else ()
        object.__setattr__(self, "weights_bytes", sum(array.nbytes for _, array in leaves))
        object.__setattr__(self, "grammars", Grammars(self.tokenizer, self.vocabulary))


def load_model(name: str, source: str) -> LoadedModel:
    """Load weights and tokenizer; code that comes with a model is never run.

    Args:
        name: what clients call it.
        source: a folder, or a Hugging Face id.

    Raises:
        ModelUnusable: it cannot be loaded; the message says why, to the operator alone: it names files.
        ModelUnsupported: mlx-lm has no such architecture, as those that encode first and then decode.
    """
    if is_missing_folder(source):
        raise ModelUnusable(f"the folder {source} does not exist")
    path = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source
    for config in files_here(source, "config.json") or [Path(path, "config.json")] * (path != source):
        check_folder(config.parent)
    try:
        loaded: Any = mlx_load(path, return_config=True, trust_remote_code=False)
        model, tokenizer, config = loaded
        mx.eval(model.parameters())
    except MemoryError:
        raise
    except Exception as error:
        if kind := _UNKNOWN_KIND.fullmatch(str(error)):
            text = f"{name} is a {kind[1]!r}, of which mlx-lm has no model that generates text"
            raise ModelUnsupported(text) from error
        raise ModelUnusable(f"{name} cannot be loaded from {source}: {error}") from error
    text = config.get("text_config") or config
    context = text.get("max_position_embeddings") or _NO_CONTEXT_LIMIT
    return LoadedModel(
        name, model, tokenizer, int(context), int(text.get("vocab_size") or len(tokenizer.vocab))
    )


def prompt_tokens(loaded: LoadedModel, request: JobRequest) -> list[int]:
    """The request's prompt as token ids.

    Raises:
        ClientError: ``invalid_request``; the chat template refuses the messages, or nothing is left
            of the model's positions for an answer.
    """
    if request.messages is None:
        tokens = loaded.tokenizer.encode(request.prompt)
        param = "prompt"
    else:
        param = "messages"
        messages = [message.for_template() for message in request.messages]
        tools = list(request.tools) if request.tools and request.tool_choice != "none" else None
        try:
            with processor_seconds(TEMPLATE_SECONDS):
                tokens = loaded.tokenizer.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=True
                )
        except Exception as error:
            reason = f"the model's chat template refuses these messages: {error}"
            raise ClientError("invalid_request", reason, param=param) from error
    ids = [int(token) for token in tokens]
    if not ids:
        raise ClientError("invalid_request", "the prompt has no tokens", param=param)
    if len(ids) >= loaded.context_tokens:
        reason = f"the prompt has {len(ids):,} tokens; {loaded.name} has {loaded.context_tokens:,} positions"
        raise ClientError("invalid_request", reason, param=param)
    return ids


def prompt_shape(loaded: LoadedModel) -> dict[str, int] | None:
    """What the API needs beside ``tokenizer.json`` to count this model's prompts, measured on short ones.

    Returns:
        The counts of :class:`scheduler.tokenizers.PromptShape`, those of the chat template only where it takes
        a plain conversation; None where not even a plain prompt can be counted.
    """
    try:
        shape = {"sample_tokens": _length(loaded, prompt=SAMPLE)}
    except Exception:  # noqa: BLE001 - without these counts, prompts are estimated by their bytes
        return None
    try:
        one, three = (
            _length(loaded, messages=_conversation(roles))
            for roles in (("user",), ("user", "assistant", "user"))
        )
    except Exception:  # noqa: BLE001 - it has no chat template, or one that wants more than text
        return shape
    each = max(1, (three - one) // 2)
    return shape | {"base_tokens": max(0, one - each), "message_tokens": each - 1}  # the letter is one token


def _conversation(roles: Sequence[Literal["user", "assistant"]]) -> tuple[Message, ...]:
    """Messages of one letter; empty ones are left out by some templates."""
    return tuple(Message(role=role, content="a") for role in roles)


def _length(loaded: LoadedModel, **prompt: Any) -> int:
    return len(prompt_tokens(loaded, JobRequest(model=loaded.name, **prompt)))
