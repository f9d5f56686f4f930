"""Processes: started in groups, watched, and all gone at the end however it comes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until
from tidegate.failures import ProcessFailed
from tidegate.interruption import Interrupted, Interruption
from tidegate.processes import Child, Processes, Program, rotated
from tidegate.warden import watched_at_the_end

FOREVER = "import threading; print('up', flush=True); threading.Event().wait()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + FOREVER
WITH_A_DEAF_CHILD = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]); " + FOREVER


def running(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def said(child: Child, count: int = 1) -> Callable[[], bool]:
    """Whether the child, or its own children, said that they are up so many times."""
    assert child.log is not None
    log = child.log
    return lambda: log.read_text().count("up") >= count


def python(code: str, folder: Path, name: str = "sleeper", grace_seconds: float = 10.0) -> Program:
    """A program that runs this code."""
    return Program(name, (sys.executable, "-c", code), folder, grace_seconds=grace_seconds)


def test_a_program_is_gone_after_the_block(tmp_path: Path) -> None:
    """The end of the block waits for it."""
    with Processes(tmp_path / "logs") as processes:
        child = processes.start(python(FOREVER, tmp_path))
        wait_until(said(child), "the program is up")
    assert child.process.returncode == -signal.SIGTERM


def test_the_logs_folder_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask lets others read."""
    before = os.umask(0)
    try:
        rotated(tmp_path / "logs" / "a.log")
    finally:
        os.umask(before)
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_a_failure_in_the_block_stops_everything(tmp_path: Path) -> None:
    """An exception leaves no process behind, and is not swallowed."""
    children: list[Child] = []

    def start_two_and_fail() -> None:
        with Processes(tmp_path / "logs") as processes:
            children.extend(processes.start(python(FOREVER, tmp_path, name)) for name in ("one", "two"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start_two_and_fail()
    assert [child.alive for child in children] == [False, False]


def test_the_last_started_is_the_first_stopped(tmp_path: Path) -> None:
    """What others stand on goes last."""
    order = tmp_path / "order"
    code = (
        "import signal, sys, threading\n"
        "def end(*_):\n"
        f"    open({str(order)!r}, 'a').write(sys.argv[1]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); threading.Event().wait()"
    )
    with Processes(tmp_path / "logs") as processes:
        for name in "abc":
            program = Program(name, (sys.executable, "-c", code, name), tmp_path)
            wait_until(said(processes.start(program)), f"{name} is up")
    assert order.read_text() == "cba"


def test_what_does_not_listen_is_killed_after_its_grace(tmp_path: Path) -> None:
    """SIGTERM first, SIGKILL when the grace is over."""
    with Processes(tmp_path / "logs") as processes:
        child = processes.start(python(DEAF, tmp_path, grace_seconds=0.1))
        wait_until(said(child), "the program is up")
    assert child.process.returncode == -signal.SIGKILL


def test_the_children_of_a_program_go_with_it(tmp_path: Path) -> None:
    """Its whole group is killed once its leader is gone."""
    with Processes(tmp_path / "logs") as processes:
        child = processes.start(python(WITH_A_DEAF_CHILD, tmp_path))
        wait_until(said(child, 2), "both are up")
        (grandchild,) = psutil.Process(child.pid).children()
    wait_until(lambda: not running(grandchild.pid), "the grandchild is gone")


def test_a_death_is_told_with_the_last_words(tmp_path: Path) -> None:
    """Who, how, and the end of the log."""
    with Processes(tmp_path / "logs") as processes:
        child = processes.start(python("import sys; print('no such model'); sys.exit(3)", tmp_path))
        wait_until(lambda: not child.alive, "the program is gone")
        with pytest.raises(ProcessFailed, match=r"(?s)sleeper exited with 3.*no such model"):
            processes.check()


def test_a_death_by_a_signal_names_it(tmp_path: Path) -> None:
    """A crash is told from an exit."""
    with Processes(tmp_path / "logs") as processes:
        child = processes.start(python("import os; os.abort()", tmp_path))
        wait_until(lambda: not child.alive, "the program is gone")
        with pytest.raises(ProcessFailed, match="was killed by signal 6"):
            processes.stay()


def test_waiting_notices_a_death(tmp_path: Path) -> None:
    """Nobody waits out a limit for what has died."""
    with Processes(tmp_path / "logs") as processes:
        processes.start(python("raise SystemExit('cannot')", tmp_path))
        with pytest.raises(ProcessFailed, match="cannot"):
            processes.wait_until(lambda: False, "a miracle", 60)


def test_waiting_ends_at_its_limit(tmp_path: Path) -> None:
    """The message says what was waited for, and where to look."""
    with Processes(tmp_path / "logs") as processes:
        processes.start(python(FOREVER, tmp_path))
        with pytest.raises(ProcessFailed, match=r"a miracle.*sleeper\.log"):
            processes.wait_until(lambda: False, "a miracle", 0)


def test_a_program_that_cannot_run_is_named(tmp_path: Path) -> None:
    """Nothing to stop, one line to read."""
    nothing = Program("nothing", (str(tmp_path / "nothing"),), tmp_path)
    with (
        Processes(tmp_path / "logs") as processes,
        pytest.raises(ProcessFailed, match="nothing cannot be started"),
    ):
        processes.start(nothing)


def test_a_program_run_to_its_end_must_succeed(tmp_path: Path) -> None:
    """A step that fails is a failure; one that succeeds is nothing to watch any more."""
    with Processes(tmp_path / "logs") as processes:
        processes.run(python("pass", tmp_path))
        processes.check()
        with pytest.raises(ProcessFailed, match="exited with 4"):
            processes.run(python("raise SystemExit(4)", tmp_path))


def test_a_program_run_to_its_end_shows_its_messages_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it makes known as its result is for other callers."""
    with capfd.disabled(), (tmp_path / "err").open("w") as err, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", err)
        with Processes(tmp_path / "logs") as processes:
            processes.run(python("import sys; print('a path'); print('news', file=sys.stderr)", tmp_path))
    assert (tmp_path / "err").read_text() == "news\n"
    assert capfd.readouterr().out == ""


def test_logs_of_earlier_runs_are_kept_for_a_while(tmp_path: Path) -> None:
    """Each start begins a log; three earlier ones are kept."""
    for run in range(6):
        with Processes(tmp_path) as processes:
            processes.start(python(f"print({run})", tmp_path)).process.wait(timeout=10)
    logs = {log.name: log.read_text().strip() for log in tmp_path.glob("*.log*")}
    assert logs == {"sleeper.log": "5", "sleeper.log.1": "4", "sleeper.log.2": "3", "sleeper.log.3": "2"}


def test_a_signal_is_raised_once() -> None:
    """SIGTERM is an exception like Ctrl-C; a second one only hurries."""
    with Interruption() as interruption:
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert not interruption.hurried
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.hurried
    assert caught.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_waits_for_a_held_block() -> None:
    """What must not be cut in two is not; the signal comes right after it."""
    steps = []

    def work(interruption: Interruption) -> None:
        with interruption.held():
            with interruption.held():
                os.kill(os.getpid(), signal.SIGHUP)
                steps.append("inner")
            steps.append("outer")

    with Interruption() as interruption, pytest.raises(Interrupted):
        work(interruption)
    assert steps == ["inner", "outer"]


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    """`nohup tidegate up` survives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_cuts_the_grace_short(tmp_path: Path) -> None:
    """A minute of grace ends at once when the user insists."""
    deaf: list[Child] = []
    insist = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))

    def work(interruption: Interruption) -> None:
        with Processes(tmp_path / "logs", interruption) as processes:
            deaf.append(processes.start(python(DEAF, tmp_path, grace_seconds=60)))
            wait_until(said(deaf[0]), "the program is up")
            insist.start()
            os.kill(os.getpid(), signal.SIGINT)

    with Interruption() as interruption:
        with pytest.raises(Interrupted):
            work(interruption)
        insist.join()
    assert deaf[0].process.returncode == -signal.SIGKILL


def test_even_a_killed_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGKILL cannot be caught; the warden notices that the parent is gone, and stops what it started."""
    parent_code = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from tidegate.processes import Processes, Program\n"
        "here = Path(sys.argv[1])\n"
        "with Processes(here) as processes:\n"
        f"    child = processes.start(Program('sleeper', (sys.executable, '-c', {FOREVER!r}), here))\n"
        "    (here / 'pid').write_text(f'{child.pid}\\n')\n"
        "    threading.Event().wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code, str(tmp_path)])
    try:
        pid_file, log = tmp_path / "pid", tmp_path / "sleeper.log"
        wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), "the child is started")
        wait_until(lambda: "up" in log.read_text(), "the child is up")
        assert running(int(pid_file.read_text()))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not running(int(pid_file.read_text())), "the child is gone too")


def test_the_warden_forgets_what_was_stopped() -> None:
    """A process id may belong to another by then."""
    assert watched_at_the_end(["+10\n", "+11\n", "-10\n", "+12\n"]) == [11, 12]
