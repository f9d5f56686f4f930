"""The parts of the README and the docs that are made from the code, and the pictures; `make readme` renews them."""

from pathlib import Path
from typing import Final

from api.metric_table import METRICS
from scheduler.errors import TABLE
from scheduler.job import TERMINAL, TRANSITIONS, State
from scheduler.reasons import REASONS
from tests.made_pictures import rooms_svg, states_svg
from tests.settings_page import MOST_NEEDED, settings_groups, settings_table
from workers.classifier import OTHER, SIGNALS, TEXTS

README: Final = Path(__file__).parents[1] / "README.md"
DOCS: Final = README.parent / "docs"
RUNNING_OUT: Final = DOCS / "running-out.md"
API: Final = DOCS / "api.md"
MONITORING: Final = DOCS / "monitoring.md"


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


def reasons_table() -> str:
    """Why a job waits again."""
    return "\n".join(
        [
            "| reason | why it waits again |",
            "|---|---|",
            *(f"| `{reason}` | {why} |" for reason, why in REASONS.items()),
        ]
    )


def errors_table() -> str:
    """Every code, in the order of its status, with its section."""
    rows = ["| code | HTTP | type | retry |", "|---|---|---|---|"]
    for code, row in sorted(TABLE.items(), key=lambda each: each[1].status):
        rows.append(
            f"| [`{code}`](#{code}) | {row.status} | `{row.type}` | {'yes' if row.retryable else 'no'} |"
        )
    return "\n".join(rows)


def metrics_table() -> str:
    """Every metric, its kind, its labels, and what it is."""
    rows = ["| metric | kind | labels | is |", "|---|---|---|---|"]
    for each in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in each.labels) or "–"
        rows.append(f"| `{each.name}` | {each.kind} | {labels} | {each.help} |")
    return "\n".join(rows)


PARTS: Final = {
    README: {"settings": lambda: settings_table(MOST_NEEDED), "states": states_picture},
    RUNNING_OUT: {"faults": faults_table},
    API: {"reasons": reasons_table},
    DOCS / "settings.md": {"settings": settings_groups},
    DOCS / "errors.md": {"errors": errors_table},
    MONITORING: {"metrics": metrics_table},
}

PICTURES: Final = {DOCS / "states.svg": states_svg, DOCS / "rooms.svg": rooms_svg}


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
    for picture, draw in PICTURES.items():
        picture.write_text(draw())
