"""scripts/verify_cluster.py against clusters of real processes, started and judged as an operator would."""

import asyncio
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import pytest
from waiting import wait_for

SCRIPT = Path(__file__).parents[1] / "scripts" / "verify_cluster.py"
HELLO = "sum(x**2 for x in range(10000)) = 333283335000"
START_SECONDS = 60
BASIC = ["connect", "workers", "answers", "versions", "hello-world", "pinned", "transfers"]
COLLECTIONS = ["array", "dataframe", "bag", "delayed", "futures", "scikit-learn"]


class Cluster:
    """A scheduler and workers, each a process of its own; all are killed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = ""

    def start(self, name: str, *command: str, **environment: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli." + command[0], *command[1:], "--host", "127.0.0.1"],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=os.environ | environment,
            )

    def start_scheduler(self) -> None:
        file = self.folder / "scheduler.json"
        self.start("scheduler", "dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        deadline = time.monotonic() + START_SECONDS
        while not self.address:
            assert time.monotonic() < deadline, (self.folder / "scheduler.log").read_text()
            if file.exists() and (text := file.read_text()):
                self.address = json.loads(text)["address"]
            time.sleep(0.05)

    def start_worker(self, name: str, memory_limit: str = "1GB", **environment: str) -> None:
        options = ["--name", name, "--nthreads", "1", "--memory-limit", memory_limit, "--no-dashboard", "--no-nanny"]
        self.start(name, "dask_worker", self.address, *options, **environment)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        self.processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.processes[name].send_signal(signal.SIGCONT)

    def client(self) -> distributed.Client:
        return distributed.Client(self.address, timeout=START_SECONDS, set_as_default=False)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(START_SECONDS)


@contextmanager
def cluster_of(folder: Path, *workers: str) -> Iterator[Cluster]:
    made = Cluster(folder)
    try:
        made.start_scheduler()
        for name in workers:
            made.start_worker(name)
        if workers:
            with made.client() as client:
                client.wait_for_workers(len(workers), timeout=START_SECONDS)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Workers `a` and `b`; tests leave them as they found them."""
    with cluster_of(tmp_path_factory.mktemp("cluster"), "a", "b") as made:
        yield made


def verify(*arguments: str, seconds: float = 280) -> subprocess.CompletedProcess[str]:
    """Run the script as it is run by hand; outliving `seconds` is a failure, and so is any traceback."""
    # from a folder that holds nothing: neither here nor on the workers can the script be imported
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd="/",
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


@dataclass(frozen=True)
class Done:
    """What a run inside this process left, in the words of subprocess."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("verify_cluster")


@pytest.fixture
def quick(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the script here, as a module, with a hello-world of 100 tasks: for what 10,000 would only make slow."""
    monkeypatch.setattr(script, "NUMBERS", 100)
    monkeypatch.setattr(script, "TOTAL", 328350)

    def run(*arguments: str) -> Done:
        try:
            status = script.main(arguments)
        except SystemExit as leaving:
            status = leaving.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Done(status, captured.out, captured.err)

    return run


Quick = Callable[..., Done]


def table(done: subprocess.CompletedProcess[str] | Done) -> dict[str, tuple[str, str]]:
    """Return each check's result and detail, in the table's order."""
    rows = [line.split(maxsplit=3) for line in done.stdout.splitlines()[1:]]
    return {row[0]: (row[1], row[3]) for row in rows if len(row) == 4 and re.fullmatch(r"[\d.]+", row[2])}


def test_good_cluster_passes_every_suite_and_keeps_no_key(cluster: Cluster) -> None:
    done = verify(cluster.address, "--workers", "a,b", "--n-workers", "2", "--suite", "collections", "--strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(table(done)) == BASIC + COLLECTIONS
    assert {result for result, _ in table(done).values()} == {"ok"}
    assert done.stdout.splitlines()[-1] == f"{HELLO} · scheduler {cluster.address}"
    with cluster.client() as client:
        assert keys_after(client) == []


def keys_after(client: distributed.Client) -> list[str]:
    """Return the keys that stay on the scheduler: forgetting takes a moment after a client has gone."""
    deadline = time.monotonic() + 10
    while True:
        keys: list[str] = client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])
        if not keys or time.monotonic() > deadline:
            return keys
        time.sleep(0.1)


