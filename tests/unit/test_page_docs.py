"""docs/page.md shows every state of the page, and docs/screenshots holds what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.screenshots import COLOURS, FOLDER, STATES

PAGE = Path(__file__).parents[2] / "docs" / "page.md"
SHOWN = re.findall(r"!\[([^\]]+)\]\(screenshots/([a-z-]+)\.png\)", PAGE.read_text())
MOST_BYTES = 1_500_000


def test_every_state_is_shown_once_and_explained() -> None:
    """By a picture with words for those who do not see it, and a paragraph behind it."""
    assert sorted(name for _, name in SHOWN) == sorted(STATES)
    for words, name in SHOWN:
        assert len(words.split()) >= 6, f"{name} says too little to who does not see it"
        behind = PAGE.read_text().split(f"(screenshots/{name}.png)")[1].strip()
        assert re.match(r"[A-Z*`].{80}", behind, flags=re.DOTALL), f"nothing explains {name}"


def test_every_picture_is_of_a_state() -> None:
    """No file is left of a state that is no more; together they stay small."""
    files = {path.stem: path for path in FOLDER.iterdir()}
    assert sorted(files) == sorted(STATES)
    assert sum(path.stat().st_size for path in files.values()) < MOST_BYTES


@pytest.mark.parametrize("state", STATES)
def test_a_picture_is_whole_and_has_few_colours(state: str) -> None:
    """As the command makes them; not one colour, as of a page that was not drawn."""
    with Image.open(FOLDER / f"{state}.png") as image:
        assert image.mode == "P"
        colours = image.getcolors() or []
    assert 8 < len(colours) <= COLOURS
