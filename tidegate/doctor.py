"""`tidegate doctor`: looks at everything once, and says what is amiss and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from rich.console import Console
from rich.text import Text

from scheduler.settings import Settings
from tidegate import fleet_checks, host_checks, mac_checks, server_checks
from tidegate.client import Client
from tidegate.facts import Facts, gather
from tidegate.finding import Finding, Mark, bad
from tidegate.text import on_one_line
from tidegate.typed import as_typed

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: Final[tuple[Check, ...]] = (
    host_checks.python,
    host_checks.libraries,
    host_checks.variables,
    host_checks.device,
    host_checks.memory,
    mac_checks.versions,
    mac_checks.pressure,
    mac_checks.wired,
    mac_checks.panics,
    mac_checks.sleep,
    host_checks.blas,
    host_checks.models,
    host_checks.downloads,
    host_checks.folder,
    host_checks.descriptors,
    fleet_checks.port,
    fleet_checks.keys,
    server_checks.queue,
    server_checks.keeping,
    server_checks.room,
    server_checks.memory,
    server_checks.reach,
    fleet_checks.api,
    fleet_checks.workers,
    fleet_checks.served,
    fleet_checks.clock,
)
"""From what everything stands on to what stands on all of it."""

_WIDEST: Final = 24
"""Of the names that the lines are put in order by; a longer one, with a model's name in it, moves its own line."""

_STYLES: Final = {Mark.GOOD: "green", Mark.BAD: "red", Mark.NOTE: "yellow"}


def examine(settings: Settings, client: Client, *, url_given: bool) -> list[Finding]:
    """Look at everything, and judge it.

    Args:
        settings: the present ones.
        client: of the API.
        url_given: whether that was asked for: then it must answer.
    """
    return judge(gather(settings, client, url_given=url_given))


def judge(facts: Facts, checks: Iterable[Check] = CHECKS) -> list[Finding]:
    """Every finding; a check that cannot cope with what was seen is one itself, and the others go on."""
    found: list[Finding] = []
    for check in checks:
        try:
            found += check(facts)
        except Exception as error:  # noqa: BLE001 - what others answered may be anything
            said = f"not understood: {type(error).__name__}: {error}"
            found.append(bad(check.__name__, said, "is what answers tidegate, and of this version?"))
    return found


def tell(findings: list[Finding], console: Console, *, as_json: bool) -> int:
    """Print findings, a line each; the exit status, 1 where something is amiss."""
    amiss = sum(finding.mark is Mark.BAD for finding in findings)
    if as_json:
        console.print(
            json.dumps({"ok": not amiss, "findings": [each.to_json() for each in findings]}), markup=False
        )
        return int(amiss > 0)
    width = max((len(finding.what) for finding in findings if len(finding.what) <= _WIDEST), default=0)
    for finding in findings:
        line = Text(f"{finding.mark} ", _STYLES[finding.mark])
        line.append(f"{on_one_line(finding.what):<{width}}  {as_typed(on_one_line(finding.said))}", "default")
        if finding.why:
            line.append(f" ({on_one_line(finding.why)})", "dim")
        if finding.cure:
            line.append(f" → {as_typed(finding.cure)}", "bold")
        console.print(line)
    return int(amiss > 0)
