"""What an engine measures of a model's prompts, for others to count with."""

from __future__ import annotations

from typing import Any

from workers.models import LoadedModel, prompt_shape


class Letters:
    """A letter a token, one before each plain prompt; a template that puts things around messages."""

    def encode(self, text: str) -> list[int]:
        return [0, *map(ord, text)]

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        assert options["add_generation_prompt"]
        body = [f"<{m['role']}>{m['content']}</>" for m in messages]
        return [ord(letter) for letter in "".join([*body, "<assistant>"])]


class Alternating(Letters):
    """Takes turns of user and assistant alone, as many templates do."""

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant"][: len(messages)]
        return super().apply_chat_template(messages, **options)


class Plain(Letters):
    """Has no template."""

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> list[int]:
        raise ValueError("no chat template")


class Broken(Letters):
    """Counts nothing."""

    def encode(self, text: str) -> list[int]:
        raise TypeError(text)


def shape(tokenizer: Letters) -> dict[str, int] | None:
    """What is measured of it."""
    return prompt_shape(LoadedModel("m", None, tokenizer, 1 << 20, 256))


def counted(measured: dict[str, int] | None, *texts: str) -> int:
    """A chat's tokens, by what was measured."""
    assert measured is not None
    return measured["base_tokens"] + sum(measured["message_tokens"] + len(text) for text in texts)


def test_what_stands_around_messages_is_measured() -> None:
    """One message to the token; several up to what their roles differ by; turns alternate meanwhile."""
    for tokenizer in (Letters(), Alternating()):
        measured = shape(tokenizer)
        said = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], add_generation_prompt=True
        )
        assert counted(measured, "Hello") == len(said)
        turns = [{"role": role, "content": "Hello"} for role in ("user", "assistant", "user")]
        true = len(tokenizer.apply_chat_template(turns, add_generation_prompt=True))
        assert abs(counted(measured, "Hello", "Hello", "Hello") - true) <= 1


def test_without_a_template_a_plain_prompt_is_measured() -> None:
    """Chats are then nobody's to count."""
    measured = shape(Plain())
    assert measured is not None and list(measured) == ["sample_tokens"]


def test_a_tokenizer_that_counts_nothing_keeps_no_model_from_loading() -> None:
    """Nothing is measured."""
    assert shape(Broken()) is None
