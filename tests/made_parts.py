"""The parts of the README and the docs that are made from the code; `make readme` renews them."""

from pathlib import Path
from typing import Any, Final

from scheduler.job import TERMINAL, TRANSITIONS, State
from scheduler.settings import Settings
from workers.classifier import OTHER, SIGNALS, TEXTS

README: Final = Path(__file__).parents[1] / "README.md"
RUNNING_OUT: Final = README.parent / "docs" / "running-out.md"


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


def faults_table() -> str:
    """What is seen of a failure, who says it, what it is, and what cures it."""
    rows = ["| seen | said by | fault | cure |", "|---|---|---|---|"]
    known = [(f"`{row.pattern}`", row) for row in (*TEXTS, *SIGNALS.values())]
    for seen, row in [*known, ("anything else", OTHER)]:
        seen_there = seen.replace("|", "\\|")
        rows.append(f"| {seen_there} | {row.source} | {row.fault} | {row.recovery} |")
    return "\n".join(rows)


PARTS: Final = {
    README: {"settings": settings_table, "states": states_picture},
    RUNNING_OUT: {"faults": faults_table},
}


def renewed(page: Path) -> str:
    """A page's text with every part as the code has it now."""
    text = page.read_text()
    for name, make in PARTS[page].items():
        begin = text.index("\n", text.index(f"<!-- {name}: ")) + 1
        end = text.index(f"<!-- /{name} -->", begin)
        text = f"{text[:begin]}{make()}\n{text[end:]}"
    return text


if __name__ == "__main__":
    for each in PARTS:
        each.write_text(renewed(each))
