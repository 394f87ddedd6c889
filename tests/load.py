"""A computation that goes on until it is told to end, whose result is known, and that counts its own executions.

`python load.py ADDRESS` with distributed alone, as in the pinned image: prints `begun` once every kind of work is
there, and at its end, for which SIGTERM asks, one line of JSON:

- right: whether every result is there and is what it must be; wrong: names of those that are not that;
- lost: names of what has no result, of tasks and of what was scattered;
- twice: names of tasks that were begun more than once, also by a worker that is gone since;
- errors: what the client met, exceptions and what its log warns of;
- tasks: how many there were.

Work of these kinds is there all the time: chains of short tasks, each of which needs the one before; on each worker a
task of some seconds, and somewhere one of many; on each worker results that nobody else has, and scattered data.

Exit status: 0 nothing is wrong, 1 something is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, get_worker

TOPIC = "hostnet-load"
CHAINS, LINKS, LINK_SECONDS = 4, 4, 0.1
SOLE_BYTES = 2_000_000
# of a kind on a worker; the oldest is looked at and let go when another comes
KEPT = 6
KEEP_EVERY_SECONDS = 2.0
POLL_SECONDS = 0.1
ANSWER_SECONDS = 60.0
# for what still runs when the end is asked for, beyond the longest task
END_SECONDS = 90.0
MOST_ERRORS = 50


def content(name: str, size: int) -> bytes:
    """Return bytes that only this name has."""
    return hashlib.shake_128(name.encode()).digest(size)


def step(name: str, topic: str, seconds: float, size: int, *needs: int) -> Any:
    """Count this execution, work, and return how many steps there were up to this one, or content; runs on a worker."""
    get_worker().log_event(topic, name)
    time.sleep(seconds)
    # by value, as this file is not there
    return hashlib.shake_128(name.encode()).digest(size) if size else 1 + sum(needs)


@dataclass
class Work:
    """What will have a result: its kind, and what the result must be, a number or bytes of its name."""

    name: str
    kind: str
    future: Any
    number: int = 0
    size: int = 0

    def right(self, result: Any) -> bool:
        """Whether the result is what it must be."""
        return bool(result == (content(self.name, self.size) if self.size else self.number))


class Warnings(logging.Handler):
    """Keeps what the client's log warns of."""

    def __init__(self, texts: list[str]) -> None:
        """Keep it there."""
        super().__init__(logging.WARNING)
        self.texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.texts.append(f"{record.name}: {record.getMessage()}")


