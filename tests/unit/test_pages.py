"""The parts of a page that a benchmark writes."""

from pathlib import Path

import pytest

from benchmarks.pages import machine, replace_part

PAGE = "# Speed\n\n<!-- mixed -->\nold\n\nlines\n<!-- /mixed -->\n\nprose\n<!-- other: by whom -->\n<!-- /other -->\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(PAGE)
    return path


def test_only_what_stands_between_the_comments_is_replaced(page: Path) -> None:
    replace_part(page, "mixed", "\n| a | \\1 |\n")
    assert page.read_text() == PAGE.replace("old\n\nlines\n", "| a | \\1 |\n")


def test_writing_the_same_part_again_changes_nothing(page: Path) -> None:
    replace_part(page, "mixed", "new")
    once = page.read_text()
    replace_part(page, "mixed", "new")
    assert page.read_text() == once


def test_a_comment_may_say_who_writes_the_part(page: Path) -> None:
    replace_part(page, "other", "new")
    assert "<!-- other: by whom -->\nnew\n<!-- /other -->" in page.read_text()


@pytest.mark.parametrize("text", ["", PAGE + PAGE, "<!-- /mixed -->\n<!-- mixed -->\n"])
def test_a_page_without_just_one_such_part_is_left_alone(page: Path, text: str) -> None:
    page.write_text(text)
    with pytest.raises(ValueError, match="between <!-- mixed -->"):
        replace_part(page, "mixed", "new")
    assert page.read_text() == text


def test_a_machine_is_named_in_one_line_with_its_cores_and_versions() -> None:
    named = machine()
    assert "\n" not in named
    assert " cores, " in named
    assert "mlx 0" in named
    assert "mlx-lm 0" in named
