"""What the API refuses, told so that the user of this command can cure it: the API's own words are for HTTP. Pure."""

from __future__ import annotations

from typing import Final

import click

from scheduler.errors import ClientError

KEY_VARIABLE: Final = "TIDEGATE_API_KEY"


def told(error: ClientError, *, sends_key: bool) -> str:
    """An error in one line: its code, what is wrong, and what to do.

    Args:
        error: the API's.
        sends_key: whether this command sent it a key.
    """
    said = f"{error.code}: {error.message}"
    if error.code == "unauthorized":
        if not sends_key:
            return f"{error.code}: an API key is needed: set {KEY_VARIABLE}"
        return f"{said}: it is what {KEY_VARIABLE} has"
    if is_larger_than_budget(error):
        return f"{said}; raise TIDEGATE_MEMORY_BUDGET where the worker runs, or serve a smaller model"
    return said if error.retry_after is None else f"{said} (try again in {error.retry_after} s)"


def is_larger_than_budget(error: ClientError) -> bool:
    """Whether a model's weights are more than its worker may use, so that another try ends as this one did."""
    need, limit = error.numbers.get("estimated_bytes"), error.numbers.get("limit_bytes")
    if error.code != "no_worker" or not isinstance(need, int) or not isinstance(limit, int):
        return False
    return need > limit


def misplaced(error: click.NoSuchOption) -> click.UsageError:
    """The same complaint of an option, or, for one of `tidegate` itself behind a command's name, where it belongs."""
    name, value = error.option_name, {"--url": "URL", "--settings": "FILE"}.get(error.option_name)
    if value is None or error.ctx is None:
        return error
    command, _, words = error.ctx.command_path.partition(" ")
    return click.UsageError(f"{name} goes before the command: {command} {name} {value} {words}", error.ctx)
