"""What the guard asks a scheduler: roles/dask_container/files/in_flight.py, run as the role runs it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, Scheduler, get_client
from waiting import wait_for

SCRIPT = Path(__file__).parents[1] / "roles/dask_container/files/in_flight.py"
IDLE = {"tasks": 0, "processing": 0, "bytes": 0, "clients": 0, "retired": []}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler and a worker in processes of their own sockets, no client."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as made:
        yield made


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    """A folder like /proc, with somebody else's process."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1/cmdline").write_bytes(b"docker-init\0--\0dask\0worker\0tcp://192.0.2.1:8786\0--host\x00192.0.2.2\0")
    return tmp_path


def asked(address: str) -> subprocess.CompletedProcess[str]:
    source = SCRIPT.read_text(encoding="utf-8")
    command = [sys.executable, "-", address]
    return subprocess.run(command, input=source, capture_output=True, text=True, timeout=120, check=False)


def in_flight(cluster: LocalCluster) -> dict[str, Any]:
    done = asked(cluster.scheduler_address)
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(done.stdout))
    assert found.pop("scheduler") == cluster.scheduler.id
    return found


def test_an_idle_cluster_has_nothing_in_flight(cluster: LocalCluster) -> None:
    assert in_flight(cluster) == IDLE


def test_a_client_and_what_it_holds_are_counted(cluster: LocalCluster) -> None:
    with Client(cluster.scheduler_address) as client:
        assert in_flight(cluster) == {**IDLE, "clients": 1}
        kept = client.scatter(b"x" * 1000)
        found = in_flight(cluster)
        assert (found["tasks"], found["clients"]) == (1, 1)
        assert found["bytes"] >= 1000
        del kept


def test_the_client_that_a_worker_keeps_for_its_tasks_is_not_counted(cluster: LocalCluster) -> None:
    def from_a_task() -> str:
        return str(get_client().id)

    with Client(cluster.scheduler_address) as client:
        made = client.submit(from_a_task).result(timeout=60)
    # it is there, and stays
    assert made in cluster.scheduler.clients
    assert in_flight(cluster) == IDLE


def test_a_published_dataset_is_a_stored_key_and_nothing_once_it_is_unpublished(cluster: LocalCluster) -> None:
    with Client(cluster.scheduler_address) as client:
        client.publish_dataset(kept=client.scatter(b"x" * 1000))
    wait_for(lambda: in_flight(cluster)["clients"] == 0, "no client is left")
    assert in_flight(cluster)["tasks"] == 1
    with Client(cluster.scheduler_address) as client:
        client.unpublish_dataset("kept")
    wait_for(lambda: in_flight(cluster) == IDLE, "the cluster is idle")
    # what must not be counted is there
    assert any(name.startswith("published-") for name in cluster.scheduler.clients)


def test_a_worker_that_takes_no_tasks_is_named(cluster: LocalCluster) -> None:
    async def retire(dask_scheduler: Scheduler) -> None:
        await dask_scheduler.retire_workers(remove=False, close_workers=False)

    def bring_back(dask_scheduler: Scheduler) -> None:
        (worker,) = dask_scheduler.workers.values()
        dask_scheduler.stream_comms[worker.address].send(
            {"op": "worker-status-change", "status": "running", "stimulus_id": "test"}
        )

    with Client(cluster.scheduler_address) as client:
        client.run_on_scheduler(retire)
        assert in_flight(cluster)["retired"] == ["0"]
        client.run_on_scheduler(bring_back)
        wait_for(lambda: in_flight(cluster)["retired"] == [], "all take tasks")


def test_it_asks_where_the_scheduler_listens_and_not_where_the_inventory_says(processes: Path) -> None:
    listening = runpy.run_path(str(SCRIPT))["listening"]
    assert listening(processes) is None
    (processes / "7").mkdir()
    command = "/opt/dask/bin/python /opt/dask/bin/dask scheduler --host 192.0.2.9 --port 8790 --no-show"
    (processes / "7/cmdline").write_bytes(command.replace(" ", "\0").encode())
    assert listening(processes) == "tcp://192.0.2.9:8790"
    (processes / "7/cmdline").write_bytes(f"{command} --protocol tls".replace(" ", "\0").encode())
    assert listening(processes) == "tls://192.0.2.9:8790"


def test_a_scheduler_that_is_not_there_holds_nothing() -> None:
    assert json.loads(asked("tcp://127.0.0.1:1").stdout) == {**IDLE, "scheduler": ""}


def test_a_scheduler_that_does_not_say_is_no_idle_one() -> None:
    done = asked("tcp://no-such-host.invalid:8786")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tcp://no-such-host.invalid:8786: ")
    assert len(done.stderr.splitlines()) == 1
