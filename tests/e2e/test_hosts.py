"""Several hosts, on namespaces of this machine: a cut link is silent, and costs nothing but time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lan import inside_command, possible

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not possible(), reason="no namespaces of one's own here")

CUT = """
import socket, subprocess, sys
from benchmarks.lan import Lan, OBSERVER

lan = Lan(["near", "far"])
echo = "import socket, sys; s = socket.create_server((sys.argv[1], 7), reuse_port=True); print(socket.gethostname(), flush=True)\\nwhile True:\\n c = s.accept()[0]\\n while d := c.recv(9): c.send(d)"
hosts = {}
for host in ("near", "far"):
    command = lan.command(host, [sys.executable, "-c", echo, lan.address(host)])
    hosts[host] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert hosts[host].stdout.readline() == host + "\\n"
talks = {host: socket.create_connection((lan.address(host), 7), 5) for host in hosts}

def heard(host, seconds):
    talks[host].settimeout(seconds)
    talks[host].send(b"x")
    try:
        return talks[host].recv(9) != b""
    except TimeoutError:
        return False

assert heard("near", 5) and heard("far", 5)
lan.cut(OBSERVER, "far")
assert heard("near", 5) and not heard("far", 0.5)
lan.heal(OBSERVER, "far")
assert heard("near", 5) and heard("far", 20)
print("as it should be")
"""


def test_a_cut_link_is_silent_and_the_others_stay() -> None:
    """Nobody is told; what was sent meanwhile arrives when it is healed."""
    command = inside_command(sys.executable, "-c", CUT)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.stdout, ended.returncode) == ("as it should be\n", 0), ended.stderr


def test_cut_links_lose_no_job() -> None:
    """Server, API and two workers on hosts of their own, under the audit of the chaos."""
    command = [sys.executable, "-m", "benchmarks.hosts", "--seconds", "6"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["accepted"] > 0
    assert told["cuts"] > 0
    assert {told[each] for each in ("lost", "doubled", "changed", "leaked")} == {0}