@dataclass
class Load:
    """The computation."""

    client: Client
    some: float
    many: float
    runs: Counter[str] = field(default_factory=Counter)
    # names of tasks, each of which must have run once
    tasks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    pending: list[Work] = field(default_factory=list)
    kept: list[Work] = field(default_factory=list)
    number: int = 0
    kept_at: float = 0.0

    def count(self, event: tuple[float, str]) -> None:
        """Count an execution; the scheduler's own memory of events is short."""
        self.runs[event[1]] += 1

    def submit(self, kind: str, seconds: float, *needs: Any, size: int = 0, worker: str = "") -> Work:
        """Submit a task."""
        name = f"{kind}-{self.number}"
        self.number += 1
        self.tasks.append(name)
        where = {"workers": [worker], "allow_other_workers": True} if worker else {}
        future = self.client.submit(step, name, TOPIC, seconds, size, *needs, key=name, pure=False, **where)
        return Work(name, kind, future, size=size, number=1)

    def workers(self) -> list[str]:
        """Return the names of those that take tasks."""
        found = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return sorted(str(each["name"]) for each in found if each["status"] == "running")

    def chain(self) -> Work:
        """Submit a chain; only its last link is held."""
        link = self.submit("chain", LINK_SECONDS)
        for length in range(2, LINKS + 1):
            link = self.submit("chain", LINK_SECONDS, link.future)
            link.number = length
        return link

    def keep(self, worker: str) -> None:
        """Have one more result on a worker that nobody else has, and one more scattered somewhere."""
        self.pending.append(self.submit(f"sole-{worker}", 0, size=SOLE_BYTES, worker=worker))
        name = f"scattered-{self.number}"
        self.number += 1
        future = self.client.scatter(content(name, SOLE_BYTES), hash=False)
        self.kept.append(Work(name, "scattered", future, size=SOLE_BYTES))

    def fill(self) -> None:
        """Have work of each kind."""
        kinds = Counter(work.kind for work in self.pending)
        self.pending += [self.chain() for _ in range(CHAINS - kinds["chain"])]
        workers = self.workers()
        for worker in workers:
            if not kinds[f"some-{worker}"]:
                self.pending.append(self.submit(f"some-{worker}", self.some, worker=worker))
        if not kinds["many"]:
            self.pending.append(self.submit("many", self.many))
        if time.monotonic() - self.kept_at > KEEP_EVERY_SECONDS:
            self.kept_at = time.monotonic()
            for worker in workers:
                self.keep(worker)
            for kind, kept in Counter(work.kind for work in self.kept).items():
                room = KEPT * max(1, len(workers)) if kind == "scattered" else KEPT
                for work in [each for each in self.kept if each.kind == kind][: max(0, kept - room)]:
                    self.kept.remove(work)
                    self.look(work)

    def look(self, work: Work) -> None:
        """Compare a result with what it must be."""
        try:
            # what was computed comes again; this does not, and would be waited for
            if work.kind == "scattered" and work.future.status in {"lost", "cancelled"}:
                raise LookupError(work.future.status)
            result = work.future.result(timeout=ANSWER_SECONDS)
        except Exception as error:  # whatever it was, there is no result
            self.lost.append(work.name)
            self.errors.append(f"{work.name}: {type(error).__name__} {error}")
        else:
            if not work.right(result):
                self.wrong.append(work.name)

    def settle(self) -> None:
        """Take what has ended: results that are to be kept are, others are looked at."""
        for work in [each for each in self.pending if each.future.status not in {"pending", "lost"}]:
            self.pending.remove(work)
            if work.size and work.future.status == "finished":
                self.kept.append(work)
            else:
                self.look(work)

    def begun(self) -> bool:
        """Whether work of every kind is there: something is kept and the chains have come round."""
        return any(work.size for work in self.kept if work.kind != "scattered") and len(self.tasks) > CHAINS * LINKS * 2

    def end(self) -> dict[str, Any]:
        """Wait for what runs, look at all that is left, and return what came of it."""
        deadline = time.monotonic() + self.many + END_SECONDS
        while self.pending and time.monotonic() < deadline:
            self.settle()
            time.sleep(POLL_SECONDS)
        self.lost += [work.name for work in self.pending]
        for work in self.kept:
            self.look(work)
        # an execution is told after its result at most by a moment
        deadline = time.monotonic() + ANSWER_SECONDS
        expected = set(self.tasks) - set(self.lost)
        while not expected <= set(self.runs) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if uncounted := sorted(expected - set(self.runs)):
            self.errors.append(f"executions that nobody counted: {', '.join(uncounted[:10])}")
        return {
            "right": not (self.lost or self.wrong),
            "wrong": sorted(self.wrong),
            "lost": sorted(self.lost),
            "twice": sorted(name for name, times in self.runs.items() if times > 1),
            "errors": self.errors[:MOST_ERRORS],
            "tasks": len(self.tasks),
        }


def main() -> int:
    """Compute until SIGTERM; print what came of it and return 0 if nothing is wrong."""
    parser = argparse.ArgumentParser(description="a computation whose result is known, until SIGTERM")
    parser.add_argument("address", help="of the scheduler")
    parser.add_argument("--some", type=float, default=3.0, help="seconds of the task on each worker")
    parser.add_argument("--many", type=float, default=20.0, help="seconds of the longest task")
    options = parser.parse_args()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    with Client(options.address, timeout=ANSWER_SECONDS, set_as_default=False) as client:
        load = Load(client, options.some, options.many)
        warnings = Warnings(load.errors)
        logging.getLogger("distributed.client").addHandler(warnings)
        client.subscribe_topic(TOPIC, load.count)
        said = False
        while not asked and len(load.errors) < MOST_ERRORS:
            try:
                load.fill()
                load.settle()
            except Exception as error:  # the client's, which is what this is about
                load.errors.append(f"{type(error).__name__} {error}")
            if not said and load.begun():
                said = True
                print("begun", flush=True)
            time.sleep(POLL_SECONDS)
        came = load.end()
        logging.getLogger("distributed.client").removeHandler(warnings)
    print(json.dumps(came), flush=True)
    return 0 if came["right"] and not came["twice"] and not came["errors"] else 1


if __name__ == "__main__":
    sys.exit(main())
