"""How the command fails: one line on standard error, with ``--json`` the error as JSON on standard output, and a status."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from scheduler.errors import ClientError, TidegateError
from tidegate import cures, exits
from tidegate.typed import as_typed

Command = TypeVar("Command", bound=Callable[..., Any])

_AS_JSON: Final = "tidegate.as_json"


def json_option(help_text: str) -> Callable[[Command], Command]:
    """The ``--json`` of a command; what fails is then JSON too."""

    def note(context: click.Context, _: click.Parameter, wanted: bool) -> bool:
        context.meta[_AS_JSON] = wanted or context.meta.get(_AS_JSON, False)
        return wanted

    return click.option("--json", "as_json", is_flag=True, help=help_text, callback=note)


def told_in_json() -> None:
    """What fails now is in what was printed already, a job with its error: it is not printed again."""
    click.get_current_context().meta[_AS_JSON] = False


class _Failed(click.ClickException):
    """One line, and a status."""

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.exit_code = status  # type: ignore[misc]  # click's is a variable of the class


class Group(click.Group):
    """Ends with one line on standard error, not a traceback, where something fails that tidegate foresees."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.

        Raises:
            click.ClickException: it failed; with the status that :mod:`tidegate.exits` names.
        """
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise cures.misplaced(error) from None
        except TidegateError as error:
            raise _told(error, ctx) from error


def _told(error: TidegateError, ctx: click.Context) -> click.ClickException:
    if ctx.meta.get(_AS_JSON):
        click.echo(json.dumps(exits.body_of(error)))
    said = str(error)
    if isinstance(error, ClientError):
        said = cures.told(error, sends_key=ctx.obj is not None and ctx.obj.api_key is not None)
    return _Failed(as_typed(said), exits.status_of(error))
