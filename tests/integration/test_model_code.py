"""Code that lies in a model's folder is never run, whatever the folder says of it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scheduler.errors import ModelUnusable
from workers.models import load_model


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model with a module beside it that would make a file."""
    made = tmp_path / "model"
    shutil.copytree(tiny_model, made)
    (made / "evil.py").write_text(
        f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Model: pass\nclass ModelArgs: pass\n"
    )
    return made


def change(folder: Path, name: str, **fields: Any) -> None:
    """Write fields into one of its files of JSON."""
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))


AUTO = {
    "AutoConfig": "evil.Model",
    "AutoModelForCausalLM": "evil.Model",
    "AutoTokenizer": ["evil.Model", "evil.Model"],
}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"model_file": "evil.py"}),
        ("config.json", {"model_file": "../model/evil.py"}),
        ("config.json", {"model_type": "evil"}),
        ("config.json", {"model_type": "...evil"}),
        ("config.json", {"auto_map": AUTO}),
        ("tokenizer_config.json", {"auto_map": AUTO, "tokenizer_class": "Evil"}),
        ("tokenizer_config.json", {"chat_template_type": "evil"}),
        ("tokenizer_config.json", {"tool_parser_type": "evil"}),
    ],
)
def test_a_models_code_is_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fields: dict[str, Any]
) -> None:
    """It loads without it, or not at all; nobody is asked either."""
    monkeypatch.chdir(folder)
    change(folder, name, **fields)
    with suppress(ModelUnusable):
        load_model("evil", str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_template_has_no_way_out_of_its_sandbox(folder: Path, tmp_path: Path) -> None:
    """What it may not reach refuses the messages."""
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    change(folder, "tokenizer_config.json", chat_template=escape)
    loaded = load_model("evil", str(folder))
    with pytest.raises(Exception, match=r"(?i)unsafe|secur|template"):
        loaded.tokenizer.apply_chat_template([{"role": "user", "content": "a"}])
