"""What docs/settings.md says of each setting beside what the code says: its group, its readers, its unit, when to change it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from scheduler.settings import Settings

ROOT: Final = Path(__file__).parents[1]
READERS: Final = ("API", "worker", "command")
_LONGEST: Final = 366 * 86_400


class Said(NamedTuple):
    """Who reads a setting (some of :data:`READERS`), what its number counts, and when one changes it."""

    readers: str
    unit: str
    when: str


GROUPS: Final[dict[str, dict[str, Said]]] = {
    "Where things are": {
        "redis_url": Said(
            "API, worker, command", "URL", "there is more than one machine, or a server of your own"
        ),
        "data_dir": Said(
            "API, worker, command",
            "folder",
            "the disk of the home folder is small, or several stand on one host",
        ),
        "models": Said(
            "API, worker, command", "names", "always: it is what you serve. The same on every host"
        ),
        "traces_endpoint": Said("API, worker", "URL", "you want to see where one job's time went"),
        "log_level": Said("API, worker", "word", "you look for a fault: `debug`"),
    },
    "Who is let in": {
        "host": Said(
            "API, command",
            "address",
            "other machines are to reach the API: with keys, behind a proxy that speaks TLS",
        ),
        "port": Said("API, command", "port", "8400 is taken"),
        "open": Said(
            "API, command", "yes or no", "in a container whose port only loopback reaches; else make a key"
        ),
        "cors_origins": Said("API", "origins", "web pages talk to the API from a browser"),
        "api_key": Said("command", "secret", "there are keys, and you use the `tidegate` command"),
        "max_open_per_key": Said("API", "requests", "one client may hold more streams open, or fewer"),
    },
    "What may wait": {
        "max_queued_jobs": Said(
            "API", "jobs", "the server's memory is small (a queued job takes some 6.5 kB)"
        ),
        "max_queued_tokens": Said("API", "tokens", "jobs are far larger or smaller than usual"),
        "target_wait": Said("API", "s", "clients wait longer than ten minutes, or give up earlier"),
        "max_queued_jobs_per_key": Said("API", "jobs", "one client's crowd fills the queue"),
        "max_queued_tokens_per_key": Said("API", "tokens", "likewise, by work"),
        "queue_without_worker": Said(
            "API, command", "yes or no", "a job for which nobody works should fail at once: `false`"
        ),
        "default_max_tokens": Said(
            "API", "tokens", "clients name no `max_tokens`, and expect longer answers"
        ),
        "max_attempts": Said("worker", "times", "jobs that fail alone should be given up at once: 1"),
        "result_ttl": Said(
            "API, worker", "s", "clients fetch results later, or the server's memory is small"
        ),
    },
    "Requests, files and webhooks": {
        "max_body_bytes": Said("API", "bytes", "prompts are larger than 8 MiB"),
        "max_file_bytes": Said("API", "bytes", "batches' files are larger"),
        "max_files_bytes": Said("API", "bytes", "many batches; the server needs the memory for it"),
        "max_files_bytes_per_key": Said("API", "bytes", "one client's files take all the room"),
        "webhook_secret": Said("API", "secret", "jobs bring a webhook and no secret of their own"),
        "webhook_allow": Said("API", "places", "receivers stand in your own network"),
    },
    "Memory": {
        "memory_budget": Said(
            "worker, command", "bytes", "people work on that Mac, or several workers share a host"
        ),
        "cache_limit": Said("worker", "bytes", "hardly ever: less gives memory back earlier, and is slower"),
        "prefix_cache": Said(
            "worker", "bytes", "prompts never begin alike (0), or long conversations return often (more)"
        ),
        "reserve": Said(
            "worker", "word", "nothing may ever be shed: `worst_case`, at the price of fewer jobs at once"
        ),
        "reserve_quantile": Said(
            "worker", "share", "jobs are shed often (more), or memory stays empty (less)"
        ),
    },
    "Speed and fairness": {
        "max_batch": Said(
            "worker", "jobs", "memory is left while 32 run (more), or each job should be faster (less)"
        ),
        "prefill_chunk": Said("worker", "tokens", "memory for a chunk's transient is short (less)"),
        "prefill_rows": Said("worker", "prompts", "many short prompts come at once (more)"),
        "prefill_ahead": Said("worker", "s", "several workers, uneven: less leaves more for the others"),
        "token_gap": Said("worker", "s", "streams stutter beside long prompts (less)"),
        "claim_lookahead": Said("worker", "jobs", "large jobs at the head leave memory empty (more)"),
        "max_passes": Said("worker", "times", "large jobs wait too long behind small ones (less)"),
        "max_preemptions": Said("worker", "times", "batch jobs never finish beside interactive ones (less)"),
        "blas_preload": Said(
            "worker, command", "word", "outputs must not differ with the company: `off` (CPU only)"
        ),
    },
    "Failures and stops": {
        "lease_seconds": Said(
            "worker, command",
            "s",
            "the network between workers and server has longer pauses. The same everywhere",
        ),
        "progress_timeout": Said("worker", "s", "a large model's chunk takes minutes on a slow machine"),
        "shutdown_grace": Said("worker, command", "s", "jobs are longer, and should finish where they are"),
    },
}

MOST_NEEDED: Final = (
    *("redis_url", "data_dir", "models", "host", "port", "api_key", "memory_budget"),
    *("default_max_tokens", "max_queued_jobs", "target_wait", "result_ttl", "shutdown_grace", "log_level"),
)
"""Those that the README shows."""


def settings_table(names: tuple[str, ...] = tuple(Settings.model_fields)) -> str:
    """Variables, their defaults and their meanings."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    described = Settings.model_fields
    rows += [f"| `{_variable(name)}` | {_default(name)} | {described[name].description} |" for name in names]
    return "\n".join(rows)


