"""The parts of a page that a benchmark writes: a name in a comment before and after, its figures between."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

DOCS: Final = Path(__file__).parents[1] / "docs"


def replace_part(path: Path, name: str, text: str) -> None:
    """Write ``text`` between ``<!-- name -->`` and ``<!-- /name -->``; the rest of the page stays as it is.

    Args:
        path: a page with both comments, in this order and once; the first may end in ``: who makes it``.
        name: of the part.
        text: Markdown; a newline is put before and after it.

    Raises:
        ValueError: the page has no such part, or more than one.
    """
    page = path.read_text(encoding="utf-8")
    whole = re.compile(
        rf"(<!-- {re.escape(name)}(?:: [^\n]*)? -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL
    )
    parts = whole.findall(page)
    if len(parts) != 1:
        raise ValueError(
            f"{path} has {len(parts)} parts between <!-- {name} --> and <!-- /{name} -->, not one"
        )
    body = text.strip("\n")
    path.write_text(whole.sub(lambda part: f"{part[1]}{body}\n{part[2]}", page), encoding="utf-8")


def machine() -> str:
    """What a figure was made on, in one line: processor, cores, memory, system, Python, MLX and mlx-lm."""
    memory_gib = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm"))
    return f"{_processor()}, {_cores()} cores, {memory_gib:.0f} GiB, {_system()}, Python {platform.python_version()}, {versions}"


def _processor() -> str:
    """The processor's name for people, where the system says it."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    listed = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", listed.read_text(), re.MULTILINE) if listed.exists() else []
    return str(names[0]) if names else platform.machine()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1)


def _system() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
