"""The parts of the README that are made from the code; `make readme` renews them."""

from pathlib import Path
from typing import Any, Final

from scheduler.job import TERMINAL, TRANSITIONS, State
from scheduler.settings import Settings

README: Final = Path(__file__).parents[1] / "README.md"


def settings_table() -> str:
    """Every variable, its default and its meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        shown = "the user's" if field.default_factory else _shown(field.default)
        rows.append(f"| `TIDEGATE_{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def _shown(default: Any) -> str:
    if default is None or default == ():
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def states_picture() -> str:
    """The table of transitions, drawn."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.QUEUED}"]
    lines += [f"    {origin} --> {target}: {event}" for (origin, event), target in TRANSITIONS.items()]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join([*lines, "```"])


PARTS: Final = {"settings": settings_table, "states": states_picture}


def renewed(text: str) -> str:
    """The README's text with every part as the code has it now."""
    for name, make in PARTS.items():
        begin = text.index("\n", text.index(f"<!-- {name}: ")) + 1
        end = text.index(f"<!-- /{name} -->", begin)
        text = f"{text[:begin]}{make()}\n{text[end:]}"
    return text


if __name__ == "__main__":
    README.write_text(renewed(README.read_text()))
