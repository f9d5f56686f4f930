"""Panics and aborts that are known of versions of macOS and MLX, each with where it was reported. Pure.

A row says what was seen, and with what; where nobody reported which version mends it, it names none. It is a finding
of `tidegate doctor` on Macs that have such a version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

_MLX: Final = "https://github.com/ml-explore/mlx"
_MLX_LM: Final = "https://github.com/ml-explore/mlx-lm"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something known.

    Args:
        what: happens.
        here: what it means for tidegate.
        cure: what to do about it; empty where there is nothing more to do.
        sources: where it was reported.
        macos, mlx: the versions (PEP 440) that it was seen with, and those between them.
        stops: whether nothing runs with it.
    """

    what: str
    here: str
    sources: tuple[str, ...]
    cure: str = ""
    macos: str = ""
    mlx: str = ""
    stops: bool = False


KNOWN: Final = (
    Trouble(
        what="MLX's releases need macOS 14",
        here="no engine starts",
        cure="update macOS",
        macos="<14",
        stops=True,
        sources=("https://ml-explore.github.io/mlx/build/html/install.html",),
    ),
    Trouble(
        what="the kernel may panic in its account of the GPU's memory (IOGPUMemory.cpp, `completeMemory() prepare count"
        " underflow`); seen with macOS 15.7.4 and 26.3 to 26.5.2, and with mlx 0.30.6 to 0.32.0; no version is"
        " reported to mend it",
        here="reported of servers that wire memory; one that never did had none in 10 of 10 runs, and tidegate's"
        " engines never do",
        macos=">=15.7,<26.6",
        sources=(
            f"{_MLX}/issues/3186",
            f"{_MLX}/issues/3346",
            f"{_MLX_LM}/issues/883",
            f"{_MLX_LM}/issues/1666",
            "https://github.com/jundot/omlx/issues/300",
        ),
    ),
    Trouble(
        what="an error of Metal's, memory that runs out among them, aborts the process (SIGABRT)",
        here="each costs an engine: its jobs go on in the next one",
        cure="update mlx to 0.32 or later, where it is an exception",
        mlx="<0.32",
        sources=(f"{_MLX}/issues/3224", f"{_MLX}/issues/3317", f"{_MLX}/pull/3523"),
    ),
    Trouble(
        what="where no Metal device is seen (a virtual machine, a sandbox) importing MLX aborts the process",
        here="an engine ends as soon as it starts",
        cure="update mlx, which then says so",
        mlx="<=0.31.1",
        sources=(f"{_MLX}/issues/3148", f"{_MLX}/issues/3397", f"{_MLX}/pull/3428"),
    ),
)


def known_of(macos: str, mlx: str) -> Iterator[Trouble]:
    """What is known of these versions; nothing of one that cannot be read."""
    for row in KNOWN:
        if _within(macos, row.macos) or _within(mlx, row.mlx):
            yield row


def _within(version: str, wanted: str) -> bool:
    try:
        return bool(wanted) and SpecifierSet(wanted).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
