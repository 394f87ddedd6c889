"""Take workers out of service without losing a key or running a task twice, or say why that cannot be.

Runs in the scheduler's container (`python - JSON`). The JSON:

- scheduler: its address;
- workers: names of those that this is about, all of one host; leaving: of all that this run of the playbook drains;
- step: `look` says what would be moved, and refuses what cannot be; `drain` does it, and leaves the workers connected,
  empty and idle, for their containers to be stopped; `undo` puts them back into service;
- timeout: seconds for running tasks to end; outcome: what becomes of those that do not: `wait` goes on waiting,
  `reschedule` leaves them to be run again elsewhere, `undo` puts the workers back into service;
- force: what nobody can take is lost instead of refused.

A drain that fails puts the workers back into service. One lets go when another step is begun after it, as by the next
run of a playbook that was killed. Exit status: 0 done, 1 failed, 4 refused.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.core import Status

ANSWER_SECONDS = 20.0
# the scheduler hears of a task's end by another connection than this
SETTLE_SECONDS = 0.3
LONGEST_POLL_SECONDS = 5.0
# above this part of its memory a worker takes no more: Dask's default for `distributed.worker.memory.pause`
PAUSE = 0.8
TOKEN = Path(tempfile.gettempdir()) / "hostnet-drain"


class RefusedError(Exception):
    """It cannot be done without a loss; the text says why."""


class FailedError(Exception):
    """It was begun and did not end; the text says why."""


class SupersededError(FailedError):
    """Another step was begun."""


# these run inside the scheduler


def picture(workers: Collection[str], leaving: Collection[str], pause: float, dask_scheduler: Any) -> dict[str, Any]:
    """Return where `workers` are, what they have and nobody has who stays, and what room those have; in B."""
    known = {str(worker.name): worker for worker in dask_scheduler.workers.values()}
    going = {known[name] for name in leaving if name in known}
    staying = dask_scheduler.running - going
    mine = {known[name] for name in workers if name in known}
    sole = {task for worker in mine for task in worker.has_what if set(task.who_has) <= going}
    # a worker without a limit has room
    room = [
        max(0, int(pause * worker.memory_limit) - worker.memory.process) if worker.memory_limit else 2**60
        for worker in staying
    ]
    return {
        "addresses": {str(worker.name): worker.address for worker in mine},
        "keys": len(sole),
        "bytes": sum(max(task.nbytes, 0) for task in sole),
        "processing": sum(len(worker.processing) for worker in mine),
        "actors": sum(len(worker.actors) for worker in mine),
        "others": sorted(str(worker.name) for worker in staying),
        "room": sum(room),
    }


def give_away(idle: dict[str, list[Any]], dask_scheduler: Any) -> None:
    """Let others run what is queued, by the worker's address, on workers that begin nothing any more."""
    tasks = [
        task
        for address, keys in idle.items()
        for task in (dask_scheduler.tasks.get(key) for key in keys)
        if task and task.state == "processing" and task.processing_on and task.processing_on.address == address
    ]
    if tasks:
        dask_scheduler.transitions({task.key: "released" for task in tasks}, stimulus_id=f"hostnet-drain-{len(tasks)}")


def run_again(keys: Collection[Any], dask_scheduler: Any) -> int:
    """Return how many of the tasks that were waited for have yet to be run."""
    tasks = [dask_scheduler.tasks.get(key) for key in keys]
    return sum(task is not None and task.state in {"processing", "queued", "no-worker", "waiting"} for task in tasks)


# these run inside the workers


def at_work(dask_worker: Any) -> dict[str, Any]:
    """Return whether the worker begins no more tasks, those that it executes and those that it has not begun."""
    state = dask_worker.state
    begun = {task.key for task in (*state.executing, *state.long_running)}
    queued = {task.key for tasks in (state.ready, state.constrained, state.waiting) for task in tasks}
    return {
        "retired": dask_worker.status.name == "closing_gracefully",
        "begun": begun,
        "queued": sorted(queued - begun, key=str),
    }


def into_service(running: Any, dask_worker: Any) -> bool:
    """Have the worker take tasks again; whether it did not."""
    retired = bool(dask_worker.status.name == "closing_gracefully")
    if retired:
        dask_worker.status = running
    return retired


