"""Kill, name and complain about processes that live in, or were started from, a folder."""  # noqa: INP001

import sys
from pathlib import Path

import psutil


def lives_in(process: psutil.Process, folder: str) -> bool:
    """Whether the folder is in the process's command line, or around its working folder."""
    try:
        return any(folder in word for word in [*process.cmdline(), process.cwd()])
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def main() -> None:
    """Exit with 1 if there was any."""
    folder = str(Path(sys.argv[1]).resolve())
    mine = {psutil.Process().pid, *(parent.pid for parent in psutil.Process().parents())}
    left = [p for p in psutil.process_iter() if p.pid not in mine and lives_in(p, folder)]
    for process in left:
        sys.stderr.write(f"left behind: {process.pid} {process.name()}\n")
        process.kill()
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
