"""What `tidegate doctor` checks of this host: the programs, the device, its memory, the models, the data folder. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from scheduler.errors import gib, so_many
from scheduler.spelling import complaints
from tidegate.engine_facts import EngineFacts, ModelFacts, Unknown
from tidegate.facts import Facts
from tidegate.finding import Finding, bad, good, note
from tidegate.text import fields_of, figure, list_of, on_one_line

FREE_BYTES: Final = 1 << 30
"""On the data folder's disk: the queue's log grows, and is written anew beside itself."""

LEAST_BUDGET_BYTES: Final = 256 << 20
"""What a worker needs beside a model's weights, as workers.sharing has it."""

CONNECTIONS: Final = 2000 + 128
"""Open files that the API asks for, as api.gunicorn_conf and api.descriptors have it."""

FEW_CONNECTIONS: Final = 256

_LIMITS: Final = {
    "host_total": "RAM, less what is left to the system",
    "host_available": "what the system could give up now",
    "cgroup_total": "the limit of a cgroup (a container's, or systemd's)",
    "cgroup_available": "what is left in a cgroup",
    "address_space": "the limit of the address space (ulimit -v)",
    "metal_working_set": "Metal's recommended working set",
    "cuda_total": "the GPU's memory",
    "cuda_available": "what is free of the GPU's memory",
    "TIDEGATE_MEMORY_BUDGET": "TIDEGATE_MEMORY_BUDGET",
}


def python(facts: Facts) -> Iterator[Finding]:
    """The interpreter, as the project asks for it."""
    version, wanted = facts.python
    try:
        fits = SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier:
        fits = True  # nothing is asked for that could be read
    if fits:
        yield good("Python", f"{version}, of {wanted or 'any'}")
    else:
        yield bad("Python", f"{version} is not {wanted}", "`make setup` with PYTHON= a newer one")


def libraries(facts: Facts) -> Iterator[Finding]:
    """Everything that the project depends on, in the versions that it asks for."""
    for each in facts.libraries:
        if not each.fits:
            here = f"{each.name} {each.installed} is here" if each.installed else "it is not here"
            yield bad("libraries", f"{each.requirement} is asked for; {here}", "`make setup`")
    if all(each.fits for each in facts.libraries):
        named = [each for each in facts.libraries if each.name in {"mlx", "mlx-lm", "rq"}]
        shown = ", ".join(f"{each.name} {each.installed}" for each in named)
        yield good("libraries", f"all {len(facts.libraries)} as asked for: {shown}")


def variables(facts: Facts) -> Iterator[Finding]:
    """No variable that looks like a setting and is none."""
    wrong = complaints(facts.variables)
    for complaint in wrong:
        yield bad("settings", complaint, "mend or unset it; docs/settings.md lists all")
    if not wrong:
        yield good("settings", "every TIDEGATE_ variable that is set is one that is read")


def device(facts: Facts) -> Iterator[Finding]:
    """What MLX computes on."""
    engine = facts.engine
    if isinstance(engine, Unknown):
        yield bad("device", f"MLX does not start: {engine.reason}", "`make setup`; see the README on CUDA")
    elif engine.platform == "darwin" and not engine.device.startswith("metal"):
        yield bad(
            "device", f"{engine.device}: no Metal on a Mac", "use Python for arm64, outside a container"
        )
    elif engine.nvidia and engine.device.startswith("cpu"):
        yield note(
            "device", f"{engine.device}, and an NVIDIA GPU is here", "for MLX on it see the README, CUDA"
        )
    else:
        yield good("device", engine.device)


def memory(facts: Facts) -> Iterator[Finding]:
    """What a worker that is alone on this host may use, and by which limit."""
    engine = facts.engine
    if isinstance(engine, Unknown):
        yield note("memory", "not known without MLX")
        return
    said = f"of {gib(engine.total_bytes)} a worker may use {gib(engine.steady_bytes)}, by {_limit(engine.steady_source)}"
    if engine.now_bytes < engine.steady_bytes:
        said += f"; just now {gib(engine.now_bytes)}, by {_limit(engine.now_source)}"
    if held := _held_bytes(facts):
        said += f"; workers here hold {gib(held)}"
    most = min(
        (size for name, size in engine.limits_bytes.items() if not name.endswith("_available")), default=0
    )
    if engine.steady_bytes < LEAST_BUDGET_BYTES:
        yield bad(
            "memory", said, f"raise that limit: {gib(LEAST_BUDGET_BYTES)} are needed beside a model's weights"
        )
    elif facts.settings.memory_budget is not None and 0 < most < engine.steady_bytes:
        yield bad("memory", f"{said}, and this host has {gib(most)}", "set less, or nothing")
    elif engine.now_bytes < LEAST_BUDGET_BYTES:
        yield note("memory", said, "close other programs: until then jobs run one at a time")
    else:
        yield good("memory", said)


def _held_bytes(facts: Facts) -> int:
    """What this host's live workers may use, of what a further one would have."""
    if isinstance(facts.api, Unknown) or isinstance(facts.api.capacity, Unknown):
        return 0
    workers = map(fields_of, list_of(facts.api.capacity, "workers"))
    return sum(
        int(figure(each.get("budget_bytes"))) for each in workers if each.get("host") == facts.hostname
    )


