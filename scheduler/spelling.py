"""What a misspelt word means, of a setting above all, which would otherwise be a default, in silence. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from scheduler.settings import Settings

_PREFIX: Final = "TIDEGATE_"
_LIKENESS: Final = 0.7
"""Of a name and the setting that is offered for it, both without what they all begin with."""

_LONGEST: Final = 64
"""Characters of a word that is compared at all: whoever sends megabytes has them compared with nothing."""

_NOBODYS: Final = re.compile(
    r"TIDEGATE_SAMPLE_MODELS"  # read by the tests
    r"|TIDEGATE_(\w+_)?SERVICE_(HOST|PORT)(_\w+)?|TIDEGATE_(\w+_)?PORT_\d+_(TCP|UDP)(_\w+)?"
)
"""What is no setting and no mistake: Kubernetes sets the second kind beside a service of that name."""


def meant(word: str, known: Iterable[str]) -> str | None:
    """The known word that another is most like; None where it is like none, or too long to be one."""
    if len(word) > _LONGEST:
        return None
    like = difflib.get_close_matches(word, list(known), n=1, cutoff=_LIKENESS)
    return like[0] if like else None


def is_ours(name: str) -> bool:
    """Whether a variable is named as settings are; capitals do not count."""
    return name.upper().startswith(_PREFIX)


def unread(names: Iterable[str]) -> dict[str, str | None]:
    """The names that begin like a setting's and are none, each with the setting that it is most like.

    Args:
        names: of an environment's variables; capitals do not count, as for the settings themselves.
    """
    known = [field.upper() for field in Settings.model_fields]
    found = {}
    for name in sorted(names):
        upper = name.upper()
        field = upper.removeprefix(_PREFIX)
        if field != upper and field not in known and not _NOBODYS.fullmatch(upper):
            like = meant(field, known)
            found[name] = _PREFIX + like if like else None
    return found


def complaints(names: Iterable[str]) -> list[str]:
    """A sentence for each of them."""
    return [
        f"{name} is no setting" + (f"; is {like} meant?" if like else "")
        for name, like in unread(names).items()
    ]
