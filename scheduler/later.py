"""Fields that a later release wrote: carried through this one's reads and writes, so that a mixed fleet loses none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

LATER: Final = "later"
"""The field of a record that carries them; it is written by no name of its own."""


def told_apart(fields: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A stored object's fields as a record takes them: those that it knows by name, the others under ``later``.

    Raises:
        ValueError: it is no object.
    """
    if not isinstance(fields, Mapping):  # whoever writes to the server may have written it
        raise ValueError(f"not an object: {str(fields)[:32]}")  # noqa: TRY004 (as for all that cannot be read)
    others = fields.keys() - known
    if not others and LATER not in fields:  # nearly always: every job of a list is read so
        return dict(fields)
    carried = {name: value for name, value in fields.items() if name in others or name == LATER}
    return {name: value for name, value in fields.items() if name not in carried} | {LATER: carried}


def together(record: Any, known: Collection[str]) -> dict[str, Any]:
    """What :func:`told_apart` read, to be stored again: a record's own fields, and those that it carries."""
    carried: Mapping[str, Any] = getattr(record, LATER)
    return {**carried, **{name: getattr(record, name) for name in known if name != LATER}}
