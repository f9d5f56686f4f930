"""Why a job's answer is not there yet, in words: it waits, its model is loaded or measured, its prompt is read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from scheduler.job import State
from tidegate import job_rows
from tidegate.text import fields_of, figure, list_of, on_one_line

PREPARING: Final = ("loading", "measuring")

_WORDS: Final = {
    "loading": "loading {}; the first time it is measured too (a minute or two on a slow CPU), which is kept",
    "measuring": "measuring {}: a minute or two on a slow CPU, once; it is kept",
}


def preparing(workers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The models that no worker has ready, and that some worker now loads or measures: ``loading`` or ``measuring``."""
    found: dict[str, str] = {}
    ready: set[str] = set()
    for worker in workers:
        doing, _, which = on_one_line(worker.get("engine")).partition(" ")
        if doing in PREPARING and which:
            found[which] = doing
        for model in _models(worker):
            if model.get("card") is not None and model.get("id") != which:
                ready.add(on_one_line(model.get("id")))
    return {model: doing for model, doing in found.items() if model not in ready}


def why_not_yet(job: Mapping[str, Any], workers: Iterable[Mapping[str, Any]], model: str) -> str:
    """One line; where nothing is known of the job, what the workers do about its model.

    Args:
        job: as the API last showed it; empty where it did not.
        workers: the live ones, as ``/v1/capacity`` has them.
        model: the job's.
    """
    live = list(workers)
    if doing := preparing(live).get(model):
        return _WORDS[doing].format(model)
    if job.get("status") == State.IN_PROGRESS:
        return _reading(job)
    takers = [each for each in live if any(_id(said) == model for said in _models(each))]
    if not takers:
        return f"no live worker serves {model} yet: it waits for one"
    if all(on_one_line(each.get("engine")) == "starting" for each in takers):
        return "the worker starts its engine"
    if all(on_one_line(each.get("engine")) == "cooling down" for each in takers):
        return "the worker's engines died again and again: it waits until a new one is started"
    if job.get("status") == State.QUEUED:
        place, eta = job_rows.position(dict(job)), job_rows.eta(dict(job))
        return (
            "waiting"
            + (f": place {place}" if place != "-" else "")
            + (f", starts in {eta}" if eta != "-" else "")
        )
    if not any(_id(said) == model and said.get("card") for each in takers for said in _models(each)):
        return _WORDS["loading"].format(model)  # a worker that has a job for it alone does so
    return f"waiting for {model}"


def _models(worker: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [fields_of(each) for each in list_of(worker, "models")]


def _id(model: object) -> str:
    return on_one_line(fields_of(model).get("id"))


def _reading(job: Mapping[str, Any]) -> str:
    progress, attempt = fields_of(job, "progress"), figure(job.get("attempt"))
    again = f" (attempt {attempt:.0f})" if attempt > 1 else ""
    if made := figure(progress.get("completion_tokens")):
        return f"{made:,.0f} tokens{_rate(progress.get('tokens_per_second'))}{again}"
    whole, done = figure(progress.get("prompt_tokens")), progress.get("prompt_tokens_computed")
    if not whole:
        return f"reading the prompt{again}"
    if done is None:
        return f"reading the prompt: {whole:,.0f} tokens{again}"
    share = min(1.0, figure(done) / whole)
    return f"reading the prompt: {share:.0%} of {whole:,.0f} tokens{again}"


def _rate(rate: object) -> str:
    return f", {figure(rate):,.1f} tokens/s" if figure(rate) > 0 else ""
