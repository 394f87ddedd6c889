#!/usr/bin/env python3
"""Verify a Dask cluster from outside, as its users meet it: connect, compute, transfer, compare.

Needs dask and distributed and nothing else; runs on a laptop or inside the cluster's own image, against any scheduler.
Each check has a deadline and gives one line; the last line is the hello-world of Dask and the scheduler's address::

    verify_cluster.py tls://192.0.2.11:8786 --workers worker1-0,worker2-0

Certificates, and the scheduler's address where none is given, come from Dask's own configuration (DASK_CONFIG).
The functions `connect`, `hello_graph` and `await_value` are the three steps of every Dask program.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib
import json
import logging
import math
import os
import secrets
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

try:
    import dask
    import distributed
    from dask.delayed import delayed
    from dask.utils import parse_bytes
    from distributed.comm.addressing import get_address_host_port, normalize_address
    from distributed.versions import get_versions
except ImportError as error:
    print(f"verify_cluster: {error}; install the cluster's versions of dask and distributed", file=sys.stderr)
    raise SystemExit(2) from None

DONE, FAILED_RUN, BAD_USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
OK, BUSY, FAILED, SKIPPED = "ok", "busy", "FAILED", "skipped"

NUMBERS = 10_000
EXPRESSION = f"sum(x**2 for x in range({NUMBERS}))"
TOTAL = 333_283_335_000

CONNECT_SECONDS = 10.0  # a scheduler that is there answers in far less
ANSWER_SECONDS = 15.0  # a worker's event loop is held up for longer only by what is worth a line
DIAGNOSE_SECONDS = 10.0  # to ask, after a missed deadline, what the workers are doing
CLOSE_SECONDS = 5.0
POLL_SECONDS = 0.2
WATCHDOG_SECONDS = 30.0  # beyond the budget: the event loop itself is stuck
ALL_PAIRS, PARTNERS = 16, 8  # up to so many workers all pairs transfer; above, each with so many others
MEMORY_EXCESS = 1.25  # the memory suite's array, as a multiple of the smallest worker's limit
MEMORY_BLOCKS = 32  # of that array; a worker's limit must hold several
IN_FLIGHT_BYTES = 64_000_000  # at most this much of the transfers waits on one worker
TOP_PRIORITY = 2**52  # plus a random part: on a worker, a task's priority tells whose it is

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


# What runs on the cluster: no worker has this file, so the functions themselves are sent.


def sent(function: F) -> F:
    """Mark a function to be pickled by value, as those of __main__ are, also when this file is imported as a module.

    cloudpickle's own register_pickle_by_value does not reach a function inside a task graph.
    """
    function.__module__ = "__main__"
    return function


@sent
def square(x: int) -> int:
    """Return x²: the hello-world's task."""
    return x**2


@sent
def whereabouts() -> str:
    """Return the address of the worker that runs this task."""
    return str(distributed.get_worker().address)


@sent
def payload(seed: str, size: int) -> bytes:
    """Return `size` bytes that do not compress and that everybody can derive from `seed`."""
    return hashlib.shake_256(seed.encode()).digest(size)


@sent
def received(data: bytes, seed: str, size: int) -> tuple[str, int, bool]:
    """Return where the data was read, its length in bytes, and whether each byte is as sent."""
    sent = hashlib.shake_256(seed.encode()).digest(size)
    return str(distributed.get_worker().address), len(data), data == sent


@sent
def foreign_tasks(priority: int, dask_worker: Any) -> tuple[int, str]:
    """Return how many tasks without our priority this worker executes, and the worker's status."""
    state = dask_worker.state
    running = [task for task in (*state.executing, *state.long_running) if task.priority[0] != -priority]
    return len(running), dask_worker.status.name


@sent
def foreign_processing(priority: int, address: str, dask_scheduler: Any) -> int:
    """Return how many tasks without our priority the scheduler has given to the worker."""
    worker = dask_scheduler.workers.get(address)
    return sum(task.priority[0] != -priority for task in worker.processing) if worker else 0


@sent
def process_state(dask_worker: Any) -> str:
    """Return the state of the worker's process as its nanny sees it, such as running, sleeping or stopped."""
    return str(importlib.import_module("psutil").Process(dask_worker.pid).status())


# The vocabulary of a run.


class CheckError(Exception):
    """A check failed; the text is the detail of its line."""

    result = FAILED

    def __init__(self, detail: str, data: Mapping[str, Any] | None = None) -> None:
        """Keep the detail for people and the data for machines."""
        super().__init__(detail)
        self.data = dict(data or {})


class BusyError(CheckError):
    """A deadline was missed while workers executed the tasks of others."""

    result = BUSY


class SkipError(CheckError):
    """A check cannot be made here; the text says why."""

    result = SKIPPED


class UnreachableError(Exception):
    """No scheduler answers at the address."""


class UsageError(Exception):
    """The options cannot be meant; the text says which and why."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for; times in seconds."""

    address: str
    workers: frozenset[str] | None = None
    absent: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    n_workers: int | None = None
    timeout: float = 180.0
    check_timeout: float = 60.0
    suites: tuple[str, ...] = ("basic",)
    transfer_bytes: int = 1_000_000
    versions: bool = False
    strict: bool = False
    json: bool = False
    debug: bool = False


@dataclass(frozen=True, order=True)
class Worker:
    """A worker as the scheduler lists it."""

    name: str
    address: str


@dataclass
class Line:
    """One check's result: what the table and the JSON show."""

    check: str
    result: str
    seconds: float
    detail: str
    data: dict[str, Any] = field(default_factory=dict)


class _Missed:
    """In place of a result that did not come before the deadline."""


