"""The embedded server: real Valkey, on a socket, its data kept."""

import fcntl
import math
import os
import signal
import socket
import stat
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis
from click.testing import CliRunner

from scheduler.settings import Settings, load
from tests.waiting import wait_until
from tidegate import embedded
from tidegate.command import main
from tidegate.embedded import answers, embedded_server, start_embedded_server
from tidegate.failures import ProcessFailed, QueueUnreachable
from tidegate.processes import Processes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A data folder with a space in its name."""
    return load(data_dir=tmp_path / "some data", redis_url=None)


def connect(url: str) -> "redis.Redis":
    """A client of the server there."""
    return redis.Redis.from_url(url, decode_responses=True)


def test_what_was_written_is_there_after_a_restart(settings: Settings) -> None:
    """A stop loses nothing, the last write included."""
    with embedded_server(settings) as url, connect(url) as server:
        server.rpush("rq:queue:standard", "job_1")
    with embedded_server(settings) as url, connect(url) as server:
        assert server.lrange("rq:queue:standard", 0, -1) == ["job_1"]


def test_it_persists_and_never_evicts(settings: Settings) -> None:
    """Append-only file, flushed each second; a full server refuses instead of forgetting."""
    with embedded_server(settings) as url, connect(url) as server:
        found = server.config_get("append*", "maxmemory-policy")
        assert found["appendonly"] == "yes"
        assert found["appendfsync"] == "everysec"
        assert found["maxmemory-policy"] == "noeviction"


def test_it_is_reached_by_its_owner_alone(settings: Settings) -> None:
    """No TCP port, and a socket, in a folder, that nobody else may open."""
    with embedded_server(settings) as url, connect(url) as server:
        assert server.config_get("port") == {"port": "0"}
        pid = int(server.info("server")["process_id"])
        assert [
            c
            for c in psutil.Process(pid).net_connections()
            if c.status == psutil.CONN_LISTEN and c.laddr.port
        ] == []
        assert stat.S_IMODE(settings.socket_path.stat().st_mode) == 0o700
        assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


def test_its_clients_can_be_listed(settings: Settings) -> None:
    """RQ's workers read CLIENT LIST, in which a space in the socket's path would end a field."""
    with embedded_server(settings) as url, connect(url) as server:
        (client,) = server.client_list()
        assert "../valkey.sock" in client["addr"]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_deep_data_folder_works_too(tmp_path: Path, depth: int) -> None:
    """Its socket is in a private folder elsewhere, for a socket's address is short."""
    settings = load(data_dir=tmp_path.joinpath(*["some data " + "d" * 110] * depth), redis_url=None)
    with embedded_server(settings) as url, connect(url) as server:
        assert len(server.client_list()) == 1
        assert stat.S_IMODE(settings.socket_path.parent.stat().st_mode) == 0o700
    settings.socket_path.parent.rmdir()


def test_it_is_gone_after_the_block(settings: Settings) -> None:
    """Neither the process nor its socket stays."""
    with embedded_server(settings) as url, connect(url) as server:
        pid = int(server.info("server")["process_id"])
    assert not psutil.pid_exists(pid)
    assert not settings.socket_path.exists()


def test_a_server_that_answers_is_used_and_left_alone(settings: Settings) -> None:
    """The second to come starts none, and stops none."""
    with embedded_server(settings) as url, connect(url) as server:
        first = server.info("server")["process_id"]
        with Processes(settings.data_dir / "logs") as processes:
            assert not start_embedded_server(settings, processes)
        assert server.info("server")["process_id"] == first


def test_a_socket_left_by_a_crash_is_no_obstacle(settings: Settings) -> None:
    """After SIGKILL the file is still there, but no lock; the next start takes its place."""
    with Processes(settings.data_dir / "logs") as processes:
        start_embedded_server(settings, processes)
        with connect(settings.server_url) as server:
            os.kill(int(server.info("server")["process_id"]), signal.SIGKILL)
        wait_until(lambda: not answers(settings.socket_path), "the server is gone")
    assert settings.socket_path.exists()
    with embedded_server(settings):
        assert answers(settings.socket_path)


