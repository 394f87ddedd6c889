"""The load that lifecycle tests are judged by: it says what is well, and what a worker's death did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from waiting import wait_for

SCRIPT = Path(__file__).with_name("load.py")


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler here, two workers in processes of their own with nannies that bring them back."""
    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address=None
    ) as made:
        yield made


class Running:
    """The script at work; its code is given as molecule's scenarios give it."""

    def __init__(self, address: str) -> None:
        command = [sys.executable, "-c", SCRIPT.read_text(encoding="utf-8"), address, "--some", "1", "--many", "2"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.out = self.process.stdout

    def end(self) -> tuple[int, dict[str, Any]]:
        self.process.terminate()
        said, _ = self.process.communicate(timeout=100)
        return self.process.returncode, dict(json.loads(said))


@pytest.fixture
def load(cluster: LocalCluster) -> Iterator[Running]:
    made = Running(cluster.scheduler_address)
    try:
        assert made.out.readline() == "begun\n"
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def executing(cluster: LocalCluster, kind: str) -> list[str]:
    """Return addresses of the workers where a task of this kind is at work."""
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        found = client.run(lambda dask_worker: [str(task.key) for task in dask_worker.state.executing])
    return [address for address, keys in found.items() if any(key.startswith(kind) for key in keys)]


def test_all_is_well(load: Running) -> None:
    status, came = load.end()
    assert came.pop("tasks") > 30
    assert came == {"right": True, "wrong": [], "lost": [], "twice": [], "errors": []}
    assert status == 0


def test_a_worker_that_is_killed_is_seen(cluster: LocalCluster, load: Running) -> None:
    found: list[str] = []
    # it may have ended by the next look
    wait_for(lambda: found.extend(executing(cluster, "some-")) or found, "a task is at work")
    address = found[0]
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        os.kill(client.run(os.getpid)[address], signal.SIGKILL)
        wait_for(lambda: address not in client.scheduler_info(n_workers=-1)["workers"], "the scheduler knows")
        wait_for(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2, "its nanny has another")
    status, came = load.end()
    assert status == 1
    # what was computed is computed again
    assert any(name.startswith(("some-", "sole-")) for name in came["twice"])
    # what was scattered is lost
    assert came["lost"]
    assert all(name.startswith("scattered-") for name in came["lost"])
    assert not came["right"]
    assert came["errors"]
