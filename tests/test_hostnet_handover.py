"""A stop with notice and a drain lose nothing, in a real cluster with TLS.

roles/dask_container/files/preload/hostnet_handover.py and roles/dask_worker/files/drain.py.

One scheduler and two workers with their nannies on loopback; the tests share them, and each begins with both.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from distributed.core import Status
from test_hostnet_tls import WORKERS, Authority, Cluster, wait_for

DRAIN = Path(__file__).parents[1] / "roles/dask_worker/files/drain.py"
SAID = "distributed.hostnet_handover - INFO - Handover of"


class Handing(Cluster):
    """Its nannies hand over."""

    def start(self, name: str, *arguments: str) -> None:
        if arguments[0] == "worker":
            arguments += ("--preload-nanny", "hostnet_handover")
        super().start(name, *arguments)

    def start_worker(self, name: str) -> None:
        """Start one again as it was."""
        here = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--nthreads", "1", "--nworkers", "1")
        self.start(name, "worker", self.address, "--name", name, *here, "--local-directory", str(self.scratch))

    def ends(self, name: str, deadline: float = 30, gate: Path | None = None) -> float:
        """Stop a worker as Docker does; return the seconds until it is gone. A while later the gate opens."""
        begun = time.monotonic()
        self.processes[name].send_signal(signal.SIGTERM)
        if gate:
            time.sleep(2)
            assert self.processes[name].poll() is None
            gate.touch()
        assert self.processes[name].wait(deadline) == 0
        return time.monotonic() - begun


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Handing]:
    made = Handing(tmp_path_factory.mktemp("handover"))
    made.write([authority], authority.pair())
    made.start_all()
    try:
        wait_for(lambda: "Scheduler at" in made.log("scheduler"), "the scheduler listens", 90)
        yield made
    finally:
        for process in made.processes.values():
            if process.poll() is None and process is not made.processes["scheduler"]:
                process.terminate()
        made.stop()


@pytest.fixture
def client(cluster: Handing, authority: Authority) -> Iterator[Client]:
    with cluster.client(authority) as made:
        yield made


@pytest.fixture
def both(cluster: Handing, client: Client) -> None:
    """Both workers, started again where a test before stopped them."""
    for name in WORKERS:
        if cluster.processes[name].poll() is not None:
            cluster.start_worker(name)
    wait_for(lambda: len(client.scheduler_info()["workers"]) == len(WORKERS), "both are there", 60)
    # of a test that failed
    client.run(lambda dask_worker: setattr(dask_worker, "status", Status.running))


def noting() -> Callable[[Path, str, bool], str]:
    """A function for tasks that leaves a line for each execution; workers cannot import this file."""

    def note(folder: Path, name: str, waits: bool) -> str:
        with (folder / name).open("a") as file:
            file.write(f"{os.getpid()}\n")
        while waits and not (folder / "gate").exists():
            time.sleep(0.05)
        return name

    return note


def runs(folder: Path, name: str) -> int:
    return len((folder / name).read_text().splitlines()) if (folder / name).exists() else 0


def asked(cluster: Handing, step: str, *workers: str, **wish: Any) -> tuple[int, list[str]]:
    """Run the drain's script as the role does; return its status and lines."""
    given = {"scheduler": cluster.address, "workers": workers, "leaving": workers, "step": step, "force": False}
    given |= {"timeout": 60, "outcome": "wait"} | wish
    done = subprocess.run(
        [sys.executable, "-", json.dumps(given)],
        env={**os.environ, "DASK_CONFIG": str(cluster.folder / "config")},
        input=DRAIN.read_text(encoding="utf-8"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def address_of(client: Client, name: str) -> str:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return str(next(address for address, worker in workers.items() if worker["name"] == name))


def test_a_drain_moves_the_keys_waits_for_what_runs_and_gives_away_what_is_queued(
    cluster: Handing, client: Client, both: None, tmp_path: Path
) -> None:
    one = address_of(client, "one")
    kept = client.scatter([b"a" * 1_000_000, b"b" * 1_000_000], workers=["one"], hash=False)
    flexible = {"workers": ["one"], "allow_other_workers": True, "pure": False}
    long = client.submit(noting(), tmp_path, "long", True, **flexible)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    queued = [client.submit(noting(), tmp_path, f"queued {n}", False, **flexible) for n in range(3)]
    with ThreadPoolExecutor(1) as pool:
        drain = pool.submit(asked, cluster, "drain", "one")
        # what was queued does not wait for what runs
        assert client.gather(queued) == ["queued 0", "queued 1", "queued 2"]
        assert not long.done()
        (tmp_path / "gate").touch()
        status, lines = drain.result()
    assert (status, len(lines)) == (0, 2), lines
    assert re.fullmatch(
        r"one: handed over in \S+ s: 3 keys moved \(200\d{4} bytes\), 1 tasks waited for, 0 tasks re-run", lines[1]
    )
    # whatever it has somebody else has too, and what comes goes there
    assert all(set(holders) - {one} for holders in client.who_has([*kept, long]).values())
    assert client.submit(os.getpid, pure=False).result() != client.run(os.getpid)[one]
    assert client.gather([*kept, long]) == [b"a" * 1_000_000, b"b" * 1_000_000, "long"]
    assert [runs(tmp_path, name) for name in ("long", "queued 0", "queued 1", "queued 2")] == [1, 1, 1, 1]
    # a second time there is nothing to do; then it is put back
    status, lines = asked(cluster, "drain", "one")
    assert status == 0
    assert "0 keys moved (0 bytes), 0 tasks waited for, 0 tasks re-run" in lines[1]
    assert asked(cluster, "undo", "one") == (0, ["one: back in service"])
    assert client.submit(os.getpid, workers=["one"], pure=False).result(timeout=20) == client.run(os.getpid)[one]


@pytest.mark.parametrize("outcome", ["undo", pytest.param("reschedule", marks=pytest.mark.thorough)])
def test_tasks_that_do_not_end_in_time(
    cluster: Handing, client: Client, both: None, tmp_path: Path, outcome: str
) -> None:
    kept = client.scatter(b"k" * 1000, workers=["one"], hash=False)
    long = client.submit(noting(), tmp_path, "long", True, workers=["one"], allow_other_workers=True, pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    status, lines = asked(cluster, "drain", "one", timeout=1, outcome=outcome)
    assert not long.done()
    (tmp_path / "gate").touch()
    if outcome == "undo":
        assert (status, lines[1:]) == (1, ["one: back in service", "one: 1 tasks still run after 1 s"])
        assert client.submit(abs, -1, workers=["one"], pure=False).result(timeout=20) == 1
    else:
        assert status == 0
        assert lines[1].endswith("1 tasks waited for, 1 tasks re-run")
        assert lines[2] == f"one: not ended within 1 s: {long.key}"
        assert asked(cluster, "undo", "one") == (0, ["one: back in service"])
    assert client.gather([kept, long]) == [b"k" * 1000, "long"]


def test_what_nobody_could_take_is_refused_by_its_bytes(cluster: Handing, client: Client, both: None) -> None:
    kept = client.scatter(b"k" * 1000, workers=["one"], hash=False)
    status, lines = asked(cluster, "drain", "one", leaving=["one", "two"])
    assert status == 4
    refusal = r"one: 1 keys \(10\d\d bytes\) are nowhere else, 0 tasks are there, and no other worker runs that "
    assert re.fullmatch(refusal + "could take them", "".join(lines))

    def small(limit: int, dask_scheduler: Any) -> int:
        (two,) = (worker for worker in dask_scheduler.workers.values() if worker.name == "two")
        before, two.memory_limit = two.memory_limit, limit
        return int(before)

    limit = client.run_on_scheduler(small, 10_000_000)
    try:
        status, lines = asked(cluster, "drain", "one")
    finally:
        client.run_on_scheduler(small, limit)
    assert status == 4
    assert lines[0].endswith("and the others (two) have room for 0 bytes until 80% of their memory is in use")
    # nothing was changed, and what must be lost is lost
    assert client.submit(abs, -1, workers=["one"], pure=False).result(timeout=20) == 1
    assert asked(cluster, "drain", "one", leaving=["one", "two"], force=True)[0] == 0
    assert asked(cluster, "undo", "one")[0] == 0
    assert client.gather(kept) == b"k" * 1000
    assert asked(cluster, "drain", "three") == (
        0,
        ["three: the scheduler does not know it, so there is nothing to hand over"],
    )


def test_sole_copies_outlive_their_worker_and_a_running_task_runs_once(
    cluster: Handing, client: Client, both: None, tmp_path: Path
) -> None:
    scattered = client.scatter(b"s" * 5_000_000, workers=["one"], hash=False)
    made = client.map(lambda n: bytes([n]) * 1_000_000, range(20), workers=["one"], pure=False)
    client.gather(client.map(len, made))
    long = client.submit(noting(), tmp_path, "long", True, workers=["one"], allow_other_workers=True, pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    queued = [
        client.submit(noting(), tmp_path, f"queued {n}", False, workers=["one"], allow_other_workers=True, pure=False)
        for n in range(3)
    ]
    keys = [scattered.key, *(future.key for future in made)]
    assert cluster.ends("one", gate=tmp_path / "gate") < 20
    assert "all is handed over" in cluster.log("one")
    # nothing was computed again
    assert len(client.gather([*made, scattered])) == len(keys)
    assert client.gather([long, *queued]) == ["long", "queued 0", "queued 1", "queued 2"]
    assert [runs(tmp_path, name) for name in ("long", "queued 0", "queued 1", "queued 2")] == [1, 1, 1, 1]
    assert cluster.log("one").count(SAID) == 1


def test_the_last_worker_gives_up_at_once(cluster: Handing, client: Client) -> None:
    if cluster.processes["one"].poll() is None:
        cluster.ends("one")
    kept = client.scatter(b"k" * 1000, workers=["two"], hash=False)
    assert cluster.ends("two") < 10
    assert "nobody can take the keys: they are lost" in cluster.log("two")
    del kept


@pytest.mark.thorough
def test_what_takes_too_long_does_not_hold_up_the_stop(
    cluster: Handing, client: Client, both: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTNET_STOP_TIMEOUT", "17")
    cluster.ends("two")
    cluster.start_worker("two")
    wait_for(lambda: "hands over within 2 s" in cluster.log("two"), "it is there again")
    client.wait_for_workers(len(WORKERS), timeout=60)
    kept = client.scatter(b"k" * 1000, workers=["two"], hash=False)
    long = client.submit(noting(), tmp_path, "long", True, workers=["two"], allow_other_workers=True, pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    # Dask gives its worker ten seconds
    assert cluster.ends("two") < 15
    assert "not handed over: TimeoutError" in cluster.log("two")
    assert client.gather(kept) == b"k" * 1000
    client.cancel([long])
    (tmp_path / "gate").touch()
    # a scheduler that hangs
    cluster.processes["scheduler"].send_signal(signal.SIGSTOP)
    try:
        assert cluster.ends("one") < 20
    finally:
        cluster.processes["scheduler"].send_signal(signal.SIGCONT)
    assert "not handed over: TimeoutError" in cluster.log("one")


def test_a_scheduler_that_is_dead_costs_no_time(cluster: Handing, client: Client, both: None) -> None:
    cluster.processes["scheduler"].kill()
    cluster.processes["scheduler"].wait()
    assert cluster.ends("one") < 12
    # it leaves by itself
    assert cluster.processes["two"].wait(12) == 0
    assert "TimeoutError" not in cluster.log("one") + cluster.log("two")