def test_json_says_what_the_table_says_and_the_address_may_be_configured(cluster: Cluster, quick: Quick) -> None:
    with dask.config.set({"scheduler-address": cluster.address}):
        done = quick("--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["exit_status"], report["error"]) == (0, 0, None)
    assert report["hello_world"]["value"] == 328350
    assert [check["check"] for check in report["checks"]] == BASIC
    assert {check["result"] for check in report["checks"]} == {"ok"}
    assert report["checks"][1]["present"] == ["a", "b"]


def test_missing_strange_and_unwanted_workers_are_named(cluster: Cluster, quick: Quick, tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("c\nd\n")
    short = ("--timeout", "30", "--check-timeout", "4")
    done = quick(cluster.address, "--workers", f"@{names}", "--absent", "d,b", "--n-workers", "3", *short)
    assert done.returncode == 1
    result, detail = table(done)["workers"]
    assert result == "FAILED"
    assert detail.startswith("missing: c; strange: a at tcp://127.0.0.1:")
    assert detail.endswith("; present but expected to be absent: b; 2 present instead of 3")


def test_workers_are_judged_by_the_last_answer_of_a_scheduler_that_gives_no_other(script: Any) -> None:
    class Scheduler:
        answers = 1

        async def identity(self, n_workers: int) -> dict[str, Any]:
            if not self.answers:
                await asyncio.sleep(60)
            self.answers -= 1
            return {"workers": {"tcp://192.0.2.1:1": {"name": "a"}}}

    async def line() -> Any:
        options = script.Options("tcp://192.0.2.1:8786", frozenset("ab"), check_timeout=2)
        run = script.Run(options, time.monotonic() + 60, SimpleNamespace(scheduler=Scheduler()))
        return await script.run_check(run, script.Check("workers", script.check_workers, workers=False))

    assert asyncio.run(line()).detail == "missing: b"


def test_drained_worker_is_expected_to_be_absent(cluster: Cluster, quick: Quick) -> None:
    done = quick(cluster.address, "--workers", "a,b,c", "--absent", "c")
    assert done.returncode == 0
    assert table(done)["workers"] == ("ok", "2 present: a, b; absent as expected: c")


def test_optional_worker_is_judged_neither_present_nor_absent(cluster: Cluster, quick: Quick) -> None:
    done = quick(cluster.address, "--workers", "a", "--optional", "b,c")
    assert done.returncode == 0
    assert table(done)["workers"] == ("ok", "2 present: a, b")
    done = quick(cluster.address, "--optional", "a", "--timeout", "30", "--check-timeout", "4")
    assert table(done)["workers"][1].startswith("strange: b at ")


def test_hanging_worker_is_named_and_the_others_are_still_checked(cluster: Cluster, quick: Quick) -> None:
    with cluster.stopped("b"):
        done = quick(cluster.address, "--timeout", "90", "--check-timeout", "10", "--transfer-bytes", "1kB")
    assert done.returncode == 1
    result, detail = table(done)["answers"]
    assert result == "FAILED"
    assert re.match(r"b at tcp://127\.0\.0\.1:\d+ does not answer", detail)
    assert table(done)["pinned"] == ("ok", "one task on each of 1 worker; without b")
    assert "= 328350" in done.stdout.splitlines()[-1]


def test_worker_held_by_another_client_is_busy_and_an_error_when_strict(
    cluster: Cluster, quick: Quick, tmp_path: Path
) -> None:
    began, stop = tmp_path / "began", tmp_path / "stop"

    def hold(began: Path, stop: Path, seconds: float) -> None:
        began.touch()
        deadline = time.monotonic() + seconds
        while not stop.exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    short = ("--timeout", "120", "--check-timeout", "10", "--transfer-bytes", "1kB")
    with cluster.client() as client:
        held = client.submit(hold, began, stop, 600, workers=["b"], pure=False)
        wait_for(began.exists, "the task has begun", START_SECONDS)
        lenient = quick(cluster.address, *short)
        strict = quick(cluster.address, "--strict", *short)
        stop.touch()
        held.result(timeout=30)
        client.cancel(held)
        assert keys_after(client) == []
    assert table(lenient)["pinned"] == ("busy", "not run on b before the deadline: b executes 1 other task")
    assert table(lenient)["transfers"] == ("busy", "held up by other tasks: a → b, b → a")
    assert (lenient.returncode, strict.returncode) == (0, 1)


def test_other_version_on_one_worker_fails_and_is_listed(quick: Quick, tmp_path: Path) -> None:
    shadow = tmp_path / "shadow" / "toolz-0.0.1.dist-info"
    shadow.mkdir(parents=True)
    (shadow / "METADATA").write_text("Metadata-Version: 2.1\nName: toolz\nVersion: 0.0.1\n")
    with cluster_of(tmp_path, "same") as made:
        made.start_worker("other", PYTHONPATH=str(shadow.parent))
        done = quick(made.address, "--workers", "same,other", "--versions", "--transfer-bytes", "1kB")
    assert done.returncode == 1
    result, detail = table(done)["versions"]
    assert result == "FAILED"
    assert re.fullmatch(r"toolz: \S+ \(client scheduler same\), 0\.0\.1 \(other\)", detail)
    assert f"versions: {detail}" in done.stdout.splitlines()
    assert {name for name in BASIC if table(done)[name][0] != "ok"} == {"versions"}


def test_scheduler_that_is_not_there_or_hangs_is_unreachable(cluster: Cluster) -> None:
    gone = verify("tcp://127.0.0.1:1", "--timeout", "6", seconds=30)
    assert (gone.returncode, gone.stdout) == (3, "")
    assert re.fullmatch(r"verify_cluster: no Dask scheduler answers at tcp://127\.0\.0\.1:1 .*refused\n", gone.stderr)
    with cluster.stopped("scheduler"):
        hung = verify(cluster.address, "--timeout", "6", "--json", seconds=30)
    assert (hung.returncode, json.loads(hung.stdout)["exit_status"]) == (3, 3)
    assert "is silent" in json.loads(hung.stdout)["error"]


def test_cluster_without_workers_fails_and_skips_what_needs_one(quick: Quick, tmp_path: Path) -> None:
    with cluster_of(tmp_path) as made:
        done = quick(made.address, "--check-timeout", "4")
    assert done.returncode == 1
    assert table(done)["workers"] == ("FAILED", "no worker is connected")
    assert table(done)["transfers"] == ("skipped", "no worker to try it on")
    assert "was not computed" in done.stdout.splitlines()[-1]


def test_ctrl_c_ends_with_130(cluster: Cluster) -> None:
    command = [sys.executable, str(SCRIPT), cluster.address, "--workers", "never"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert "connect" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "verify_cluster: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no scheduler"),
        (["host"], "missing port"),
        (["carrier://host:1"], "unknown address scheme"),
        (["tls://127.0.0.1:1"], "TLS"),
        (["h:1", "--timeout", "0"], "'0' is not a number of seconds above 0"),
        (["h:1", "--timeout", "1e10"], "'1e10' is not a number of seconds above 0 and below 9.2e+09"),
        (["h:1", "--n-workers", "none"], "'none' is not a whole number"),
        (["h:1", "--transfer-bytes", "-1"], "'-1' is not a size"),
        (["h:1", "--transfer-bytes", "1e400"], "'1e400' is not a size"),
        (["h:1", "--workers", "@/no/such/file"], "cannot read /no/such/file"),
        (["h:1", "--workers", ","], "--workers names nobody"),
        (["h:1", "--suite", "nonsense"], "invalid choice"),
    ],
)
def test_bad_usage_is_refused_by_name(arguments: list[str], words: str, quick: Quick) -> None:
    done = quick(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_pairs_are_all_directed_pairs_once(script: Any) -> None:
    pairs = script.pairs_of("abcd")
    assert len(pairs) == len(set(pairs)) == 12
    assert all(source != target for source, target in pairs)


def test_altered_bytes_are_a_failed_transfer_named_by_its_pair(
    cluster: Cluster, quick: Quick, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def payload(seed: str, size: int) -> bytes:
        return bytes(size)

    monkeypatch.setattr(script, "payload", payload)
    done = quick(cluster.address)
    assert done.returncode == 1
    result, detail = table(done)["transfers"]
    assert result == "FAILED"
    assert re.match(r"a → b: 1000000 of 1000000 bytes at \S+, altered; b → a: ", detail)


def test_wrong_sum_fails_and_is_not_shown_as_the_result(
    cluster: Cluster, quick: Quick, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TOTAL", 1)
    done = quick(cluster.address)
    assert done.returncode == 1
    assert table(done)["hello-world"] == ("FAILED", "the cluster computed 328350, which is wrong")
    assert "was not computed" in done.stdout.splitlines()[-1]


def test_memory_suite_holds_more_than_fits_on_the_smallest_worker(quick: Quick, tmp_path: Path) -> None:
    with cluster_of(tmp_path, "large") as other:
        # of less, Python and its libraries alone take so much that the worker pauses
        other.start_worker("small", memory_limit="512MiB")
        with other.client() as client:
            client.wait_for_workers(2, timeout=START_SECONDS)
        done = quick(other.address, "--suite", "memory", "--transfer-bytes", "1kB")
    result, detail = table(done)["spill"]
    assert (done.returncode, result) == (0, "ok")
    match = re.fullmatch(r"671088640 bytes on small, whose limit is 536870912: (\d+) spilled to disk", detail)
    assert match
    assert int(match[1]) > 0


def test_above_sixteen_workers_each_transfers_with_eight_others(script: Any) -> None:
    workers = [script.Worker(f"w{number}", f"tcp://192.0.2.{number}:1") for number in range(40)]
    assert len(script.pairs_of(workers[:16])) == 16 * 15
    pairs = script.pairs_of(workers)
    assert len(set(pairs)) == len(pairs) == 40 * 8
    for worker in workers:
        assert sum(source == worker for source, _ in pairs) == sum(target == worker for _, target in pairs) == 8
    assert all(source != target for source, target in pairs)
    assert len(set(script.pairs_of(workers[:17]))) == 17 * 8