def test_a_server_that_does_not_answer_is_not_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped one keeps its file and its socket, and who comes is told; once it goes on it answers there."""
    monkeypatch.setattr(embedded, "SILENT_SECONDS", 1.0)
    environment = {"TIDEGATE_DATA_DIR": str(settings.data_dir), "TIDEGATE_REDIS_URL": None}
    with Processes(settings.data_dir / "logs") as processes:
        start_embedded_server(settings, processes)
        with connect(settings.server_url) as server:
            pid = int(server.info("server")["process_id"])
        inode = settings.socket_path.stat().st_ino
        os.kill(pid, signal.SIGSTOP)
        try:
            result = CliRunner(env=environment).invoke(main, ["keys", "list"])
        finally:
            os.kill(pid, signal.SIGCONT)
        assert result.exit_code == 1, result.output
        said = " ".join(result.stderr.split())
        assert f"the embedded server runs (pid {pid}) but does not answer; nothing else was started" in said
        assert settings.socket_path.stat().st_ino == inode
        wait_until(lambda: answers(settings.socket_path), "the server goes on")
        with connect(settings.server_url) as server:
            assert server.info("server")["process_id"] == pid
        assert CliRunner(env=environment).invoke(main, ["keys", "list"]).exit_code == 0


@pytest.mark.parametrize("loads_for_ever", [False, True])
def test_a_server_that_loads_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, loads_for_ever: bool
) -> None:
    """Longer than one that is silent, but not for ever; here the server is the test."""
    monkeypatch.setattr(embedded, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(embedded, "START_SECONDS", 1.5 if loads_for_ever else 60.0)
    (settings.data_dir / "valkey").mkdir(mode=0o700, parents=True)
    settings.data_dir.chmod(0o700)
    ready_at = math.inf if loads_for_ever else time.monotonic() + 2.5

    def reply(listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:  # the test is over
                return
            with client:
                while asked := client.recv(4096):
                    client.sendall(b"%1\r\n+proto\r\n:3\r\n" * asked.count(b"HELLO"))
                    client.sendall(b"+OK\r\n" * asked.count(b"CLIENT\r\n"))
                    if b"PING" in asked:
                        ready = time.monotonic() >= ready_at
                        client.sendall(b"+PONG\r\n" if ready else b"-LOADING the dataset\r\n")

    with (
        (settings.data_dir / "valkey" / "server.lock").open("w") as life,
        socket.socket(socket.AF_UNIX) as listener,
        Processes(settings.data_dir / "logs") as processes,
    ):
        fcntl.flock(life, fcntl.LOCK_EX)
        listener.bind(str(settings.socket_path))
        listener.listen()
        thread = threading.Thread(target=reply, args=(listener,))
        thread.start()
        try:
            if loads_for_ever:
                with pytest.raises(QueueUnreachable, match="runs but still reads its data; nothing else"):
                    start_embedded_server(settings, processes)
            else:
                assert not start_embedded_server(settings, processes)
                assert time.monotonic() >= ready_at
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_that_cannot_start_says_why(settings: Settings) -> None:
    """Its last log lines are in the message."""
    with embedded_server(settings):
        pass
    (manifest,) = (settings.data_dir / "valkey").rglob("*.manifest")
    manifest.write_text("not a manifest\n")
    with pytest.raises(ProcessFailed, match=r"(?s)valkey exited with 1.*manifest"), embedded_server(settings):
        pass


def test_a_folder_that_others_may_write_to_is_refused(settings: Settings) -> None:
    """There another user could put a socket of theirs in the place of ours."""
    settings.data_dir.mkdir()
    settings.data_dir.chmod(0o777)
    with pytest.raises(ProcessFailed, match="not be writable by everyone"), embedded_server(settings):
        pass
