"""What `tidegate top` shows, made from what the API answered. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from scheduler.errors import gib
from scheduler.job import PRIORITIES
from tidegate import job_rows
from tidegate.bar import bar, legend
from tidegate.columns import Column, cut, joined, lines
from tidegate.past import Past, line
from tidegate.text import fields_of, figure, list_of, on_one_line
from tidegate.waiting_words import preparing

_FEW_JOBS: Final = 5
"""Rows of jobs for which workers are told of in fewer lines."""

_JOBS_WITHOUT_END: Final = 20
"""Rows of jobs where there are as many lines as one likes."""

_SHOWN: Final = {"engine_deaths": "engine deaths", "sheds": "sheds", "out_of_memory": "out of memory"}
"""Counters that are shown though nothing was counted: that it is none is news."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """The oldest jobs of a state and, with others in between, the newest; each oldest first.

    Where there are none in between, all are among the oldest.
    """

    oldest: tuple[dict[str, Any], ...] = ()
    newest: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of an API.

    Args:
        url: where it is.
        capacity: what ``/v1/capacity`` last answered; None where it never did.
        running, waiting: of ``/v1/jobs``.
        now_seconds: Unix; when this was to be known.
        seen_seconds: when it was known.
        problem: why no more is known; empty where nothing is wrong.
        past: of workers, by name.
    """

    url: str
    capacity: Mapping[str, Any] | None = None
    running: Jobs = field(default_factory=Jobs)
    waiting: Jobs = field(default_factory=Jobs)
    now_seconds: float = 0.0
    seen_seconds: float = 0.0
    problem: str = ""
    past: Mapping[str, Past] = field(default_factory=dict)

    def raw(self) -> dict[str, Any]:
        """As it was answered."""
        running, waiting = (
            {"oldest": list(jobs.oldest), "newest": list(jobs.newest)}
            for jobs in (self.running, self.waiting)
        )
        return {"url": self.url, "capacity": self.capacity, "in_progress": running, "queued": waiting}


def picture(scene: Scene, width: int, height: int | None = None) -> Text:
    """A frame.

    Args:
        scene: what is known.
        width: columns; nothing is wrapped, and what does not fit is left out.
        height: lines; None: as many as it takes.
    """
    shown: list[Text | str] = [_heading(scene, width)]
    if scene.problem:
        shown.append(_problem(scene, width))
    if scene.capacity is None:
        return _text(shown)
    workers = [fields_of(worker) for worker in list_of(scene.capacity, "workers")]
    queue = _queue(fields_of(scene.capacity, "queue"), width)
    jobs = len(scene.running.oldest + scene.running.newest + scene.waiting.oldest + scene.waiting.newest)
    room = None if height is None else height - len(shown) - len(queue) - min(_FEW_JOBS, jobs) - 3
    shown += _workers([_worker(each, scene, width) for each in workers], width, room)
    shown += ["", *queue]
    rows = _JOBS_WITHOUT_END if height is None else max(0, height - len(shown) - 2)
    shown += _jobs(scene, width, rows)
    return _text(shown if height is None else shown[:height])


def _text(shown: Sequence[Text | str]) -> Text:
    together = Text("\n", no_wrap=True, overflow="crop")
    return together.join(line if isinstance(line, Text) else Text(line) for line in shown)


def _heading(scene: Scene, width: int) -> Text:
    parts = [f"tidegate {on_one_line(scene.url)}"]
    if scene.capacity is not None:
        workers, queue = list_of(scene.capacity, "workers"), fields_of(scene.capacity, "queue")
        running = sum(figure(fields_of(worker).get("running")) for worker in workers)
        parts += [
            _many(len(workers), "worker"),
            f"{running:,.0f} running",
            f"{figure(queue.get('jobs')):,.0f} waiting",
        ]
    parts.append(f"{datetime.fromtimestamp(scene.now_seconds, UTC).astimezone():%H:%M:%S}")
    return Text(joined(parts, width, " · "), "bold")


def _problem(scene: Scene, width: int) -> Text:
    since = ""
    if scene.capacity is not None:
        age = job_rows.lasting(scene.now_seconds - scene.seen_seconds)
        since = f"as it was {age} ago: "
    return Text(joined([f"✗ {since}{on_one_line(scene.problem)}"], width), "red")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


# Workers


def _workers(full: Sequence[list[Text | str]], width: int, room: int | None) -> list[Text | str]:
    """Every worker in as many lines as there is room for: all that is known, two lines, or one."""
    if not full:
        return ["", Text(cut("no worker lives: `tidegate worker` starts one", width), "yellow")]
    for most in (max(map(len, full)), 3, 2):
        shown = [line for each in full for line in each[:most]]
        if room is None or len(shown) <= room:
            return shown
    heads = [each[1] for each in full]
    fit = max(1, (room or 0) - 1)
    left = len(heads) - fit
    return ["", *heads[:fit], *([cut(f"… and {_many(left, 'worker')} more", width)] if left > 0 else [])]


