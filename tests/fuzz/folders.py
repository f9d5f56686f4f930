"""Broken model folders: a real engine refuses each in words, or loads it, and serves another model afterwards.

An input is a file's name, an empty line and its content, put over a good model's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.random_models import write_random_llama
from scheduler.errors import ModelUnusable
from tests.engines import MODEL, Talk, engine
from tests.fuzz.target import Run, Target
from workers.model_folder import check_folder
from workers.wire import WireBroken

_FILES: Final = (
    *("config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"),
    *(
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
        "special_tokens_map.json",
    ),
)
_SECONDS: Final = 60.0
MARK: Final = "executed"
"""A file that code which comes with a model would leave beside it."""

CODE: Final = f"open(__file__ + '.{MARK}', 'w').close()\n"


def _write(folder: Path, data: bytes) -> None:
    name, _, content = data.partition(b"\n\n")
    known = name.decode("latin-1")
    (folder / (known if known in _FILES else "config.json")).write_bytes(content)


@cache
def _good() -> dict[str, bytes]:
    """A good model's files, made once."""
    with tempfile.TemporaryDirectory() as folder:
        made = write_random_llama(Path(folder), layers=1, hidden=16, heads=2, kv_heads=1, vocab=300)
        return {path.name: path.read_bytes() for path in made.iterdir()} | {"code.py": CODE.encode()}


def _small(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _good().items():
        (folder / name).write_bytes(content)
    return folder


def seeds() -> Sequence[bytes]:
    """Each file as it is in a good model, and some that are not in it."""
    found = [f"{name}\n\n".encode() + _good()[name] for name in _FILES if name in _good()]
    return [
        *found,
        b'config.json\n\n{"model_type": "llama", "model_file": "code.py"}',
        b'config.json\n\n{"model_type": "llama", "auto_map": {"AutoModel": "code.X"}, "num_hidden_layers": 1}',
        b'tokenizer_config.json\n\n{"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["code.X", null]}}',
        b'tokenizer_config.json\n\n{"tool_parser_type": "json_tools", "chat_template_type": "../code"}',
        b'generation_config.json\n\n{"eos_token_id": [1, 2]}',
        b"chat_template.jinja\n\n{% for m in messages %}{{ m.content }}{% endfor %}",
        b"chat_template.jinja\n\n{{ ''.__class__.__mro__[1].__subclasses__() }}",
        b'model.safetensors.index.json\n\n{"weight_map": {"a": "../../x.safetensors"}}',
        b"model.safetensors\n\nGGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff",
    ]


@contextmanager
def _checked() -> Iterator[Run]:
    """What looks through a folder before MLX does."""
    with tempfile.TemporaryDirectory() as folder:
        broken = _small(Path(folder))

        def run(data: bytes) -> None:
            _write(broken, data)
            with suppress(ModelUnusable):
                check_folder(broken)
            name = data.partition(b"\n\n")[0].decode("latin-1")
            known = name if name in _FILES else "config.json"
            if known in _good():
                (broken / known).write_bytes(_good()[known])
            else:
                (broken / known).unlink()

        yield run


@contextmanager
def _loaded() -> Iterator[Run]:
    """An engine that is told to load a broken model, and then has a job of a good one."""
    with tempfile.TemporaryDirectory() as folder:
        good = _small(Path(folder) / "good")
        with engine(Path(folder) / "data", memory_budget=1 << 30) as talk:
            number = 0

            def run(data: bytes) -> None:
                nonlocal number
                number += 1
                broken = Path(folder) / f"broken{number}"
                shutil.copytree(good, broken)
                _write(broken, data)
                try:
                    _load(talk, broken, f"broken{number}")
                except WireBroken as error:
                    talk.supervisor.bury()
                    talk.supervisor.start()
                    talk.said.clear()
                    talk.share()
                    raise AssertionError(f"the engine ended: {error}") from None
                assert not list(broken.glob(f"**/*{MARK}*")), "code that came with the model was run"
                talk.revive(good)
                key = talk.run(max_tokens=2, model=MODEL)
                talk.result(key)
                shutil.rmtree(broken)

            yield run


def _load(talk: Talk, source: Path, name: str) -> None:
    """Load a model and unload it, or hear why it cannot be."""
    talk.supervisor.send({"kind": "load", "model": name, "source": str(source), "cards": []})
    talk.until(
        lambda: talk.of("loaded", model=name) or talk.of("load_failed", model=name), "how it went", _SECONDS
    )
    failed = talk.of("load_failed", model=name)
    assert not failed or failed[-1]["reason"]
    talk.supervisor.send({"kind": "unload", "model": name})


def targets() -> list[Target]:
    """The look beforehand, and the engine."""
    return [Target("folder_check", seeds, _checked, pure=True), Target("folder_load", seeds, _loaded)]
