"""A browser is found, or what to install is said: loudly where a machine checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import chromium
from tests.browser.watch import stays_here


@pytest.mark.parametrize("name", chromium.NAMES)
def test_a_browser_is_found_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    """On the path; else where a Mac has it; else nowhere."""
    nowhere, on_a_mac = tmp_path / "nowhere", tmp_path / "Chrome"
    assert chromium.find(str(tmp_path), nowhere) is None
    on_a_mac.touch()
    assert chromium.find(str(tmp_path), on_a_mac) == str(on_a_mac)
    program = tmp_path / name
    program.touch(0o755)
    assert chromium.find(str(tmp_path), on_a_mac) == str(program)


@pytest.mark.parametrize("said", ["true", "1", "True"])
def test_without_one_a_check_fails_and_says_what_to_install(said: str) -> None:
    """`CI` is what every such machine sets."""
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        chromium.do_without({"CI": said})


@pytest.mark.parametrize("environment", [{}, {"CI": ""}, {"CI": "false"}])
def test_without_one_others_go_on(environment: dict[str, str]) -> None:
    """The tests of the page are skipped, with the same words."""
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        chromium.do_without(environment)


def test_what_leaves_the_machine_is_known() -> None:
    """By its host, whatever is before or behind it."""
    assert all(map(stays_here, ("http://127.0.0.1:8400/page/x.js", "http://localhost/", "data:,x")))
    assert not any(
        map(stays_here, ("https://cdn.example/127.0.0.1", "http://127.0.0.1.example/", "ws://[::2]/"))
    )