def _worker(worker: Mapping[str, Any], scene: Scene, width: int) -> list[Text | str]:
    """An empty line, who it is, its budget as a bar, what the bar says, its past, what it does and counted, its models."""
    name, engine = on_one_line(worker.get("name")), on_one_line(worker.get("engine"))
    budget = f"{gib(int(figure(worker.get('budget_bytes'))))} by {on_one_line(worker.get('budget_source'))}"
    where = f"{on_one_line(worker.get('host'))}, pid {on_one_line(worker.get('pid'))}"
    state = engine + cooling(worker)
    head = Text(joined([f"worker {name}", state, budget, where], width, " · "))
    head.stylize("bold", 0, min(len(head), len(f"worker {name}")))
    if engine not in {"ready", ""}:
        head.highlight_words([state], "yellow")
    made: list[Text | str] = ["", head, Text("  ") + bar(worker, max(0, width - 2))]
    made.append(Text("  ") + legend(worker, max(0, width - 2)))
    if (past := scene.past.get(name)) and (lately := line(past, scene.now_seconds, max(0, width - 2))):
        made.append(Text(f"  {lately}", "cyan"))
    does = [
        f"used {gib(int(figure(worker.get('used_bytes'))))}",
        f"{figure(worker.get('tokens_per_second')):,.1f} tokens/s",
        f"{figure(worker.get('running')):,.0f} running",
        *held_back(worker),
    ]
    made.append("  " + joined(does + _counters(fields_of(worker.get("counters"))), max(0, width - 2), "   "))
    made.append("  " + joined(["models", *_models(worker, engine)], max(0, width - 2)))
    return made


def cooling(worker: Mapping[str, Any]) -> str:
    """For how long a worker still started no engine when it said so; empty where it does not wait."""
    left = figure(worker.get("cools_until")) - figure(worker.get("updated_at"))
    return f" ({left:,.0f} s more)" if worker.get("cools_until") and left > 0 else ""


def held_back(worker: Mapping[str, Any]) -> list[str]:
    """What jobs may hold together now, where that is less than the budget."""
    working, budget = worker.get("working_bytes"), figure(worker.get("budget_bytes"))
    return (
        [f"may hold {gib(int(figure(working)))} now"]
        if working is not None and figure(working) < budget
        else []
    )


def _counters(counted: Mapping[str, Any]) -> list[str]:
    said = [f"{label} {figure(counted.get(name)):,.0f}" for name, label in _SHOWN.items()]
    others = sorted(counted.keys() - _SHOWN.keys())
    return said + [f"{on_one_line(name).replace('_', ' ')} {figure(counted[name]):,.0f}" for name in others]


def _models(worker: Mapping[str, Any], engine: str) -> list[str]:
    return [_model(fields_of(model), engine) for model in list_of(worker, "models")] or ["none"]


def _model(model: Mapping[str, Any], engine: str) -> str:
    name, card = on_one_line(model.get("id")), model.get("card")
    doing, _, which = engine.partition(" ")
    state = "loaded" if card is not None else "not loaded"
    if which == name and doing in {"loading", "measuring"}:
        state = doing
    alone = ", runs alone" if fields_of(card).get("alone") is True else ""
    return f"{name} ({state}{alone})"


# The queue


def _queue(queue: Mapping[str, Any], width: int) -> list[str]:
    """What waits, by class, the most urgent first."""
    classes = fields_of(queue, "by_priority")
    names = [*(name for name in PRIORITIES if name in classes), *sorted(classes.keys() - set(PRIORITIES))]
    rows = [*((on_one_line(name), fields_of(classes, name)) for name in names), ("all", queue)]
    return lines(
        [
            Column("queue", [name for name, _ in rows]),
            Column("jobs", [f"{figure(said.get('jobs')):>6,.0f}" for _, said in rows]),
            Column("tokens of work", [f"{figure(said.get('tokens')):>14,.0f}" for _, said in rows]),
        ],
        width,
    )


# Jobs


def _jobs(scene: Scene, width: int, rows: int) -> list[str]:
    """Jobs that run, oldest first, then those that wait, by place, in so many rows: of too many, both ends."""
    all_running = len(scene.running.oldest + scene.running.newest)
    all_waiting = len(scene.waiting.oldest + scene.waiting.newest)
    if not rows or not all_running + all_waiting:
        return []
    for_running = min(all_running, max((rows + 1) // 2, rows - all_waiting))
    running = _ends(scene.running, for_running)
    waiting = _ends(_by_place(scene.waiting), rows - for_running)
    shown = [job for job in (*running, *waiting) if job is not None]
    if not shown:
        return []
    workers = [fields_of(worker) for worker in list_of(scene.capacity, "workers")]
    made = iter(lines(job_rows.live(shown, scene.now_seconds, preparing(workers)), width))
    title = next(made)
    return ["", title, *("…" if job is None else next(made) for job in (*running, *waiting))]


def _by_place(jobs: Jobs) -> Jobs:
    """Those that wait by whose turn is first, whenever they came; those without a place behind them."""

    def place(job: dict[str, Any]) -> float:
        said = fields_of(job, "queue").get("position")
        return math.inf if said is None else figure(said)

    known = (*jobs.oldest, *jobs.newest)
    inorder = tuple(sorted(known, key=place))
    return Jobs(inorder[: len(jobs.oldest)], inorder[len(jobs.oldest) :])


def _ends(jobs: Jobs, rows: int) -> list[dict[str, Any] | None]:
    """Jobs in so many rows, as they come; None stands for those in between."""
    everything = [*jobs.oldest, *jobs.newest]
    if not jobs.newest and len(everything) <= rows:
        return list(everything)
    if rows <= 0:
        return []
    first = min(len(jobs.oldest), rows // 2)
    last = min(len(everything) - first, rows - first - 1)
    return [*everything[:first], None, *everything[len(everything) - last :]]
