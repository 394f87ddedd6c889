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
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.active_memory_manager import RetireWorker
from distributed.core import Status
from test_hostnet_tls import WORKERS, Authority, Cluster
from waiting import wait_for

DRAIN = Path(__file__).parents[1] / "roles/dask_worker/files/drain.py"
# seconds that a worker has for it here: what gives up at once, or is done, needs less
BUDGET = 45
SAID = "distributed.hostnet_handover - INFO - Handover of"


def ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal."""
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


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

    def ends(self, name: str, deadline: float = 90, gate: Path | None = None) -> float:
        """Stop a worker as Docker does; return the seconds until it is gone. A while later the gate opens."""
        begun = time.monotonic()
        self.processes[name].send_signal(signal.SIGTERM)
        if gate:
            # who is impatient does not cut it short
            wait_for(lambda: ignores(self.processes[name].pid, signal.SIGTERM), "the handover is begun")
            for impatient in (signal.SIGTERM, signal.SIGINT):
                self.processes[name].send_signal(impatient)
                time.sleep(0.5)
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
def both(cluster: Handing, client: Client, tmp_path: Path) -> Iterator[None]:
    """Both workers, started again where a test before stopped them; at the end no task waits for its gate any more."""
    for name in WORKERS:
        if cluster.processes[name].poll() is not None:
            cluster.start_worker(name)
    wait_for(lambda: len(client.scheduler_info()["workers"]) == len(WORKERS), "both are there", 60)
    # of a test that failed
    client.run(lambda dask_worker: setattr(dask_worker, "status", Status.running))
    yield
    (tmp_path / "gate").touch()


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


def asked(cluster: Handing, step: str, *workers: str, answer: float = 20.0, **wish: Any) -> tuple[int, list[str]]:
    """Run the drain's script as the role does, with seconds for each answer; return its status and lines."""
    given = {"scheduler": cluster.address, "workers": workers, "leaving": workers, "step": step, "force": False}
    given |= {"timeout": 60, "outcome": "wait"} | wish
    script = DRAIN.read_text(encoding="utf-8")
    assert "ANSWER_SECONDS = 20.0" in script
    done = subprocess.run(
        [sys.executable, "-", json.dumps(given)],
        env={**os.environ, "DASK_CONFIG": str(cluster.folder / "config"), "TMPDIR": str(cluster.folder)},
        input=script.replace("ANSWER_SECONDS = 20.0", f"ANSWER_SECONDS = {answer}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def names(client: Client) -> set[str]:
    return {str(worker["name"]) for worker in client.scheduler_info(n_workers=-1)["workers"].values()}


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
        wait_for(lambda: "function 'at_work'" in cluster.log("one"), "it waits for what runs", 60)
        # what was queued does not
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


def test_what_is_forced_is_lost_at_once_and_said(cluster: Handing, client: Client, both: None, tmp_path: Path) -> None:
    class Counter:
        def value(self) -> int:
            return 1

    actor = client.submit(Counter, actor=True, workers=["one"], pure=False)
    actor.result()
    long = client.submit(noting(), tmp_path, "long", True, workers=["one"], pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    assert asked(cluster, "drain", "one") == (4, ["one: 1 actors are there, which cannot be moved"])
    # the task goes on
    status, lines = asked(cluster, "drain", "one", force=True)
    assert status == 0
    assert re.fullmatch(
        r"one: not waited for, and lost but for what the stop still hands over: 1 keys .*, 1 tasks, 1 actors", lines[-1]
    )
    del actor
    (tmp_path / "gate").touch()
    assert long.result(timeout=20) == "long"


def test_tasks_that_may_run_nowhere_else_are_named(
    cluster: Handing, client: Client, both: None, tmp_path: Path
) -> None:
    long = client.submit(noting(), tmp_path, "long", True, workers=["one"], pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    tied = client.submit(noting(), tmp_path, "tied", False, workers=["one"], pure=False, key="tied")
    status, lines = asked(cluster, "drain", "one")
    assert status == 4
    assert re.match(r"one: \d tasks may run on no other worker \(workers=, resources=\): .*tied", lines[0])
    (tmp_path / "gate").touch()
    assert client.gather([long, tied]) == ["long", "tied"]


@pytest.mark.thorough
def test_a_task_that_keeps_the_interpreter_is_waited_for(
    cluster: Handing, client: Client, both: None, tmp_path: Path
) -> None:
    def keep(folder: Path, seconds: int) -> str:
        import ctypes  # noqa: PLC0415 # runs in the worker

        (folder / "kept").touch()
        # holds the interpreter's lock, as compiled code may
        ctypes.PyDLL(None).sleep(seconds)
        return "kept"

    kept = client.submit(keep, tmp_path, 10, workers=["one"], allow_other_workers=True, pure=False)
    wait_for((tmp_path / "kept").exists, "the task runs")
    # no answer is none yet; the undo arrives when the worker listens again
    status, lines = asked(cluster, "drain", "one", answer=1.5, timeout=3, outcome="undo")
    assert (status, lines[1]) == (1, "one: back in service")
    assert re.fullmatch(r"one: .*, one does not answer, after 3 s", lines[2])
    assert kept.result(timeout=20) == "kept"


def test_a_later_step_takes_over(cluster: Handing, client: Client, both: None, tmp_path: Path) -> None:
    long = client.submit(noting(), tmp_path, "long", True, workers=["one"], allow_other_workers=True, pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    one = address_of(client, "one")

    def forgotten(address: str, dask_scheduler: Any) -> None:
        # one that was begun and does not end, as memory's manager rests
        amm = dask_scheduler.extensions["amm"]
        amm.stop()
        amm.add_policy(RetireWorker(address))

    def policies(dask_scheduler: Any) -> list[str]:
        amm = dask_scheduler.extensions["amm"]
        amm.start()
        return [each.address for each in amm.policies if isinstance(each, RetireWorker)]

    with ThreadPoolExecutor(1) as pool:
        drain = pool.submit(asked, cluster, "drain", "one")
        wait_for(lambda: client.scheduler_info(n_workers=-1)["workers"][one]["status"] != "running", "it is begun")
        # one of another worker is none of its business
        assert asked(cluster, "undo", "two") == (0, [])
        client.run_on_scheduler(forgotten, one)
        assert asked(cluster, "undo", "one") == (0, ["one: back in service"])
        assert client.run_on_scheduler(policies) == []
        status, lines = drain.result()
    (tmp_path / "gate").touch()
    assert status == 5
    assert lines[-1] == "one: another drain or undrain of one was begun after this one, and goes on"
    assert client.submit(abs, -1, workers=["one"], pure=False).result(timeout=20) == 1
    assert long.result(timeout=20) == "long"


@pytest.mark.thorough
def test_one_that_dies_meanwhile_is_drained_when_it_is_back_and_said(
    cluster: Handing, client: Client, both: None, tmp_path: Path
) -> None:
    kept = client.scatter(b"k" * 1000, workers=["one"], hash=False)
    long = client.submit(noting(), tmp_path, "long", True, workers=["one"], allow_other_workers=True, pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    with ThreadPoolExecutor(1) as pool:
        drain = pool.submit(asked, cluster, "drain", "one")
        asks = cluster.log("one").count("function 'at_work'")
        wait_for(lambda: cluster.log("one").count("function 'at_work'") > asks, "it waits for what runs", 60)
        os.kill(client.run(os.getpid)[address_of(client, "one")], signal.SIGKILL)
        wait_for(lambda: runs(tmp_path, "long") == 2, "the task runs again")
        wait_for(lambda: "one" in names(client), "its worker is there again")
        time.sleep(6)
        (tmp_path / "gate").touch()
        status, lines = drain.result()
    assert status == 0, lines
    assert lines[1].endswith("1 tasks waited for, 1 tasks re-run")
    assert lines[2] == "one: left by itself meanwhile, 0 scattered keys are lost"
    assert client.scheduler_info(n_workers=-1)["workers"][address_of(client, "one")]["status"] == "closing_gracefully"
    assert client.gather([kept, long]) == [b"k" * 1000, "long"]
    assert asked(cluster, "undo", "one") == (0, ["one: back in service"])


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
    assert cluster.ends("one", gate=tmp_path / "gate") < BUDGET
    assert "all is handed over" in cluster.log("one")
    # nothing was computed again
    assert len(client.gather([*made, scattered])) == len(keys)
    assert client.gather([long, *queued]) == ["long", "queued 0", "queued 1", "queued 2"]
    assert [runs(tmp_path, name) for name in ("long", "queued 0", "queued 1", "queued 2")] == [1, 1, 1, 1]
    assert cluster.log("one").count(SAID) == 1


def test_actors_are_lost_and_the_rest_is_not(cluster: Handing, client: Client, both: None, tmp_path: Path) -> None:
    class Counter:
        def value(self) -> int:
            return 1

    actor = client.submit(Counter, actor=True, workers=["one"], pure=False)
    actor.result()
    scattered = client.scatter(b"s" * 1000, workers=["one"], hash=False)
    long = client.submit(noting(), tmp_path, "long", True, workers=["one"], allow_other_workers=True, pure=False)
    wait_for(lambda: runs(tmp_path, "long") == 1, "the task runs")
    two = address_of(client, "two")

    def pause(dask_worker: Any) -> None:
        # nor does its memory's monitor let it go on
        dask_worker.memory_manager.memory_pause_fraction = False
        dask_worker.status = Status.paused

    client.run(pause, workers=[two])
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(cluster.ends, "one", 40, tmp_path / "gate")
        # another that takes nothing now may later
        time.sleep(4)
        client.run(lambda dask_worker: setattr(dask_worker, "status", Status.running), workers=[two])
        end.result()
    assert "all is handed over, but for 1 actors, which are lost" in cluster.log("one")
    assert client.gather([scattered, long]) == [b"s" * 1000, "long"]
    assert runs(tmp_path, "long") == 1
    del actor


def test_the_last_worker_gives_up_at_once(cluster: Handing, client: Client) -> None:
    if cluster.processes["one"].poll() is None:
        cluster.ends("one")
    kept = client.scatter(b"k" * 1000, workers=["two"], hash=False)
    assert cluster.ends("two") < BUDGET
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
    assert cluster.ends("two") < BUDGET
    assert "what it still runs is run again elsewhere, the rest is handed over" in cluster.log("two")
    assert client.gather(kept) == b"k" * 1000

    def suspicious(key: str, dask_scheduler: Any) -> int:
        return int(dask_scheduler.tasks[key].suspicious)

    assert client.run_on_scheduler(suspicious, long.key) == 0
    (tmp_path / "gate").touch()
    assert long.result(timeout=20) == "long"
    # a scheduler that hangs
    cluster.processes["scheduler"].send_signal(signal.SIGSTOP)
    try:
        assert cluster.ends("one") < BUDGET
    finally:
        cluster.processes["scheduler"].send_signal(signal.SIGCONT)
    assert "not handed over: TimeoutError" in cluster.log("one")


def test_a_scheduler_that_is_dead_costs_no_time(cluster: Handing, client: Client, both: None) -> None:
    # a worker that has yet to notice: one that has leaves by itself, and there is nothing to hand over
    children = psutil.Process(cluster.processes["one"].pid).children(recursive=True)
    # not multiprocessing's own tracker, which the nanny may wait for
    unaware = [process for process in children if "spawn_main" in " ".join(process.cmdline())]
    assert unaware
    for process in unaware:
        process.suspend()
    cluster.processes["scheduler"].kill()
    cluster.processes["scheduler"].wait()
    try:
        cluster.ends("one")
    finally:
        for process in unaware:
            with suppress(psutil.NoSuchProcess):
                process.resume()
    # one that hangs would have said TimeoutError
    assert "not handed over: ConnectionRefusedError" in cluster.log("one")
    assert cluster.processes["two"].wait(60) == 0