def settings_groups() -> str:
    """All of them, group by group, with everything that is known of them."""
    schema = Settings.model_json_schema()["properties"]
    parts = []
    for title, group in GROUPS.items():
        rows = [f"### {title}", ""]
        rows += [
            "| variable | default | counts | bounds | read by | meaning | change it when |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, said in group.items():
            meaning = Settings.model_fields[name].description
            cells = (
                f"`{_variable(name)}`",
                _default(name),
                said.unit,
                bounds(schema[name]),
                said.readers,
                meaning,
                said.when,
            )
            rows.append(f"| {' | '.join(map(str, cells))} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def bounds(schema: Mapping[str, Any]) -> str:
    """What the settings' own schema lets a value be."""
    if "anyOf" in schema:
        return bounds(next(each for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    least, above, most = (schema.get(each) for each in ("minimum", "exclusiveMinimum", "maximum"))
    lower = f"> {above:g}" if above is not None else f"≥ {least:,g}" if least is not None else ""
    upper = "≤ a year" if most == _LONGEST else f"≤ {most:,g}" if most is not None else ""
    return ", ".join(filter(None, (lower, upper))) or "–"


def readers_in_code() -> dict[str, set[str]]:
    """By setting: the rooms in whose sources something of that name is taken from settings, not only held by itself."""
    found: dict[str, set[str]] = {name: set() for name in Settings.model_fields}
    for room in ("api", "workers", "tidegate", "scheduler"):
        for path in (ROOT / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Attribute)
                    and "settings" in ast.unparse(node.value).rpartition(".")[2].lower()
                ):
                    taken = {
                        "webhook_allowed": "webhook_allow",
                        "model_sources": "models",
                        "server_url": "redis_url",
                    }
                    name = taken.get(node.attr, node.attr)
                    if name in found:
                        found[name].add(room)
    return found


def _variable(name: str) -> str:
    return f"TIDEGATE_{name.upper()}"


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory:
        return "the user's"
    if field.default is None or field.default == ():
        return "–"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"
