"""The lock is of the project's dependencies: `make lock` was run after they changed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED: Final = [
    Requirement(text) for text in (*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"])
]
PINNED: Final = dict(
    re.findall(
        r"(?m)^([a-z0-9._-]+)(?:\[[a-z0-9,]+\])?==([^ ;\\]+)", (ROOT / "requirements.lock").read_text()
    )
)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_dependency_is_locked(asked: Requirement) -> None:
    """At a version that was asked for."""
    assert Version(PINNED[canonicalize_name(asked.name)]) in asked.specifier


LINES: Final = [
    line
    for line in (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    if line and not line.lstrip().startswith("#")
]
"""A package each, its hashes in the same line."""


def test_every_package_is_pinned_by_its_hashes() -> None:
    """One version each, and each of its files' SHA-256: what a registry gives out under that name later is refused."""
    assert len(LINES) > 50
    for line in LINES:
        assert re.match(
            r"[a-z0-9][a-z0-9._-]*(?:\[[a-z0-9,-]+\])?==[0-9]\S*(?: ;.*?)? +--hash=sha256:", line
        ), line[:200]
        assert not re.search(r"--hash=(?!sha256:[0-9a-f]{64}(?: |$))", line), line[:200]


def test_nothing_is_taken_from_elsewhere_than_the_registry() -> None:
    """No link, repository, folder, nor another index; no release that is not final, where one is."""
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(
        r"(?m)^\s*(?:-e|-f|-i|--(?:extra-)?index-url|--find-links|--trusted-host|--editable)\b", text
    )
    assert not re.search(r" @ |git\+|https?://|file:", "".join(line for line in LINES))
    assert [name for name, version in PINNED.items() if Version(version).is_devrelease] == []


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        (
            "requests.exceptions.ConnectionError: HTTPSConnectionPool: Max retries exceeded",
            3,
            "could not be reached",
        ),
        ("error: Failed to fetch: `pip-audit`: dns error", 3, "could not be reached"),
        ("Found 1 known vulnerability in 1 package", 1, ""),
    ],
)
def test_an_audit_without_a_network_says_so(tmp_path: Path, said: str, status: int, told: str) -> None:
    """It is not to be read as a fault of the lock; and a fault of the lock is none of the network."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "audit", tmp_path / ".ci" / "audit")
    (tmp_path / ".ci" / "uv").write_text(f"echo '{said}' >&2\nexit 1\n")
    ended = subprocess.run(
        ["/bin/sh", ".ci/audit", "pip-audit==1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == status
    assert ended.stderr.startswith(said)
    assert told in ended.stderr
    assert ("audit:" in ended.stderr) is bool(told)
