"""Every page's links lead somewhere: files that are there, headings that are there, sources that are named."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.printed import ROOT, pages

LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
SOURCE = re.compile(r"`((?:api|scheduler|workers|tidegate|tests|benchmarks|docs|examples)/[\w./-]+\.\w+)`")


def plain(page: Path) -> str:
    """A page without its code, in which nothing is a link."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names of a page's headings, as GitHub makes them: the second of a name has ``-1`` behind it."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", plain(page), re.MULTILINE):
        shown = LINK.sub(lambda link: link[0][1:].partition("]")[0], heading)
        name = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return frozenset(names)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_its_links_lead_to_files_and_headings(page: Path) -> None:
    """Relative ones; the web's are not asked."""
    broken = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", plain(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        led = (page.parent / path).resolve() if path else page
        if not led.exists() or not led.is_relative_to(ROOT) or (anchor and anchor not in anchors(led)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_sources_it_names_are_there(page: Path) -> None:
    """A path in the text is one of the project's files."""
    assert [source for source in SOURCE.findall(page.read_text()) if not (ROOT / source).exists()] == []


def test_every_page_is_in_the_index() -> None:
    """docs/README.md names each page of docs/, and each picture stands on some page."""
    index = (ROOT / "docs/README.md").read_text()
    assert [
        page.name
        for page in (ROOT / "docs").glob("*.md")
        if f"({page.name})" not in index and page.name != "README.md"
    ] == []
    text = "".join(page.read_text() for page in pages())
    assert [
        picture.name for picture in (ROOT / "docs").rglob("*.svg") if f"{picture.name})" not in text
    ] == []


def test_headings_are_named_as_github_names_them() -> None:
    """What this test goes by."""
    assert {"with-openais-client", "sixty-seconds-to-a-first-answer"} <= anchors(ROOT / "README.md")
    assert "memory_never_fits" in anchors(ROOT / "docs/errors.md")
