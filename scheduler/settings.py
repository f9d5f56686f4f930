"""Everything an operator can set, read once at process start.

A process calls :func:`load` in its entry point and passes the frozen result down; nothing else in
tidegate reads the environment, but for the names of variables that are none of these
(:mod:`scheduler.spelling`). Each variable is the field's name in capitals behind ``TIDEGATE_``.
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
from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from scheduler.errors import SettingsInvalid
from scheduler.server_url import read_server_url
from scheduler.sizes import parse_bytes
from scheduler.trace_collector import read_collector_url
from scheduler.webhook_address import Allowed
from scheduler.webhook_signature import read_secrets

_SOCKET_PATH_BYTES = 104
_LONGEST_SECONDS = 366 * 86_400
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/?#@,\s]+"
)  # a scheme, a host, perhaps a port, and nothing behind


class Settings(BaseSettings):
    """One process's settings; sizes are bytes, times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEGATE_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    redis_url: Annotated[str, AfterValidator(read_server_url)] | None = Field(
        None,
        description="The Redis or Valkey server (`redis://`, `rediss://` or `unix://`); unset: the embedded server of"
        " `tidegate up`.",
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
    open: bool = Field(
        False,
        description="Let an API without keys listen beyond loopback; only where something else keeps others out;"
        " requests must still call it by a loopback name.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Web pages that may use the API from browsers: origins such as `https://chat.example`, comma"
        " separated, or `*`; unset: none.",
    )
    api_key: SecretStr | None = Field(
        None, description="The API key that the `tidegate` command sends; the API itself does not read it."
    )
    max_body_bytes: Annotated[int, Field(gt=0)] = Field(8 << 20, description="The largest request body.")
    max_file_bytes: Annotated[int, Field(gt=0)] = Field(
        64 << 20, description="The largest file that may be uploaded for a batch (`64MiB`)."
    )
    max_files_bytes: Annotated[int, Field(gt=0)] = Field(
        512 << 20,
        description="How much room uploaded files may take on the server, compressed, before `storage_full`; what"
        " batches write counts, and is always taken.",
    )
    max_files_bytes_per_key: Annotated[int, Field(gt=0)] | None = Field(
        None, description="How much of it each API key's files may take; unset: all."
    )
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
    max_open_per_key: Annotated[int, Field(ge=1)] = Field(
        500,
        description="How many requests of one API key an API process holds open at once, streams and waits among"
        " them; one more gets 429.",
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
    webhook_secret: SecretStr | None = Field(
        None,
        description="Signs the webhooks of jobs that bring no secret (`whsec_` and 24 to 64 bytes in base64; several,"
        " comma separated, all sign); unset: such jobs are refused.",
    )
    webhook_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Where webhooks may go beside public addresses, comma separated: networks, addresses, hosts by"
        " name; there by `http://` too.",
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
        64,
        description="How often a waiting job may be passed: by smaller ones, and by later ones of more urgent classes."
        " Then its turn has come, before every class.",
    )
    prefill_ahead: Annotated[float, Field(gt=0, le=_LONGEST_SECONDS)] = Field(
        1.0, description="Seconds of prompts that a worker claims ahead of what it computes."
    )
    max_preemptions: Annotated[int, Field(ge=0)] = Field(
        3, description="How often a job of class `batch` may be put back for an interactive one."
    )
    reserve: Literal["learned", "worst_case"] = Field(
        "learned",
        description="What is reserved for an answer: `learned`, what the model's own completions say that it will"
        " take, or `worst_case`, all of `max_tokens`.",
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
        "auto",
        description="`auto`: on Linux CPUs, preload OpenBLAS into the engine where it is installed; `off`: never.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line logged: `debug`, `info`, `warning` or `error`."
    )

    traces_endpoint: Annotated[str, AfterValidator(read_collector_url)] | None = Field(
        None,
        description="Where OpenTelemetry traces go, by OTLP over HTTP (`http://127.0.0.1:4318`); unset: nowhere.",
    )

    @field_validator("redis_url", "api_key", "webhook_secret", "traces_endpoint", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return value if not isinstance(value, str) else value.strip() or None

    @field_validator("models", "webhook_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(part.strip().lower() for part in value.split(",") if part.strip())
        for each in origins:
            if each != "*" and not _ORIGIN.fullmatch(each):
                raise ValueError(f"{each!r} is not an origin such as https://chat.example, nor *")
        return origins

    @field_validator("webhook_allow")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Allowed.of(value)
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signs(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            read_secrets(value.get_secret_value())
        return value

    @field_validator("data_dir")
    @classmethod
    def _name_from_root(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator(
        *("memory_budget", "cache_limit", "prefix_cache"),
        *("max_file_bytes", "max_files_bytes", "max_files_bytes_per_key"),
        mode="before",
    )
    @classmethod
    def _read_size(cls, value: object) -> object:
        return parse_bytes(value) if isinstance(value, str) else value

    @property
    def model_sources(self) -> dict[str, str]:
        """The served names, each with what is loaded for it: a folder or a Hugging Face id."""
        pairs = (entry.partition("=") for entry in self.models)
        return {name.strip(): (source.strip() or name.strip()) for name, _, source in pairs}

    @property
    def webhook_allowed(self) -> Allowed:
        """``webhook_allow``, read."""
        return Allowed.of(self.webhook_allow)

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
        secret = name.endswith(("_SECRET", "_KEY", "_REDIS_URL", "_ENDPOINT"))  # URLs may have a password
        shown = "(a secret)" if secret else repr(first["input"])
        raise SettingsInvalid(f"{name}={shown}: {first['msg'].removeprefix('Value error, ')}") from None


def is_missing_folder(source: str) -> bool:
    """Whether a model's source is a path, and no folder is there."""
    return source.startswith(("/", ".", "~")) and not Path(source).expanduser().is_dir()