def blas(facts: Facts) -> Iterator[Finding]:
    """On Linux CPUs: a BLAS that reads prompts fast."""
    engine = facts.engine
    if isinstance(engine, Unknown) or engine.platform == "darwin" or not engine.device.startswith("cpu"):
        return
    if engine.blas:
        yield good("OpenBLAS", f"{engine.blas} is preloaded into the engine")
    elif facts.settings.blas_preload == "off":
        yield note("OpenBLAS", "not used: TIDEGATE_BLAS_PRELOAD is off")
    else:
        yield note(
            "OpenBLAS", "not here: prompts take some six times as long", "Debian: apt install libopenblas0"
        )


def models(facts: Facts) -> Iterator[Finding]:
    """Every model that is named: whether it is here, can be read, and fits."""
    if not facts.settings.models:
        if served := _served_there(facts):
            yield good("models", f"none is named here; the API serves {', '.join(served)}")
        else:
            yield note("models", "none is named", "set TIDEGATE_MODELS, or `tidegate up --sample`")
    elif isinstance(facts.engine, Unknown):
        yield note("models", f"not looked at without MLX: {', '.join(facts.settings.model_sources)}")
    else:
        for each in facts.engine.models:
            yield _model(each, facts.engine)


def _served_there(facts: Facts) -> list[str]:
    """What the API says that it serves; it may have been told of models otherwise than this process."""
    said = None if isinstance(facts.api, Unknown) else facts.api.models
    return [on_one_line(each.get("id")) for each in map(fields_of, list_of(said, "data")) if each.get("id")]


def _model(model: ModelFacts, engine: EngineFacts) -> Finding:
    what = f"model {model.name}"
    if model.problem:
        return bad(what, f"{model.source}: {model.problem}", "mend TIDEGATE_MODELS (name=folder)")
    if model.weights_bytes is None:
        if engine.offline:
            return bad(
                what, f"{model.source} is not on this host, and is not to be fetched", "unset HF_HUB_OFFLINE"
            )
        return note(what, f"{model.source} is not on this host: the first job downloads it from Hugging Face")
    if model.kind is None:
        return bad(
            what, f"{model.source}: its config.json names no architecture", "convert it by mlx_lm.convert"
        )
    if model.lacking:
        some = ", ".join(model.lacking[:3]) + (" …" if len(model.lacking) > 3 else "")  # noqa: PLR2004 - a few
        count = len(model.lacking)
        lacking = f"{so_many(count, 'file')} {'is' if count == 1 else 'are'}"
        return bad(what, f"{model.source}: {lacking} not here: {some}", "download it again")
    if not model.weights_bytes:
        return bad(what, f"{model.source}: there is no model*.safetensors", "convert it by mlx_lm.convert")
    said = f"{model.kind}, {gib(model.weights_bytes)} on disk"
    if model.weights_bytes >= engine.steady_bytes:
        return bad(what, f"{said}: more than a worker may use", "a smaller one, or one of fewer bits")
    return good(what, f"{said}, {model.weights_bytes / engine.steady_bytes:.0%} of what a worker may use")


def folder(facts: Facts) -> Iterator[Finding]:
    """Where the embedded server's data, the models made here and the logs are kept."""
    nearest, writable = facts.folder
    there = nearest == facts.settings.data_dir
    said = f"{facts.settings.data_dir}" + ("" if there else " (it is made when it is needed)")
    if not writable:
        yield bad(
            "data folder", f"{nearest} cannot be written to", "mend its rights, or set TIDEGATE_DATA_DIR"
        )
    elif facts.free_bytes < FREE_BYTES:
        yield bad("data folder", f"{said}: {gib(facts.free_bytes)} are free", "make room on that disk")
    else:
        yield good("data folder", f"{said}, {gib(facts.free_bytes)} free")


def downloads(facts: Facts) -> Iterator[Finding]:
    """Whether there is room for the models that are still to be fetched."""
    engine = facts.engine
    if isinstance(engine, Unknown) or engine.offline:
        return
    missing = [each.name for each in engine.models if each.weights_bytes is None and not each.problem]
    if missing:
        said = f"{engine.hub_folder}: {gib(engine.hub_free_bytes)} free for {', '.join(missing)}"
        if engine.hub_free_bytes < FREE_BYTES:
            yield bad("downloads", said, "make room on that disk, or set HF_HOME")
        else:
            yield good("downloads", f"{said}, whose sizes are not known before")


def descriptors(facts: Facts) -> Iterator[Finding]:
    """How many files a process may have open: a connection is one."""
    soft, hard = (_count(limit) for limit in facts.descriptors)
    most = facts.descriptors[1]
    if most < 0 or most >= CONNECTIONS:
        yield good("open files", f"{soft}, and up to {hard} where they are asked for")
    elif most >= FEW_CONNECTIONS:
        yield note(
            "open files", f"{hard} at most: the API takes fewer connections than 2,000", "raise ulimit -Hn"
        )
    else:
        yield bad("open files", f"{hard} at most", f"raise ulimit -Hn to {CONNECTIONS:,}")


def _count(limit: int) -> str:
    return "any number" if limit < 0 else f"{limit:,}"


def _limit(source: str) -> str:
    words = _LIMITS.get(source)
    return source if words in {None, source} else f"{words} ({source})"
