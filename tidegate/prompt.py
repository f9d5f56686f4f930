"""A prompt on the command line, or on standard input where it is `-`, or where there is none and nobody types."""

from __future__ import annotations

import sys

import click


def read(context: click.Context, param: click.Parameter, value: str | None) -> str:
    """The text: one character or more that is no space; the line's end that `echo` adds does not belong to it.

    Raises:
        BadParameter: it is empty, or not in UTF-8; or there is none, and a person at the terminal.
    """
    if value is None:
        if sys.stdin.isatty():
            raise click.MissingParameter(ctx=context, param=param)
        value = "-"
    try:
        text = sys.stdin.buffer.read().decode().removesuffix("\n") if value == "-" else value
        text.encode()
    except UnicodeError:
        raise click.BadParameter("it is not in UTF-8") from None
    if not text.strip():
        raise click.BadParameter("it is empty")
    return text
