"""What stops workers with their host and starts them again: roles/dask_worker/files/workers.py, with a paper engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "roles/dask_worker/files/workers.py"
DOCKER = """#!/bin/sh
echo "$*" >> "$PAPER/calls"
case "$1" in
info) echo "$LIVE" ;;
ps) cat "$PAPER/running" ;;
inspect) case "$3" in
    *StopTimeout*) echo 120 ;;
    *) [ ! -e "$PAPER/deaf" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
       cat "$PAPER/policy-$4" 2> /dev/null || { echo "Error: No such object: $4" >&2; exit 1; } ;;
    esac ;;
stop) [ "$4" != "$BROKEN" ] || exit 1 ;;
start) [ "$2" != "$BROKEN" ] || exit 1 ;;
esac
"""


class Host:
    """An engine with two workers, and whether the host is on its way down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "state/stopped"
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PAPER": str(folder),
            "LIVE": "true",
            "BROKEN": "",
        }
        self.write("docker", DOCKER)
        self.write("running", "dask-worker-1\ndask-worker-0\n")
        self.system("running")
        for name in ("dask-worker-0", "dask-worker-1"):
            self.write(f"policy-{name}", "unless-stopped\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def system(self, state: str) -> None:
        self.write("systemctl", f"#!/bin/sh\necho {state}\n[ {state} = running ]\n")

    def run(self, verb: str, **constants: float) -> list[str]:
        """Return what was asked of the engine that changes something; constants of the script are for this run."""
        (self.folder / "calls").unlink(missing_ok=True)
        script = self.folder / "workers.py"
        script.write_text(SCRIPT.read_text())
        for constant, seconds in constants.items():
            text = re.sub(rf"^{constant} = .*", f"{constant} = {seconds}", script.read_text(), flags=re.MULTILINE)
            assert text != script.read_text()
            script.write_text(text)
        command = [sys.executable, "-I", str(script), verb, str(self.notes)]
        subprocess.run(command, env=self.environment, timeout=60, check=True)
        calls = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [call for call in calls if call.startswith(("stop", "start"))]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


STOPS = ["stop --time 120 dask-worker-0", "stop --time 120 dask-worker-1"]
STARTS = ["start dask-worker-0", "start dask-worker-1"]


def test_a_host_that_goes_down_stops_its_workers_and_starts_them_at_boot(host: Host) -> None:
    host.system("stopping")
    assert host.run("stop") == STOPS
    host.system("starting")
    assert host.run("start") == STARTS
    # once
    assert host.run("start") == []


def test_with_live_restore_the_engine_stops_alone(host: Host) -> None:
    assert host.run("stop") == []
    assert host.run("start") == []
    host.environment["LIVE"] = "false"
    assert host.run("stop") == STOPS


def test_who_is_drained_or_gone_or_was_off_stays_so(host: Host) -> None:
    host.system("stopping")
    host.write("running", "dask-worker-0\n")
    host.run("stop")
    host.write("policy-dask-worker-0", "no\n")
    assert host.run("start") == []
    host.run("stop")
    (host.folder / "policy-dask-worker-0").unlink()
    assert host.run("start") == []


def test_one_that_fails_does_not_stop_the_others_and_stays_noted(host: Host) -> None:
    host.system("stopping")
    host.environment["BROKEN"] = "dask-worker-0"
    assert host.run("stop") == STOPS
    assert host.run("start") == STARTS
    host.environment["BROKEN"] = ""
    assert host.run("start") == ["start dask-worker-0"]


def test_a_stop_that_was_killed_is_remembered_by_the_next(host: Host) -> None:
    host.system("stopping")
    host.run("stop")
    host.write("running", "dask-worker-1\n")
    host.run("stop")
    assert host.run("start") == STARTS


def test_an_engine_that_does_not_answer_at_boot_loses_no_note(host: Host) -> None:
    host.system("stopping")
    host.run("stop")
    host.write("deaf", "")
    assert host.run("start", START_SECONDS=1, RETRY_SECONDS=0.1) == []
    assert host.notes.read_text().split() == ["dask-worker-0", "dask-worker-1"]
    (host.folder / "deaf").unlink()
    assert host.run("start") == STARTS


def test_at_the_end_of_the_time_those_that_are_left_stop_together(host: Host) -> None:
    host.system("stopping")
    assert host.run("stop", STOP_SECONDS=60) == ["stop --time 10 dask-worker-0 dask-worker-1"]
    assert host.run("start") == STARTS
    # one whose own time is longer than what is left has that
    first, second = host.run("stop", STOP_SECONDS=150)
    assert re.fullmatch(r"stop --time (7\d|80) dask-worker-0", first)
    assert second.startswith("stop --time ")
