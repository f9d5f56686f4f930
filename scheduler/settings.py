"""Everything an operator can set, read once at process start.

A process calls :func:`load` in its entry point and passes the frozen result down; nothing else in
tidegate reads the environment. Each variable is the field's name in capitals behind ``TIDEGATE_``.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from scheduler.errors import SettingsInvalid

_SOCKET_PATH_BYTES = 104
_LONGEST_SECONDS = 366 * 86_400
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(text: str) -> int:
    """Read a size such as ``18GiB``, ``512m`` or ``1048576``.

    Units are powers of 1,024 whether or not the ``i`` is written.

    Raises:
        ValueError: ``text`` is not a number with an optional unit, or no memory is so large.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 18GiB")
    size = float(match[1]) * _UNITS[match[2]]
    if size >= 1 << 60:
        raise ValueError(f"{text!r} is more memory than there is")
    return int(size)


class Settings(BaseSettings):
    """One process's settings; sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEGATE_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    redis_url: str | None = Field(
        None, description="The Redis or Valkey server; unset: the embedded server of `tidegate up`."
    )
    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("tidegate", appauthor=False)),
        description="Where models made here, the embedded server's data and logs are kept.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="What is served, comma separated: a Hugging Face id, or `name=folder`. Nothing else loads.",
    )
    host: str = Field("127.0.0.1", description="Where the API listens.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8400, description="The API's port; 0 picks one.")
    max_body_bytes: Annotated[int, Field(gt=0)] = Field(8 << 20, description="The largest request body.")
    max_queued_jobs: Annotated[int, Field(ge=1)] = Field(
        10_000, description="How many jobs may wait before `queue_full`."
    )
    max_queued_tokens: Annotated[int, Field(ge=1)] = Field(
        20_000_000, description="How many tokens of work (prompt + max_tokens) may wait."
    )
    target_wait: Annotated[float, Field(gt=0, le=_LONGEST_SECONDS, allow_inf_nan=False)] = Field(
        600.0,
        description="A job that would start later than so many seconds from now is refused with `queue_full`"
        " (class `batch` is not): OpenAI's client gives up after as many.",
    )
    max_queued_jobs_per_key: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="How many jobs of one API key may wait, those without a key together; unset: no bound of their own.",
    )
    max_queued_tokens_per_key: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many tokens of work of one API key may wait; unset: no bound of their own."
    )
    queue_without_worker: bool = Field(
        True,
        description="Queue a job for a listed model though no live worker serves it; else 503 no_worker.",
    )
    default_max_tokens: Annotated[int, Field(ge=1)] = Field(
        512, description="`max_tokens` where a job names none."
    )
    max_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        2,
        description="How often a job that names no `max_attempts` may fail alone; it ends two engines at most.",
    )
    result_ttl: Annotated[int, Field(ge=60, le=_LONGEST_SECONDS)] = Field(
        86_400, description="How long an ended job is kept."
    )
    memory_budget: int | None = Field(
        None,
        description="Bytes a worker may use (`18GiB`); unset: what the host has and its other workers leave.",
    )
    cache_limit: int | None = Field(
        None,
        description="Bytes of freed buffers MLX may keep; unset: a sixteenth of the budget, at most 1 GiB.",
    )
    prefix_cache: int | None = Field(
        None,
        description="Bytes of caches kept for jobs that begin as earlier ones did (`2GiB`), given up where memory is"
        " needed; 0: none; unset: an eighth of the budget.",
    )
    prefill_chunk: Annotated[int, Field(ge=16, le=8192)] = Field(
        512,
        description="Prompt tokens computed between two decode steps; models are measured anew where it changes.",
    )
    token_gap: Annotated[float, Field(gt=0, le=_LONGEST_SECONDS, allow_inf_nan=False)] = Field(
        0.25,
        description="For how long prompts may keep running streams waiting between two tokens; chunks are made"
        " shorter for it, to 16 tokens at least.",
    )
    prefill_rows: Annotated[int, Field(ge=1, le=64)] = Field(
        8,
        description="Waiting prompts computed together: more is faster for many short ones, and takes more memory;"
        " models are measured anew where it changes.",
    )
    max_batch: Annotated[int, Field(ge=1, le=512)] = Field(32, description="Jobs that decode together.")
    claim_lookahead: Annotated[int, Field(ge=1, le=256)] = Field(
        16, description="How many waiting jobs of a class a claim looks at."
    )
    max_passes: Annotated[int, Field(ge=0)] = Field(
        64, description="How often a waiting job may be passed by smaller ones."
    )
    prefill_ahead: Annotated[float, Field(gt=0, le=_LONGEST_SECONDS)] = Field(
        1.0, description="Seconds of prompts that a worker claims ahead of what it computes."
    )
    max_preemptions: Annotated[int, Field(ge=0)] = Field(
        3, description="How often a job of class `batch` may be put back for an interactive one."
    )
    reserve: Literal["learned", "worst_case"] = Field(
        "learned",
        description="Reserve what the model's own completions say an answer will take, or all of `max_tokens`.",
    )
    reserve_quantile: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9, description="Of such answers, the share that is no longer than what `learned` reserves."
    )
    progress_timeout: Annotated[float, Field(gt=0, le=_LONGEST_SECONDS, allow_inf_nan=False)] = Field(
        300.0, description="An engine silent for so long while it has work is replaced."
    )
    shutdown_grace: Annotated[float, Field(ge=0, le=_LONGEST_SECONDS, allow_inf_nan=False)] = Field(
        30.0, description="How long a worker asked to stop lets its jobs finish before it sheds them."
    )
    lease_seconds: Annotated[float, Field(ge=2, le=_LONGEST_SECONDS, allow_inf_nan=False)] = Field(
        15.0, description="A worker silent for so long has lost its jobs to others."
    )
    blas_preload: Literal["auto", "off"] = Field(
        "auto", description="On Linux CPUs, preload OpenBLAS into the engine where it is installed."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line logged."
    )

    @field_validator("redis_url", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value if not isinstance(value, str) else value.strip() or None

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("data_dir")
    @classmethod
    def _name_from_root(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("memory_budget", "cache_limit", "prefix_cache", mode="before")
    @classmethod
    def _read_size(cls, value: object) -> object:
        return parse_bytes(value) if isinstance(value, str) else value

    @property
    def model_sources(self) -> dict[str, str]:
        """The served names, each with what is loaded for it: a folder or a Hugging Face id."""
        pairs = (entry.partition("=") for entry in self.models)
        return {name.strip(): (source.strip() or name.strip()) for name, _, source in pairs}

    @property
    def socket_path(self) -> Path:
        """The embedded server's Unix socket.

        It lies in the data folder, or, where that path is longer than a socket address holds (104 bytes
        on macOS), in a private folder named after it.
        """
        path = self.data_dir / "valkey.sock"
        if len(os.fsencode(path)) < _SOCKET_PATH_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"tidegate-{os.getuid()}-{name}" / "valkey.sock"

    @property
    def server_url(self) -> str:
        """The server to use: the one set, else the embedded one's socket."""
        return self.redis_url or f"unix://{quote(str(self.socket_path))}"


def load(**overrides: object) -> Settings:
    """Read the environment once.

    Raises:
        SettingsInvalid: a variable has a value that cannot be used; the message names it.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        first = error.errors()[0]
        name = "TIDEGATE_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsInvalid(
            f"{name}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def is_missing_folder(source: str) -> bool:
    """Whether a model's source is a path, and no folder is there."""
    return source.startswith(("/", ".", "~")) and not Path(source).expanduser().is_dir()
