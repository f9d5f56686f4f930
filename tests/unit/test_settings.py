"""Settings: what is read, from where, and what a bad value says."""

import os
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import pytest
import redis
from pydantic import ValidationError

from scheduler.errors import SettingsInvalid
from scheduler.settings import Settings, load
from scheduler.sizes import parse_bytes
from scheduler.webhook_address import Allowed


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


def test_everything_has_a_default() -> None:
    """No variable has to be set."""
    settings = load()
    assert settings.port == 8400
    assert settings.redis_url is None
    assert settings.models == ()


def test_every_setting_says_what_it_is() -> None:
    """Each field has a description, since the README is made of them."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_settings_are_frozen() -> None:
    """What was read at the start holds for the process's life."""
    with pytest.raises(ValidationError, match="frozen"):
        load().port = 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIDEGATE_PORT", "99999"),
        ("TIDEGATE_PORT", "http"),
        ("TIDEGATE_MEMORY_BUDGET", "plenty"),
        ("TIDEGATE_MAX_QUEUED_JOBS", "0"),
        ("TIDEGATE_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """The message has the variable and the value, so that it can be mended without the source."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsInvalid, match=f"{variable}='{value}'"):
        load()


def test_models_are_names_or_names_with_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry without a folder is loaded by its own name; spaces around commas do not count."""
    monkeypatch.setenv("TIDEGATE_MODELS", "tiny=/some folder/tiny , org/model,")
    assert load().model_sources == {"tiny": "/some folder/tiny", "org/model": "org/model"}


@pytest.mark.parametrize(
    ("text", "count"),
    [("1048576", 1 << 20), ("18GiB", 18 << 30), ("512m", 512 << 20), ("1.5 k", 1536), ("2TB", 2 << 40)],
)
def test_sizes_are_read_with_units(monkeypatch: pytest.MonkeyPatch, text: str, count: int) -> None:
    """Units are powers of 1,024, with or without the i and the B."""
    monkeypatch.setenv("TIDEGATE_MEMORY_BUDGET", text)
    assert load().memory_budget == parse_bytes(text) == count


def test_the_embedded_server_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a server set, the URL leads to the socket in the data folder, spaces and all."""
    monkeypatch.setenv("TIDEGATE_DATA_DIR", str(tmp_path / "a b"))
    settings = load()
    assert settings.server_url == f"unix://{quote(str(settings.socket_path))}"
    options = redis.Redis.from_url(settings.server_url).get_connection_kwargs()
    assert options["path"] == str(settings.socket_path)


def test_a_server_that_is_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """TIDEGATE_REDIS_URL is taken as it is."""
    monkeypatch.setenv("TIDEGATE_REDIS_URL", "redis://queue:6379/3")
    assert load().server_url == "redis://queue:6379/3"


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "rediss://:hunter2@queue:6380/1?ssl_cert_reqs=none",
        "unix:///a%20b/s.sock",
        "redis://[::1]",
    ],
)
def test_a_url_that_names_a_server_is_one_for_its_client(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What is let through, the client can read."""
    monkeypatch.setenv("TIDEGATE_REDIS_URL", url)
    redis.Redis.from_url(load().server_url).close()


@pytest.mark.parametrize(
    "url",
    [
        *("nonsense", "http://queue", "redis:queue", "redis://queue:hunter2", "redis://queue:99999"),
        *("redis//:hunter2@queue", "unix://", "redis://[hunter2"),
    ],
)
def test_a_url_that_names_no_server_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """When settings are read, by the variable's name, and without what may be a password."""
    monkeypatch.setenv("TIDEGATE_REDIS_URL", url)
    with pytest.raises(SettingsInvalid, match=r"^TIDEGATE_REDIS_URL=\(a secret\): ") as refused:
        load()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["reserve", "blas_preload", "log_level"])