MISSED = _Missed()


@dataclass
class Run:
    """One verification: its options, its client, and what the checks learned so far."""

    options: Options
    ends: float
    client: Any = None
    scheduler_address: str = ""
    scheduler_id: str = ""
    deadline: float = 0.0
    workers: list[Worker] = field(default_factory=list)  # those that answer; all, before that is known
    left_out: list[str] = field(default_factory=list)  # names of those that do not answer
    replies: dict[str, dict[str, Any]] = field(default_factory=dict)
    differences: dict[str, dict[str, str]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    total: int | None = None
    token: str = field(default_factory=lambda: secrets.token_hex(6))
    priority: int = field(default_factory=lambda: TOP_PRIORITY + secrets.randbits(32))

    def left(self) -> float:
        """Return the seconds until the deadline of the check that runs."""
        return max(0.0, self.deadline - time.monotonic())

    async def until_deadline(self, work: Mapping[K, Awaitable[Any]]) -> dict[K, Any]:
        """Await all of `work` together; each outcome is a result, an exception, or MISSED."""
        tasks = {key: asyncio.ensure_future(awaitable) for key, awaitable in work.items()}
        if tasks:
            try:
                await asyncio.wait(tasks.values(), timeout=self.left())
            finally:
                outcomes = {key: _outcome(task) for key, task in tasks.items()}
                late = [task for task in tasks.values() if not task.done()]
                for task in late:
                    task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
            return outcomes
        return {}

    async def await_one(self, awaitable: Awaitable[T]) -> T:
        """Await one thing until the check's deadline.

        Raises TimeoutError at the deadline, and whatever the awaitable raises.
        """
        outcome = (await self.until_deadline({None: awaitable}))[None]
        if outcome is MISSED:
            raise TimeoutError
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome  # type: ignore[no-any-return]  # an outcome is the result, an exception or MISSED

    async def ask(self, worker: Worker, op: str) -> Any:
        """Send one of Dask's own messages, which needs no pickled function, to one worker through the scheduler."""
        reply = await self.client.scheduler.broadcast(msg={"op": op}, workers=[worker.address])
        if worker.address not in reply:
            raise CheckError("no longer known to the scheduler")
        return reply[worker.address]


def _outcome(task: asyncio.Future[Any]) -> Any:
    if not task.done():
        return MISSED
    if task.cancelled():
        return CheckError("cancelled")
    return task.exception() or task.result()


class Tasks:
    """The tasks of one check: named for this run alone, of the highest priority, taken back at the end."""

    def __init__(self, run: Run) -> None:
        """Begin with no task."""
        self.run = run
        self.futures: list[Any] = []

    async def __aenter__(self) -> Self:
        """Return the submitter."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take back what is done, and cancel what is not, so that no key stays on the cluster."""
        unfinished = [future for future in self.futures if not future.done()]
        if unfinished:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await self.run.client.cancel(unfinished, force=True)
        for future in self.futures:
            future.release()
        self.futures.clear()

    def placed(self, where: Iterable[Worker]) -> dict[str, Any]:
        """Return the options that hold a task to these workers and ahead of everybody's."""
        addresses = [worker.address for worker in where]
        return {"workers": addresses, "allow_other_workers": False, "priority": self.run.priority}

    def submit(self, function: Callable[..., Any], *args: Any, on: Iterable[Worker]) -> Any:
        """Submit one task to one of the workers `on`; return its future."""
        key = f"verify-{function.__name__}-{self.run.token}-{secrets.token_hex(6)}"
        future = self.run.client.submit(function, *args, key=key, pure=False, **self.placed(on))
        self.futures.append(future)
        return future

    def map(self, function: Callable[..., Any], values: Iterable[Any], *, on: Iterable[Worker]) -> list[Any]:
        """Submit a task a value to the workers `on`; return the futures in the order of the values."""
        stem = f"verify-{function.__name__}-{self.run.token}-{secrets.token_hex(6)}"
        items = list(values)
        keys = [f"{stem}-{index}" for index in range(len(items))]
        futures = self.run.client.map(function, items, key=keys, pure=False, **self.placed(on))
        self.futures.extend(futures)
        return list(futures)

    def compute(self, collection: Any, *, on: Iterable[Worker]) -> Any:
        """Submit a Dask collection to the workers `on`; return the future of its value."""
        future = self.run.client.compute(collection, **self.placed(on))
        self.futures.append(future)
        return future


# The three steps of every Dask program. Everything else here is deadlines and diagnosis.


async def connect(address: str, seconds: float) -> Any:
    """First step: return a client of the scheduler at `address`.

    Raises UnreachableError with the cause when nobody answers within `seconds`.
    """
    client = None
    client_class: Any = distributed.Client
    try:
        async with asyncio.timeout(seconds):
            client = client_class(
                address, asynchronous=True, timeout=seconds * 0.9, set_as_default=False, name="verify"
            )
            return await client
    except (TimeoutError, OSError, ImportError, asyncio.CancelledError) as error:
        await close(client)
        if isinstance(error, asyncio.CancelledError):
            raise
        cause = await _cause(address, error)
        raise UnreachableError(f"no Dask scheduler answers at {address} within {seconds:.3g} s: {cause}") from error
    except (ValueError, TypeError, RuntimeError) as error:  # an address or certificates that Dask cannot use
        await close(client)
        raise UsageError(f"cannot connect to {address}: {_one_line(error)}") from error


async def _cause(address: str, error: BaseException) -> str:
    """Return why nobody answers: what a bare connection meets or, where there is one, what Dask met."""
    host, port = get_address_host_port(address)
    try:
        async with asyncio.timeout(2):
            await _in_thread(lambda: socket.create_connection((host, port), timeout=2).close())
    except OSError as refusal:  # TimeoutError included
        return _one_line(refusal)
    current, deepest = error.__cause__ or error.__context__, ""
    while current is not None:
        if str(current) and not isinstance(current, (TimeoutError, asyncio.CancelledError)):
            deepest = _one_line(current)
        current = current.__cause__ or current.__context__
    return deepest or "it accepts connections, then is silent; it hangs, or is no Dask scheduler"


def hello_graph(tasks: Tasks, workers: Sequence[Worker]) -> tuple[list[Any], Any]:
    """Second step: build the graph, 10,000 tasks and their sum; return the futures of the squares and of the sum.

    One square is held to each worker, so that the sum proves them all; the rest goes where the scheduler likes.
    """
    squares = [
        tasks.submit(square, number, on=[worker]) for number, worker in zip(range(NUMBERS), workers, strict=False)
    ]
    squares += tasks.map(square, range(len(squares), NUMBERS), on=workers)
    return squares, tasks.submit(sum, squares, on=workers)


async def await_value(run: Run, future: Any) -> Any:
    """Third step: the graph was submitted; return its value before the deadline (TimeoutError after it)."""
    return await run.await_one(future.result())


async def close(client: Any) -> None:
    """Close the client, or leave it be when the scheduler does not let it go in time."""
    if client is not None:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.close()


# After a missed deadline: who holds it up?


@dataclass(frozen=True)
class Diagnosis:
    """What a worker was found doing: busy with others' tasks or not, answering or not, and the words for it."""

    busy: bool
    answers: bool
    words: str


async def diagnose(run: Run, workers: Iterable[Worker]) -> dict[Worker, Diagnosis]:
    """Ask each worker what it executes; for one that is silent, ask its nanny and the scheduler."""
    chosen = list(workers)
    found = await asyncio.gather(*(_diagnose_one(run, worker) for worker in chosen))
    return dict(zip(chosen, found, strict=True))


async def _diagnose_one(run: Run, worker: Worker) -> Diagnosis:
    client, place = run.client, [worker.address]
    try:
        async with asyncio.timeout(DIAGNOSE_SECONDS / 2):
            count, status = (await client.run(foreign_tasks, run.priority, workers=place))[worker.address]
    except Exception:  # whatever it is, the worker did not answer
        return await _diagnose_silent(run, worker)
    if count:
        return Diagnosis(True, True, f"executes {_count(count, 'other task')}")
    return Diagnosis(False, True, "answers, and executes nothing else" if status == "running" else f"is {status}")


async def _diagnose_silent(run: Run, worker: Worker) -> Diagnosis:
    client, state, foreign = run.client, "", 0
    with contextlib.suppress(Exception):
        async with asyncio.timeout(DIAGNOSE_SECONDS / 4):
            foreign = await client.run_on_scheduler(foreign_processing, run.priority, worker.address)
    with contextlib.suppress(Exception):
        async with asyncio.timeout(DIAGNOSE_SECONDS / 4):
            state = next(iter((await client.run(process_state, workers=[worker.address], nanny=True)).values()))
    if state == "running" and foreign:
        # computing in code that keeps Python's lock looks like this: nothing is heard of the worker until it is done
        return Diagnosis(True, False, f"is silent, its process computes, and it has {_count(foreign, 'other task')}")
    return Diagnosis(False, False, f"does not answer{f', its process is {state}' if state else ''}")


async def missed(run: Run, workers: Iterable[Worker], what: str) -> CheckError:
    """Return the error of a missed deadline, busy or failed by what the workers do, with those that matter named."""
    found = await diagnose(run, workers)
    notable = {worker: seen for worker, seen in found.items() if seen.busy or not seen.answers}
    words = "; ".join(f"{worker.name} {seen.words}" for worker, seen in sorted((notable or found).items()))
    silent = any(not seen.busy for seen in notable.values())
    busy = any(seen.busy for seen in found.values()) and not silent
    return (BusyError if busy else CheckError)(f"{what} before the deadline: {words}")


# The checks. Each returns the detail of its line, or that and data for --json, or raises CheckError.

Detail = str | tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Check:
    """A named check; `seconds` caps its deadline below --check-timeout; `workers` says that it needs some."""

    name: str
    function: Callable[[Run], Awaitable[Detail]]
    seconds: float = math.inf
    workers: bool = True


async def check_connect(run: Run) -> Detail:
    """Connect a client and ask the scheduler who it is."""
    run.client = await connect(run.options.address, run.left())
    identity = await run.await_one(run.client.scheduler.identity(n_workers=0))
    run.scheduler_address, run.scheduler_id = str(identity["address"]), str(identity["id"])
    return f"scheduler {run.options.address}"


async def check_workers(run: Run) -> Detail:
    """Compare the workers present, by name and number, with those expected to be present or absent."""
    options = run.options
    expected = options.workers
    if expected is None and (options.optional or options.absent):
        expected = frozenset()
    expected = None if expected is None else expected - options.absent
    wanted = max(
        options.n_workers or 0, len(expected or ()), 1 if expected is None and options.n_workers is None else 0
    )
    names: set[str] | None = None
    while True:
        try:
            identity = await run.await_one(run.client.scheduler.identity(n_workers=-1))
        except TimeoutError:
            if names is None:
                raise
            # judged by its last answer
            break
        run.workers = sorted(Worker(str(info["name"]), address) for address, info in identity["workers"].items())
        names = {worker.name for worker in run.workers}
        missing = (expected or frozenset()) - names
        if (not missing and len(names) >= wanted) or run.left() <= 2 * POLL_SECONDS:
            break
        await asyncio.sleep(POLL_SECONDS)
    strange = set() if expected is None else names - expected - options.absent - options.optional
    unwanted = names & options.absent
    faults = []
    if missing:
        faults.append(f"missing: {_names(missing)}")
    if strange:
        faults.append(f"strange: {', '.join(f'{w.name} at {w.address}' for w in run.workers if w.name in strange)}")
    if unwanted:
        faults.append(f"present but expected to be absent: {_names(unwanted)}")
    if options.n_workers is not None and len(names) != options.n_workers:
        faults.append(f"{len(names)} present instead of {options.n_workers}")
    elif len(names) < wanted and not missing:
        faults.append("no worker is connected")
    data = {
        "present": sorted(names),
        "missing": sorted(missing),
        "strange": sorted(strange),
        "unwanted": sorted(unwanted),
    }
    if faults:
        raise CheckError("; ".join(faults), data)
    note = f"; absent as expected: {_names(options.absent)}" if options.absent else ""
    return f"{len(names)} present: {_names(names)}{note}", data


async def check_answers(run: Run) -> Detail:
    """Ask each worker's event loop; one that is silent is named, and left out of the checks that follow."""
    asked = run.workers
    outcomes = await run.until_deadline({worker: run.ask(worker, "versions") for worker in asked})
    silent = [worker for worker, outcome in outcomes.items() if outcome is MISSED]
    broken = {worker: outcome for worker, outcome in outcomes.items() if isinstance(outcome, BaseException)}
    run.workers = [worker for worker in asked if worker not in silent and worker not in broken]
    run.replies = {worker.name: outcomes[worker] for worker in run.workers}
    seen = await diagnose(run, silent)
    # one that answers by now was only slow: it takes part, unasked for its versions
    run.workers = sorted([*run.workers, *(worker for worker in silent if seen[worker].answers)])
    run.left_out = sorted({worker.name for worker in asked} - {worker.name for worker in run.workers})
    faults = [f"{worker.name} at {worker.address} {seen[worker].words}" for worker in silent]
    faults += [f"{worker.name} at {worker.address}: {_one_line(fault)}" for worker, fault in broken.items()]
    data = {"silent": sorted(worker.name for worker in [*silent, *broken])}
    if broken or any(not found.busy for found in seen.values()):
        raise CheckError("; ".join(faults), data)
    if silent:
        raise BusyError("; ".join(faults), data)
    return f"each of {_count(len(asked), 'worker')} answers", data


async def check_versions(run: Run) -> Detail:
    """Compare the Python release and the packages of client, scheduler and workers."""
    replies = {
        "client": get_versions(),
        "scheduler": await run.await_one(run.client.scheduler.versions()),
        **run.replies,
    }
    table = {who: {**reply["packages"], "python": _python(reply)} for who, reply in replies.items()}
    packages = sorted({package for versions in table.values() for package in versions})
    everything = {p: {who: str(versions.get(p) or "missing") for who, versions in table.items()} for p in packages}
    run.differences = {package: by for package, by in everything.items() if len(set(by.values())) > 1}
    releases = {version.rsplit(".", 1)[0] for version in everything["python"].values()}
    # Patch releases of Python share one bytecode and pickle: a laptop's differs from the image's as a rule.
    serious = [package for package in run.differences if package != "python" or len(releases) > 1 or run.options.strict]
    data = {"differences": run.differences, "versions": table}
    if serious:
        words = "; ".join(f"{package}: {_who_has_what(run.differences[package])}" for package in serious)
        raise CheckError(words, data)
    note = ""
    if "python" in run.differences:
        note = f"; patch releases of Python differ: {_who_has_what(run.differences['python'])}"
    here = table["client"]
    return f"dask {here['dask']}, distributed {here['distributed']}, Python {here['python']} everywhere{note}", data


async def check_hello(run: Run) -> Detail:
    """Map 10,000 tasks over every worker and sum them on the cluster."""
    async with Tasks(run) as tasks:
        squares, total = hello_graph(tasks, run.workers)
        try:
            value = await await_value(run, total)
            if value != TOTAL:
                raise CheckError(f"the cluster computed {value}, which is wrong")
        except TimeoutError:
            done = sum(future.status == "finished" for future in squares)
            raise await missed(run, run.workers, f"{done} of {NUMBERS} tasks and no sum") from None
    run.total = value
    return f"{NUMBERS} tasks and their sum on {_count(len(run.workers), 'worker')}"


async def check_pinned(run: Run) -> Detail:
    """Pin a task to each worker and see where it runs."""
    async with Tasks(run) as tasks:
        work = {worker: tasks.submit(whereabouts, on=[worker]).result() for worker in run.workers}
        outcomes = await run.until_deadline(work)
    late = [worker for worker, outcome in outcomes.items() if outcome is MISSED]
    wrong = [
        f"{worker.name}: {_one_line(outcome) if isinstance(outcome, BaseException) else f'ran at {outcome}'}"
        for worker, outcome in outcomes.items()
        if outcome is not MISSED and outcome != worker.address
    ]
    error = await missed(run, late, f"not run on {_names(worker.name for worker in late)}") if late else None
    if wrong:
        raise CheckError("; ".join([*wrong, *([str(error)] if error else [])]))
    if error:
        raise error
    return f"one task on each of {_count(len(run.workers), 'worker')}"


def pairs_of(workers: Sequence[Worker]) -> list[tuple[Worker, Worker]]:
    """Return the directed pairs to try, so ordered that the load is spread: first each to its neighbour, and so on.

    Above ALL_PAIRS workers each sends to PARTNERS others, near and far ones: all pairs would grow with the square.
    """
    count = len(workers)
    steps: Iterable[int] = range(1, count)
    if count > ALL_PAIRS:
        steps = [1 + part * (count - 2) // (PARTNERS - 1) for part in range(PARTNERS)]
    return [(workers[i], workers[(i + step) % count]) for step in steps for i in range(count)]


async def check_transfers(run: Run) -> Detail:
    """Let each worker read an object that lies on each other worker, byte for byte."""
    size = run.options.transfer_bytes
    pairs = pairs_of(run.workers)
    if not pairs:
        return "one worker: nobody to transfer to"
    gates = {worker: asyncio.Semaphore(max(1, IN_FLIGHT_BYTES // size)) for worker in run.workers}
    begun: set[tuple[Worker, Worker]] = set()
    async with Tasks(run) as tasks:

        async def transfer(source: Worker, target: Worker) -> None:
            # an object of its own for each pair: of a shared one, the third reader may fetch the second's copy
            async with gates[source]:
                begun.add((source, target))
                seed = f"{run.token} {source.address} {target.address}"
                data = tasks.submit(payload, seed, size, on=[source])
                where, length, intact = await tasks.submit(received, data, seed, size, on=[target]).result()
                data.release()
            if (where, length, intact) != (target.address, size, True):
                raise CheckError(f"{length} of {size} bytes at {where}, {'intact' if intact else 'altered'}")

        outcomes = await run.until_deadline({pair: transfer(*pair) for pair in pairs})
    late = [pair for pair, outcome in outcomes.items() if outcome is MISSED]
    broken = {pair: outcome for pair, outcome in outcomes.items() if isinstance(outcome, BaseException)}
    if not late and not broken:
        return f"{_count(len(pairs), 'directed pair')}, {size} bytes each"
    seen = await diagnose(run, {worker for pair in late for worker in pair})
    excused = [pair for pair in late if any(seen[worker].busy for worker in pair)]
    untried = [pair for pair in late if pair not in begun and pair not in excused]
    failing = [pair for pair in late if pair not in excused and pair not in untried]
    parts = [f"{_pairs([pair])}: {_one_line(error)}" for pair, error in broken.items()]
    if failing:
        parts.append(f"no data came through: {_pairs(failing)}")
    if untried:
        parts.append(f"not tried before the deadline: {_pairs(untried)}")
    if excused:
        parts.append(f"held up by other tasks: {_pairs(excused)}")
    failed = [[source.name, target.name] for source, target in [*broken, *failing, *untried]]
    data = {"pairs": len(pairs), "failing": failed, "busy": [[source.name, target.name] for source, target in excused]}
    raise (CheckError if failed else BusyError)("; ".join(parts), data)


# --suite collections. Each works on random data, so that its keys are new, and compares with a local result.


async def _collection(run: Run, collection: Any, expected: Any) -> None:
    async with Tasks(run) as tasks:
        try:
            value = await await_value(run, tasks.compute(collection, on=run.workers))
        except TimeoutError:
            raise await missed(run, run.workers, "not computed") from None
    if value != expected:
        raise CheckError(f"the cluster computed {value!r}, locally it is {expected!r}")


def _random_numbers(count: int) -> list[int]:
    return [secrets.randbelow(1000) for _ in range(count)]


async def check_array(run: Run) -> Detail:
    """Compute a matrix product in blocks with dask.array."""
    numpy, array = _load("numpy"), _load("dask.array")
    local = numpy.array(_random_numbers(100 * 100)).reshape(100, 100)
    blocks = array.from_array(local, chunks=(50, 50))
    await _collection(run, (blocks @ blocks.T).sum(), (local @ local.T).sum())
    return "a matrix product in blocks"


async def check_dataframe(run: Run) -> Detail:
    """Group and sum with dask.dataframe."""
    pandas, dataframe = _load("pandas"), _load("dask.dataframe")
    local = pandas.DataFrame({"group": _random_numbers(1000), "value": _random_numbers(1000)})
    local["group"] %= 7
    parts = dataframe.from_pandas(local, npartitions=4)
    expected = local.groupby("group")["value"].sum()
    async with Tasks(run) as tasks:
        try:
            future = tasks.compute(parts.groupby("group")["value"].sum(), on=run.workers)
            value = await await_value(run, future)
        except TimeoutError:
            raise await missed(run, run.workers, "not computed") from None
    if value.sort_index().to_dict() != expected.to_dict():
        raise CheckError("the groups' sums differ from those of pandas")
    return "a group-by and sum"


async def check_bag(run: Run) -> Detail:
    """Filter, map and sum with dask.bag."""
    bag = _load("dask.bag")
    numbers = _random_numbers(1000)
    parts = bag.from_sequence(numbers, npartitions=4)
    await _collection(run, parts.filter(_is_odd).map(square).sum(), sum(x**2 for x in numbers if x % 2))
    return "a filter, map and sum"


@sent
def _is_odd(x: int) -> bool:
    return x % 2 == 1


async def check_delayed(run: Run) -> Detail:
    """Sum delayed calls."""
    numbers = _random_numbers(20)
    lazy = delayed(sum, pure=False)([delayed(square, pure=False)(x) for x in numbers])
    await _collection(run, lazy, sum(x**2 for x in numbers))
    return "a sum of 20 calls"


async def check_futures(run: Run) -> Detail:
    """Scatter numbers to the workers, map over what was scattered, gather."""
    numbers = _random_numbers(20)
    async with Tasks(run) as tasks:
        try:
            places = [worker.address for worker in run.workers]
            data = await run.await_one(run.client.scatter(numbers, workers=places, hash=False))
            tasks.futures.extend(data)
            values = await run.await_one(run.client.gather(tasks.map(square, data, on=run.workers)))
        except TimeoutError:
            raise await missed(run, run.workers, "not computed") from None
    if values != [x**2 for x in numbers]:
        raise CheckError("what was gathered differs from what was scattered, squared")
    return "a scatter, map and gather of 20 values"


async def check_sklearn(run: Run) -> Detail:
    """Grow a scikit-learn forest through joblib; it must predict as one grown here, and joblib must use the workers."""
    ensemble, joblib, numpy = _load("sklearn.ensemble"), _load("joblib"), _load("numpy")
    features = numpy.array(_random_numbers(600)).reshape(200, 3)
    labels = features.sum(axis=1) > 1500
    placed = Tasks(run).placed(run.workers)

    def grow() -> Any:
        return ensemble.RandomForestClassifier(n_estimators=12, random_state=0).fit(features, labels)

    def on_cluster() -> tuple[Any, list[str]]:
        limit = run.left()
        with joblib.parallel_config(backend="dask", client=run.client, wait_for_workers_timeout=limit, **placed):
            return grow(), joblib.Parallel()(joblib.delayed(whereabouts)() for _ in range(4))

    try:
        forest, places = await run.await_one(_in_thread(on_cluster))
    except TimeoutError:
        raise await missed(run, run.workers, "not computed") from None
    if not (forest.predict(features) == grow().predict(features)).all():
        raise CheckError("the forest grown on the cluster predicts differently from the one grown here")
    if strangers := set(places) - {worker.address for worker in run.workers}:
        raise CheckError(f"joblib ran tasks at {_names(strangers)}, not on the workers")
    return "a random forest through joblib"


# --suite memory.


@sent
def random_block(seed: int, size: int) -> Any:
    """Return a block of the array: random bytes that do not compress, as uint8 of shape (size,)."""
    return importlib.import_module("numpy").random.default_rng(seed).integers(0, 256, size, dtype="uint8")


@sent
def block_total(block: Any) -> int:
    """Return the sum of a block."""
    return int(block.sum(dtype="uint64"))


async def check_spill(run: Run) -> Detail:
    """Hold an array larger than the smallest worker's limit there and reduce it: what does not fit is spilled."""
    _load("numpy")
    identity = await run.await_one(run.client.scheduler.identity(n_workers=-1))
    limits = {worker: int(identity["workers"][worker.address].get("memory_limit") or 0) for worker in run.workers}
    limited = {worker: limit for worker, limit in limits.items() if limit}
    if not limited:
        raise SkipError("no worker has a memory limit")
    worker = min(limited, key=lambda worker: (limited[worker], worker.name))
    size = math.ceil(limited[worker] * MEMORY_EXCESS / MEMORY_BLOCKS)
    seeds = [secrets.randbits(63) for _ in range(MEMORY_BLOCKS)]
    async with Tasks(run) as tasks:
        try:
            blocks = [tasks.submit(random_block, seed, size, on=[worker]) for seed in seeds]
            await run.await_one(asyncio.gather(*(asyncio.ensure_future(wait_for(block)) for block in blocks)))
            spilled = await _spilled(run, worker)
            totals = [tasks.submit(block_total, block, on=[worker]) for block in blocks]
            values = await run.await_one(run.client.gather(totals))
        except TimeoutError:
            raise await missed(run, [worker], f"{MEMORY_BLOCKS} blocks of {size} bytes are not reduced") from None
    data = {
        "worker": worker.name,
        "memory_limit": limited[worker],
        "bytes": size * MEMORY_BLOCKS,
        "spilled_bytes": spilled,
    }
    try:
        expected = await run.await_one(_in_thread(lambda: [block_total(random_block(seed, size)) for seed in seeds]))
    except TimeoutError:
        raise CheckError("they came back, and no time was left to make them here too", data) from None
    if values != expected:
        wrong = sum(value != right for value, right in zip(values, expected, strict=True))
        raise CheckError(f"{wrong} of {MEMORY_BLOCKS} blocks on {worker.name} came back altered", data)
    what = f"{size * MEMORY_BLOCKS} bytes on {worker.name}, whose limit is {limited[worker]}"
    if not spilled:
        raise CheckError(f"{what}: nothing was spilled to disk", data)
    return f"{what}: {spilled} spilled to disk", data


async def _spilled(run: Run, worker: Worker) -> int:
    """Return the bytes on disk, by the heartbeat that told the scheduler; one may be older than the blocks.

    Asked at least once, and for half of the time that the check has left.
    """
    enough = run.left() / 2
    while True:
        state = await run.await_one(run.client.scheduler.identity(n_workers=-1))
        spilled = int(state["workers"][worker.address]["metrics"]["spilled_bytes"]["disk"])
        if spilled or run.left() < enough:
            return spilled
        await asyncio.sleep(POLL_SECONDS)


async def wait_for(future: Any) -> None:
    """Wait until a task is done; raise what it raised."""
    await future
    if future.status != "finished":
        await future.result()


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SkipError(f"not installed here: {_one_line(error)}") from None


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a blocking function in a daemon thread: asyncio's own threads are waited for at exit, for ever."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def report(setter: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            setter(value)

    def work() -> None:
        try:
            value = function()
        except Exception as error:
            outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
        else:
            outcome = (future.set_result, value)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(report, *outcome)

    threading.Thread(target=work, daemon=True).start()
    return await future


ALWAYS = (
    Check("connect", check_connect, CONNECT_SECONDS, workers=False),
    Check("workers", check_workers, workers=False),
    Check("answers", check_answers, ANSWER_SECONDS),
)
SUITES: dict[str, tuple[Check, ...]] = {
    "basic": (
        Check("versions", check_versions),
        Check("hello-world", check_hello),
        Check("pinned", check_pinned),
        Check("transfers", check_transfers),
    ),
    "collections": (
        Check("array", check_array),
        Check("dataframe", check_dataframe),
        Check("bag", check_bag),
        Check("delayed", check_delayed),
        Check("futures", check_futures),
        Check("scikit-learn", check_sklearn),
    ),
    "memory": (Check("spill", check_spill),),
}


# One check after the other.


async def run_check(run: Run, check: Check) -> Line:
    """Run one check inside its deadline and return its line; only UnreachableError and UsageError pass through."""
    begun = time.monotonic()
    limit = min(check.seconds, run.options.check_timeout, run.ends - begun)
    run.deadline = begun + limit
    line = Line(check.name, FAILED, 0.0, "")
    without = f"; without {_names(run.left_out)}" if run.left_out else ""
    try:
        if check.workers and not run.workers:
            raise SkipError("no worker to try it on")
        if limit <= 0:
            busy = any(earlier.result == BUSY for earlier in run.lines)
            reason = f"not run: the checks above used up --timeout {run.options.timeout:g}"
            raise (BusyError if busy else CheckError)(reason)
        async with asyncio.timeout(limit + 2 * DIAGNOSE_SECONDS):
            detail = await check.function(run)
        line.result = OK
        line.detail, line.data = (detail, {}) if isinstance(detail, str) else detail
    except (UnreachableError, UsageError):
        raise
    except CheckError as error:
        line.result = error.result
        line.detail, line.data = str(error), error.data
    except TimeoutError:
        line.detail = f"the scheduler did not answer within {limit:.3g} s"
    except Exception as error:
        if run.options.debug:
            traceback.print_exc()
        line.detail = _one_line(error)
    line.detail += without
    line.seconds = time.monotonic() - begun
    return line


async def verify(run: Run, show: Callable[[Line], None], announce: Callable[[str, float], None]) -> None:
    """Run the always-made checks and the suites asked for; show each line as soon as it is there.

    Raises UnreachableError or UsageError when the first check, connect, gets no client.
    """
    checks = [*ALWAYS, *(check for suite in run.options.suites for check in SUITES[suite])]
    try:
        for check in checks:
            announce(check.name, min(check.seconds, run.options.check_timeout))
            line = await run_check(run, check)
            run.lines.append(line)
            show(line)
            if check.name == "connect" and line.result != OK:
                raise UnreachableError(f"{run.options.address}: {line.detail}")
    finally:
        await close(run.client)


def exit_status(run: Run) -> int:
    """Return 1 when a check failed, or with --strict when one was busy or skipped, else 0."""
    bad = {FAILED, BUSY, SKIPPED} if run.options.strict else {FAILED}
    return FAILED_RUN if any(line.result in bad for line in run.lines) else DONE


# What people and machines read.


def format_line(line: Line) -> str:
    """Return the line of the table."""
    return f"{line.check:<13} {line.result:<8} {line.seconds:>7.2f}  {line.detail}"


def final_line(run: Run) -> str:
    """Return the hello-world and the scheduler's address."""
    where = f"scheduler {run.options.address}"
    if run.total is None:
        return f"{EXPRESSION} was not computed · {where}"
    return f"{EXPRESSION} = {run.total} · {where}"


def as_json(run: Run, status: int, error: str | None = None) -> str:
    """Return the whole run as one JSON object; `exit_status` is what the process returns."""
    return json.dumps(
        {
            "scheduler": run.options.address,
            "exit_status": status,
            "error": error,
            "hello_world": {"expression": EXPRESSION, "value": run.total},
            "checks": [
                {
                    "check": line.check,
                    "result": line.result.lower(),
                    "seconds": round(line.seconds, 3),
                    "detail": line.detail,
                    **line.data,
                }
                for line in run.lines
            ],
        },
        ensure_ascii=False,
        default=str,
    )


class Screen:
    """Where the lines go: the table on standard output, what is waited for on a terminal's standard error."""

    def __init__(self, options: Options) -> None:
        """Say nothing yet."""
        self.quiet = options.json
        self.live = sys.stderr.isatty() and not options.json
        self.headed = False

    def announce(self, check: str, seconds: float) -> None:
        """On a terminal, say which check runs and when it gives up."""
        if self.live:
            print(f"{check} … gives up after {seconds:g} s", end="", file=sys.stderr, flush=True)

    def erase(self) -> None:
        """Take the announcement away."""
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, line: Line) -> None:
        """Print a line of the table, under its heading."""
        self.erase()
        if self.quiet:
            return
        if not self.headed:
            print(f"{'check':<13} {'result':<8} {'seconds':>7}  detail")
            self.headed = True
        print(format_line(line), flush=True)


def _versions_text(run: Run) -> list[str]:
    if not run.differences:
        return ["versions: no difference"]
    return [f"versions: {package}: {_who_has_what(by)}" for package, by in run.differences.items()]


def _who_has_what(by: Mapping[str, str]) -> str:
    holders: dict[str, list[str]] = defaultdict(list)
    for who, version in by.items():
        holders[version].append(who)
    return ", ".join(f"{version} ({' '.join(whos)})" for version, whos in holders.items())


def _python(reply: Mapping[str, Any]) -> str:
    return ".".join(str(reply["host"]["python"]).split(".")[:3])


def _pairs(pairs: Iterable[tuple[Worker, Worker]]) -> str:
    targets: dict[str, list[str]] = defaultdict(list)
    for source, target in sorted(pairs):
        targets[source.name].append(target.name)
    return ", ".join(f"{source} → {' '.join(names)}" for source, names in targets.items())


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if isinstance(error, CheckError) else f"{name}: {text[:300]}" if text else name


# The command.


def _name_list(text: str) -> list[str]:
    """Read NAME,NAME… or @FILE with names between commas, spaces or lines."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise argparse.ArgumentTypeError(f"cannot read {text[1:]}: {_one_line(error)}") from None
    return text.replace(",", " ").split()


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # no thread waits longer
    most = threading.TIMEOUT_MAX
    if not 0 < value < most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0 and below {most:.1e}")
    return value


def _bytes(text: str) -> int:
    try:
        value = int(parse_bytes(text))
    except (ValueError, OverflowError):
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1MB")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="verify_cluster.py",
        description="Verify a Dask cluster: expected workers, same versions, a computation, tasks and transfers.",
        epilog="Results: ok; busy (a deadline missed while workers execute other tasks: a warning); FAILED; skipped. "
        "Exit status: 0 done, 1 failed, 2 bad usage, 3 scheduler unreachable, 130 Ctrl-C.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add(
        "address",
        nargs="?",
        help="the scheduler's, as tls://HOST:PORT (default: scheduler-address of Dask's settings)",
    )
    add("--workers", action="extend", type=_name_list, metavar="NAME,…|@FILE", help="names of the expected workers")
    add("--absent", action="extend", type=_name_list, metavar="NAME,…|@FILE", help="names expected to be absent")
    add("--optional", action="extend", type=_name_list, metavar="NAME,…|@FILE", help="names that may be there or not")
    add("--n-workers", type=_positive, metavar="N", help="how many workers there must be")
    add("--timeout", type=_seconds, default=180.0, metavar="SECONDS", help="for the whole run (default: 180)")
    add("--check-timeout", type=_seconds, metavar="SECONDS", help="for one check (default: a third of --timeout)")
    add("--suite", action="append", choices=sorted(SUITES), help="what to check besides basic, which is always made")
    add("--transfer-bytes", type=_bytes, default=1_000_000, metavar="SIZE", help="of each transfer (default: 1MB)")
    add("--versions", action="store_true", help="list every difference between versions below the table")
    add("--strict", action="store_true", help="busy, skipped and another patch release of Python are errors too")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    add("--debug", action="store_true", help="show tracebacks and Dask's own messages")
    return made


def read_options(argv: Sequence[str] | None) -> Options:
    """Return the options of the command line; raise UsageError, or SystemExit(2) as argparse does."""
    given = parser().parse_args(argv)
    address = given.address or dask.config.get("scheduler-address", None)
    if not address:
        raise UsageError("no scheduler: give its address, or set DASK_SCHEDULER_ADDRESS")
    try:
        address = normalize_address(address)
        _, port = get_address_host_port(address, strict=True)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{address!r} is no address such as tls://192.0.2.11:8786: {_one_line(error)}") from None
    if not port:
        raise UsageError(f"{address!r} has no port; a scheduler's is 8786 as a rule")
    if given.workers is not None and not given.workers:
        raise UsageError("--workers names nobody")
    return Options(
        address=address,
        workers=None if given.workers is None else frozenset(given.workers),
        absent=frozenset(given.absent or ()),
        optional=frozenset(given.optional or ()),
        n_workers=given.n_workers,
        timeout=given.timeout,
        check_timeout=given.check_timeout or given.timeout / 3,
        suites=tuple(dict.fromkeys(["basic", *(given.suite or ())])),
        transfer_bytes=given.transfer_bytes,
        versions=given.versions,
        strict=given.strict,
        json=given.json,
        debug=given.debug,
    )


@contextlib.contextmanager
def _silence(options: Options) -> Iterator[None]:
    """Keep Dask's log messages and warnings off the screen: each fault has its line in the table."""
    if options.debug:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _watchdog(run: Run) -> threading.Timer:
    """End the process when it outlives its budget: a blocked event loop heeds no deadline of its own."""

    def give_up() -> None:
        print(f"verify_cluster: gave up: no end after {run.options.timeout:g} s of --timeout", file=sys.stderr)
        _leave(FAILED_RUN)

    timer = threading.Timer(run.options.timeout + WATCHDOG_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    return timer


def _leave(status: int) -> NoReturn:
    """End the process without waiting for threads, of which one may hang in a name look-up or a lost connection."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run_command(options: Options) -> int:
    """Verify as the options say, print the result, and return the exit status."""
    run = Run(options, ends=time.monotonic() + options.timeout)
    screen = Screen(options)
    watchdog = _watchdog(run)
    error = None
    try:
        with _silence(options):
            asyncio.run(verify(run, screen.show, screen.announce))
        status = exit_status(run)
    except UnreachableError as fault:
        error, status = str(fault), UNREACHABLE
    except UsageError as fault:
        error, status = str(fault), BAD_USAGE
    finally:
        watchdog.cancel()
        screen.erase()
    if options.json:
        print(as_json(run, status, error))
    elif error is None:
        lines = [*(_versions_text(run) if options.versions else ()), final_line(run)]
        print("\n".join(lines))
    if error is not None:
        print(f"verify_cluster: {error}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad usage, 3 unreachable, 130 Ctrl-C."""
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        return run_command(read_options(argv))
    except UsageError as error:
        print(f"verify_cluster: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        print("verify_cluster: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"verify_cluster: {_one_line(error)}", file=sys.stderr)
        return FAILED_RUN


if __name__ == "__main__":
    _leave(main())
