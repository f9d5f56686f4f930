"""docker-compose.yml: valid, and with a queue that keeps what it was given."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services, anchors and merges resolved."""
    return dict(YAML(typ="safe", pure=True).load(FILE)["services"])


def test_it_is_valid() -> None:
    """By the compose specification's own schema."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_queue_persists_and_never_evicts(services: dict[str, Any]) -> None:
    """Append-only, on a volume, and a policy that refuses rather than forgets."""
    command = services["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert services["valkey"]["volumes"] == ["queue:/data"]


def test_what_serves_has_a_healthcheck(services: dict[str, Any]) -> None:
    """The queue answers PING, the API answers /readyz."""
    assert "valkey-cli ping" in services["valkey"]["healthcheck"]["test"][-1]
    assert "/readyz" in services["api"]["healthcheck"]["test"][-1]


def test_nothing_starts_before_the_queue_is_healthy(services: dict[str, Any]) -> None:
    """The API and the worker wait for it."""
    for name in ("api", "worker"):
        assert services[name]["depends_on"]["valkey"] == {"condition": "service_healthy"}


def test_the_worker_is_rqs_own_in_the_cpu_profile(services: dict[str, Any]) -> None:
    """A Linux worker joins on request, started as anywhere else."""
    assert services["worker"]["profiles"] == ["cpu"]
    assert services["worker"]["command"][:4] == ["rq", "worker", "-w", "workers.MetalWorker"]
    assert "profiles" not in services["api"]


def test_ports_are_published_on_this_machine_alone(services: dict[str, Any]) -> None:
    """The queue has no password here."""
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_api_may_do_without_keys_behind_such_a_port(services: dict[str, Any]) -> None:
    """It listens inside a container; that nobody else reaches it is said where it is seen to."""
    assert services["api"]["environment"]["TIDEGATE_OPEN"] == "${TIDEGATE_OPEN:-true}"