class Drain:
    """One run of this script."""

    def __init__(self, wish: dict[str, Any], client: Any) -> None:
        """Begin with nothing moved."""
        self.wish, self.client = wish, client
        self.names = ", ".join(wish["workers"])
        self.token = uuid.uuid4().hex
        self.keys = self.bytes = 0

    async def picture(self) -> dict[str, Any]:
        """Ask the scheduler for the picture."""
        asking = self.client.run_on_scheduler(picture, self.wish["workers"], self.wish["leaving"], PAUSE)
        return dict(await asyncio.wait_for(asking, ANSWER_SECONDS))

    async def look(self) -> dict[str, Any]:
        """Say what there is to move.

        Raises:
            RefusedError: nobody could take it.
        """
        seen = await self.picture()
        if not seen["addresses"]:
            print(f"{self.names}: the scheduler does not know it, so there is nothing to hand over")
            return seen
        holds = f"{self.names}: {seen['keys']} keys ({seen['bytes']} bytes) are nowhere else"
        holds += f", {seen['processing']} tasks are there"
        why = ""
        if seen["actors"]:
            why = f"{self.names}: {seen['actors']} actors are there, which cannot be moved"
        elif not seen["others"] and (seen["keys"] or seen["processing"]):
            why = f"{holds}, and no other worker runs that could take them"
        elif seen["bytes"] > seen["room"]:
            others = ", ".join(seen["others"])
            until = f"until {PAUSE:.0%} of their memory is in use"
            why = f"{holds}, and the others ({others}) have room for {seen['room']} bytes {until}"
        if why and not self.wish["force"]:
            raise RefusedError(why)
        print(why or f"{holds}; {len(seen['others'])} other workers can take them")
        return seen

    async def retire(self, addresses: dict[str, str]) -> None:
        """Have what nobody else has moved to others, and count it."""
        before = await self.picture()
        if self.wish["force"] and not before["others"]:
            return
        answer = await self.client.scheduler.retire_workers(
            workers=list(addresses.values()), remove=False, close_workers=False
        )
        left = [name for name, address in addresses.items() if address not in answer]
        # one that left by itself is not in the answer either
        still = (await self.picture())["addresses"] if left else {}
        if kept := [name for name in left if name in still]:
            if not self.wish["force"]:
                raise FailedError(f"nobody could take what {', '.join(kept)} holds ({before['bytes']} bytes)")
            return
        self.keys += before["keys"]
        self.bytes += before["bytes"]

    async def drain(self) -> None:
        """Empty the workers and wait until they are idle, and say what it came to.

        Raises:
            RefusedError: nobody could take what they have; nothing was changed.
            FailedError: it did not end; they are in service.
        """
        seen = await self.look()
        if not seen["addresses"]:
            return
        TOKEN.write_text(self.token)
        start, waited = time.monotonic(), set[Any]()
        try:
            left = await self.empty(seen["addresses"], waited)
            again = await self.client.run_on_scheduler(run_again, waited - left)
        except SupersededError:
            raise
        except BaseException:
            await self.undo()
            raise
        print(
            f"{self.names}: handed over in {time.monotonic() - start:.1f} s:"
            f" {self.keys} keys moved ({self.bytes} bytes), {len(waited)} tasks waited for,"
            f" {again + len(left)} tasks re-run"
        )
        if left:
            late = ", ".join(sorted(map(str, left)))
            print(f"{self.names}: not ended within {self.wish['timeout']} s: {late}")

    async def empty(self, addresses: dict[str, str], waited: set[Any]) -> set[Any]:
        """Do it, and return the tasks that are left to be run again."""
        deadline = time.monotonic() + self.wish["timeout"]
        poll = SETTLE_SECONDS
        await self.in_time(self.retire(addresses), deadline)
        while True:
            if TOKEN.read_text() != self.token:
                raise SupersededError("another drain was begun after this one, and goes on")
            # one that left by itself has nothing more to give
            addresses = (await self.picture())["addresses"]
            asking = self.client.run(at_work, workers=list(addresses.values()), on_error="ignore")
            found = await asyncio.wait_for(asking, ANSWER_SECONDS) if addresses else {}
            begun = {key for said in found.values() for key in said["begun"]}
            waited |= begun
            idle = {address: said["queued"] for address, said in found.items() if said["retired"] and said["queued"]}
            if idle:
                await self.client.run_on_scheduler(give_away, idle)
            if not begun and not idle and len(found) == len(addresses):
                await asyncio.sleep(SETTLE_SECONDS)
                await self.in_time(self.retire(addresses), deadline)
                seen = await self.picture()
                if (not seen["keys"] and not seen["processing"]) or (self.wish["force"] and not seen["others"]):
                    return set()
            if time.monotonic() > deadline and self.wish["outcome"] == "undo":
                what = f"{len(begun)} tasks still run" if begun else "it is not empty yet"
                raise FailedError(f"{what} after {self.wish['timeout']} s")
            if time.monotonic() > deadline and self.wish["outcome"] == "reschedule":
                await self.in_time(self.retire(addresses), deadline)
                return begun
            await asyncio.sleep(poll)
            poll = min(poll * 1.5, LONGEST_POLL_SECONDS)

    async def in_time(self, moving: Any, deadline: float) -> None:
        """Await a move of keys, for as long as running tasks are waited for and at least a while."""
        seconds = None if self.wish["outcome"] == "wait" else max(ANSWER_SECONDS, deadline - time.monotonic())
        try:
            await asyncio.wait_for(moving, seconds)
        except TimeoutError:
            raise FailedError(f"the keys were not moved within {self.wish['timeout']} s") from None

    async def undo(self) -> None:
        """Put the workers back into service."""
        TOKEN.write_text(self.token)
        addresses = (await self.picture())["addresses"]
        asking = self.client.run(into_service, Status.running, workers=list(addresses.values()), on_error="ignore")
        put = await asyncio.wait_for(asking, ANSWER_SECONDS) if addresses else {}
        names = [name for name, address in addresses.items() if put.get(address)]
        if names:
            print(f"{', '.join(names)}: back in service")


async def run(wish: dict[str, Any]) -> None:
    """Take the step."""
    async with Client(wish["scheduler"], asynchronous=True, timeout=ANSWER_SECONDS, set_as_default=False) as client:
        await getattr(Drain(wish, client), wish["step"])()


def main() -> int:
    """Take the step and return 0; else print why not, on one line, and return the status."""
    wish = json.loads(sys.argv[1])
    try:
        asyncio.run(run(wish))
    except RefusedError as error:
        print(error, file=sys.stderr)
        return 4
    except Exception as error:  # whatever the cause, it is one line for whoever waits
        kind = "" if isinstance(error, FailedError) else f"{type(error).__name__} "
        print(f"{', '.join(wish['workers'])}: {kind}{error}".strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