def test_a_choice_is_described_by_all_that_may_be_chosen(name: str) -> None:
    """So that the README's table tells what can be set."""
    field = Settings.model_fields[name]
    choices = get_args(field.annotation)
    assert choices
    assert [each for each in choices if f"`{each}`" not in (field.description or "")] == []


def test_a_deep_data_folder_has_a_socket_that_can_be_opened(tmp_path: Path) -> None:
    """A socket's address holds 104 bytes; a data folder deeper than that has its socket elsewhere."""
    deep = load(data_dir=tmp_path / ("d" * 120))
    other = load(data_dir=tmp_path / ("e" * 120))
    assert len(os.fsencode(deep.socket_path)) < 104
    assert deep.socket_path != other.socket_path


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_server_is_none(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """As Compose files and shells write what is unset."""
    monkeypatch.setenv("TIDEGATE_REDIS_URL", empty)
    settings = load()
    assert settings.redis_url is None
    assert settings.server_url.startswith("unix://")


@pytest.mark.parametrize("name", ["RESULT_TTL", "PROGRESS_TIMEOUT", "SHUTDOWN_GRACE", "LEASE_SECONDS"])
@pytest.mark.parametrize("value", ["100000000000000000", "31622401", "inf", "nan"])
def test_no_duration_is_longer_than_a_year(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The store refuses longer expiries, and in the midst of a step; and what is no number is none."""
    monkeypatch.setenv(f"TIDEGATE_{name}", value)
    with pytest.raises(SettingsInvalid, match=f"TIDEGATE_{name}="):
        load()
    monkeypatch.setenv(f"TIDEGATE_{name}", "31536000")
    load()


def test_no_size_is_larger_than_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that no number holds."""
    for text in ("9" * 400, "1048576TiB"):
        monkeypatch.setenv("TIDEGATE_MEMORY_BUDGET", text)
        with pytest.raises(SettingsInvalid, match="TIDEGATE_MEMORY_BUDGET="):
            load()


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files pass on what nobody set."""
    names = ("REDIS_URL", "MEMORY_BUDGET", "PREFIX_CACHE", "PORT", "MODELS")
    for name in names:
        monkeypatch.delenv(f"TIDEGATE_{name}", raising=False)
    unset = load()
    for name in names:
        monkeypatch.setenv(f"TIDEGATE_{name}", "")
    assert load() == unset


def test_a_fault_is_told_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong, and nothing of who found it."""
    monkeypatch.setenv("TIDEGATE_PREFIX_CACHE", "-1")
    with pytest.raises(
        SettingsInvalid, match=r"^TIDEGATE_PREFIX_CACHE='-1': '-1' is not a size such as 18GiB$"
    ):
        load()


def test_webhooks_go_where_an_operator_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks, addresses and names, comma separated; what is none of them is refused by the variable's name."""
    monkeypatch.setenv("TIDEGATE_WEBHOOK_ALLOW", "10.0.0.0/8, fd00::/8,inside.example,")
    assert load().webhook_allowed == Allowed.of(("10.0.0.0/8", "fd00::/8", "inside.example"))
    monkeypatch.setenv("TIDEGATE_WEBHOOK_ALLOW", "10.0.0.0/33")
    with pytest.raises(SettingsInvalid, match="TIDEGATE_WEBHOOK_ALLOW"):
        load()


def test_a_secret_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where it is good, nor by the message that it is not."""
    monkeypatch.setenv("TIDEGATE_WEBHOOK_SECRET", "whsec_" + "c2VjcmV0" * 4)
    assert "c2VjcmV0" not in f"{load()!r} {load()}"
    monkeypatch.setenv("TIDEGATE_WEBHOOK_SECRET", "c2VjcmV0")
    with pytest.raises(SettingsInvalid, match="TIDEGATE_WEBHOOK_SECRET") as refused:
        load()
    assert "c2VjcmV0" not in str(refused.value)
    monkeypatch.setenv("TIDEGATE_WEBHOOK_SECRET", " ")
    assert load().webhook_secret is None
