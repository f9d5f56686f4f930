"""What every benchmark's command line has: its own text as the help, and the defaults beside their options."""

from __future__ import annotations

import argparse
from pathlib import Path


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The text as it was written, defaults named."""


def parser(benchmark: str, text: str) -> argparse.ArgumentParser:
    """A benchmark's parser.

    Args:
        benchmark: its name in this package.
        text: what it measures, its figures and its goals: its module's docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark}", description=text, formatter_class=_Formatter
    )


def asked_storms(benchmark: str, text: str, seed: int, seconds: float) -> argparse.Namespace:
    """What is asked of a benchmark of storms drawn from a seed: ``seed``, ``seconds``, ``rounds``, ``keep``.

    Args:
        benchmark: its name in this package.
        text: its module's docstring.
        seed: the first storm's, by default.
        seconds: how long a storm lasts, by default.
    """
    options = parser(benchmark, text)
    options.add_argument(
        "--seed", type=int, default=seed, help="what is drawn from; each round takes the next"
    )
    options.add_argument("--seconds", type=positive, default=seconds, help="how long a storm lasts")
    options.add_argument("--rounds", type=count, default=1, help="storms, each on a stage of its own")
    options.add_argument("--keep", type=Path, help="a folder for the data and logs of rounds with findings")
    return options.parse_args()


def count(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def positive(text: str) -> float:
    """A time above 0, or a rate.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def a_folder(text: str) -> Path:
    """A folder that is there.

    Raises:
        argparse.ArgumentTypeError: it is not.
    """
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return Path(text)
