"""Take workers out of service without losing a key or running a task twice, or say why that cannot be.

Runs in the scheduler's container (`python - JSON`). The JSON:

- scheduler: its address;
- workers: names of those that this is about, all of one host; leaving: of all that this run of the playbook drains;
- step: `look` says what would be moved, and refuses what cannot be; `drain` does it, and leaves the workers connected,
  empty and idle, for their containers to be stopped; `undo` puts them back into service;
- timeout: seconds for running tasks to end; outcome: what becomes of those that do not: `wait` goes on waiting,
  `reschedule` leaves them to be run again elsewhere, `undo` puts the workers back into service;
- force: what nobody can take is lost instead of refused, and not waited for.

A drain that fails puts the workers back into service. One lets go of a worker when another step is begun for it, as by
the next run of a playbook that was killed. Exit status: 0 done, 1 failed (of `undo`: a worker is not back), 4 refused,
5 another step was begun.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distributed import Client

ANSWER_SECONDS = 20.0
# for a worker to take tasks again, and for one that left, or whose container was just started, to be there
BACK_SECONDS = 30.0
# the scheduler hears of a task's end by another connection than this
SETTLE_SECONDS = 0.3
LONGEST_POLL_SECONDS = 5.0
# above this part of its memory a worker takes no more: Dask's default for `distributed.worker.memory.pause`
PAUSE = 0.8
# whose drain or undo a worker's last one is; the latter's begin with this word
TOKENS = Path(tempfile.gettempdir())
UNDO = "undo"


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
        "now": time.time(),
        "addresses": {str(worker.name): worker.address for worker in mine},
        "keys": len(sole),
        "bytes": sum(max(task.nbytes, 0) for task in sole),
        "processing": sum(len(worker.processing) for worker in mine),
        "actors": {str(worker.name): len(worker.actors) for worker in mine if worker.actors},
        "others": sorted(str(worker.name) for worker in staying),
        "room": sum(room),
    }


def bound(workers: Collection[str], leaving: Collection[str], dask_scheduler: Any) -> list[str]:
    """Return the tasks that only leaving workers may run and that have not begun, as far as they concern `workers`."""
    going = {worker for worker in dask_scheduler.workers.values() if str(worker.name) in leaving}
    mine = {worker for worker in going if str(worker.name) in workers}
    found = []
    for task in dask_scheduler.tasks.values():
        where = task.processing_on
        if task.loose_restrictions or task.state not in {"processing", "queued", "no-worker", "waiting"}:
            continue
        # what runs there ends there
        if where and task in where.executing:
            continue
        valid = dask_scheduler.valid_workers(task)
        if valid is not None and not valid - going and (where in mine or valid & mine):
            found.append(str(task.key))
    return sorted(found)


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


def outcome(
    addresses: Collection[str], since: float, waited: Collection[Any], left: Collection[Any], dask_scheduler: Any
) -> dict[str, Any]:
    """Return numbers of tasks that are run again and of scattered keys that are lost, which workers left, and results.

    Of those that were waited for, which have yet to be run, and the others' results; and what went with workers that
    left by themselves.
    """
    unended = {"processing", "queued", "no-worker", "waiting"}
    tasks = [(key, dask_scheduler.tasks.get(key)) for key in waited]
    again = {key for key, task in tasks if task is not None and task.state in unended} | set(left)
    results = [task for _, task in tasks if task is not None and task.state == "memory"]
    lost, gone = set[Any](), set[str]()
    for when, event in dask_scheduler.get_events("all"):
        if when < since or not isinstance(event, dict) or event.get("action") != "remove-worker":
            continue
        if event["worker"] in addresses:
            gone.add(event["worker"])
            again |= set(event["lost-computed-tasks"]) | (set(event["processing-tasks"]) & set(waited))
            lost |= set(event["lost-scattered-tasks"])
    return {
        "again": len(again),
        "lost": len(lost),
        "gone": sorted(gone),
        "keys": len(results),
        "bytes": sum(max(task.nbytes, 0) for task in results),
    }


def into_service(workers: Collection[str], tell: Collection[str], dask_scheduler: Any) -> dict[str, str]:
    """Return the status of each worker that is known, and have the retired ones of `tell` take tasks again.

    They hear of it by the scheduler's own connection: as soon as what they run lets them, in order with retirements.
    """
    amm = dask_scheduler.extensions.get("amm")
    found = {}
    for worker in list(dask_scheduler.workers.values()):
        name = str(worker.name)
        if name not in workers:
            continue
        found[name] = worker.status.name
        if amm:
            # keys would go on moving off it
            mine = {each for each in amm.policies if type(each).__name__ == "RetireWorker"}
            amm.policies.difference_update({each for each in mine if each.address == worker.address})
        if name in tell and worker.status.name == "closing_gracefully":
            message = {"op": "worker-status-change", "status": "running", "stimulus_id": f"hostnet-undo-{time.time()}"}
            dask_scheduler.stream_comms[worker.address].send(message)
    return found


# this runs inside the workers


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


class Drain:
    """One run of this script."""

    def __init__(self, wish: dict[str, Any], client: Any) -> None:
        """Begin with nothing moved."""
        self.wish, self.client = wish, client
        self.names = ", ".join(wish["workers"])
        self.token = uuid.uuid4().hex
        self.deadline = 0.0
        # of what was there before
        self.moved = {"keys": 0, "bytes": 0}
        # those whose stop hands over what it can
        self.given_up: set[str] = set()

    # whose worker it is

    @staticmethod
    def token_of(name: str) -> Path:
        """Return the file of a worker's last step."""
        return TOKENS / f"hostnet-drain-{quote(name, safe='')}"

    def take(self) -> None:
        """Have steps that were begun before this one let go of its workers."""
        if self.wish["step"] == UNDO:
            self.token = f"{UNDO} {self.token}"
        for name in self.wish["workers"]:
            self.token_of(name).write_text(self.token, encoding="utf-8")

    def tokens(self) -> dict[str, str]:
        """Return the token of each worker's last step."""
        files = {name: self.token_of(name) for name in self.wish["workers"]}
        return {name: file.read_text(encoding="utf-8") if file.exists() else "" for name, file in files.items()}

    def still_mine(self) -> None:
        """Go on.

        Raises:
            SupersededError: another step was begun for one of the workers.
        """
        if other := [name for name, token in self.tokens().items() if token != self.token]:
            raise SupersededError(
                f"another drain or undrain of {', '.join(other)} was begun after this one, and goes on"
            )

    # what is asked

    async def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the scheduler, again until the deadline while it does not answer.

        Raises:
            FailedError: it did not.
        """
        while True:
            try:
                return await asyncio.wait_for(self.client.run_on_scheduler(function, *arguments), ANSWER_SECONDS)
            except TimeoutError:
                if time.monotonic() > self.deadline:
                    raise FailedError(f"the scheduler did not answer within {ANSWER_SECONDS:.0f} s") from None

    async def picture(self, names: Collection[str] | None = None) -> dict[str, Any]:
        """Ask the scheduler for the picture, of those workers that are not given up."""
        chosen = self.wish["workers"] if names is None else names
        wanted = [name for name in chosen if name not in self.given_up]
        return dict(await self.ask(picture, wanted, self.wish["leaving"], PAUSE))

    async def at_work(self, addresses: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return by address what the workers say; one whose task keeps the interpreter to itself says nothing yet."""

        async def one(address: str) -> dict[str, dict[str, Any]]:
            asking = self.client.run(at_work, workers=[address], on_error="ignore")
            try:
                return dict(await asyncio.wait_for(asking, ANSWER_SECONDS))
            except TimeoutError:
                return {}

        said = await asyncio.gather(*(one(address) for address in addresses.values()))
        return {address: what for each in said for address, what in each.items()}

    # what is done

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
        tied = await self.ask(bound, self.wish["workers"], self.wish["leaving"])
        why = ""
        if seen["actors"]:
            why = f"{self.names}: {sum(seen['actors'].values())} actors are there, which cannot be moved"
        elif not seen["others"] and (seen["keys"] or seen["processing"]):
            why = f"{holds}, and no other worker runs that could take them"
        elif seen["bytes"] > seen["room"]:
            others = ", ".join(seen["others"])
            until = f"until {PAUSE:.0%} of their memory is in use"
            why = f"{holds}, and the others ({others}) have room for {seen['room']} bytes {until}"
        elif tied:
            some = ", ".join(tied[:5]) + (f" and {len(tied) - 5} more" if tied[5:] else "")
            why = f"{self.names}: {len(tied)} tasks may run on no other worker (workers=, resources=): {some}"
        if why and not self.wish["force"]:
            raise RefusedError(why)
        print(why or f"{holds}; {len(seen['others'])} other workers can take them")
        return seen

    async def retire(self, addresses: Mapping[str, str]) -> dict[str, int]:
        """Have what nobody else has moved to others, and return how much that was at its begin.

        What comes later moves by itself for a while, so that it is not counted here.

        Raises:
            FailedError: nobody could take it, or not in time.
            SupersededError: another step was begun.
        """
        before = await self.picture(addresses)
        moving = self.client.scheduler.retire_workers(
            workers=list(addresses.values()), remove=False, close_workers=False
        )
        left = self.deadline - time.monotonic()
        try:
            # as long as running tasks are waited for, and at least a while
            answer = await asyncio.wait_for(moving, None if left == math.inf else max(ANSWER_SECONDS, left))
        except TimeoutError:
            raise FailedError(f"the keys were not moved within {self.wish['timeout']} s") from None
        self.still_mine()
        refused = [name for name, address in addresses.items() if address not in answer]
        # one that left by itself is not in the answer either
        still = (await self.picture(refused))["addresses"] if refused else {}
        if still and not self.wish["force"]:
            raise FailedError(f"nobody could take what {', '.join(still)} holds ({before['bytes']} bytes)")
        self.given_up |= set(still)
        return {what: 0 if still else before[what] for what in ("keys", "bytes")}

    async def drain(self) -> None:
        """Empty the workers and wait until they are idle, and say what it came to.

        Raises:
            RefusedError: nobody could take what they have; nothing was changed.
            FailedError: it did not end; they are in service, or it was said which is not.
            SupersededError: another step was begun, which they are left to.
        """
        seen = await self.look()
        if not seen["addresses"]:
            return
        self.take()
        start, waited = time.monotonic(), set[Any]()
        self.deadline = math.inf if self.wish["outcome"] == "wait" else start + self.wish["timeout"]
        # those that could not be moved if they were waited for
        self.given_up = set(seen["actors"] if seen["others"] else seen["addresses"]) if self.wish["force"] else set()
        try:
            left = await self.empty(waited)
            came = await self.ask(outcome, list(seen["addresses"].values()), seen["now"], waited, left)
        except BaseException:
            # what another drain has taken is its own; of an undo, this one's retirement may have come after it
            mine = [name for name, token in self.tokens().items() if token == self.token or token.startswith(UNDO)]
            try:
                await self.back(mine)
            except FailedError as error:
                print(error, file=sys.stderr)
            raise
        print(
            f"{self.names}: handed over in {time.monotonic() - start:.1f} s:"
            f" {self.moved['keys'] + came['keys']} keys moved ({self.moved['bytes'] + came['bytes']} bytes),"
            f" {len(waited)} tasks waited for,"
            f" {came['again']} tasks re-run"
        )
        if left:
            late = ", ".join(sorted(map(str, left)))
            print(f"{self.names}: not ended within {self.wish['timeout']} s: {late}")
        if gone := [name for name, address in seen["addresses"].items() if address in came["gone"]]:
            print(f"{', '.join(gone)}: left by itself meanwhile, {came['lost']} scattered keys are lost")
        if given_up := sorted(self.given_up):
            self.given_up = set()
            now = await self.picture(given_up)
            print(
                f"{', '.join(given_up)}: not waited for, and lost but for what the stop still hands over:"
                f" {now['keys']} keys ({now['bytes']} bytes), {now['processing']} tasks,"
                f" {sum(now['actors'].values())} actors"
            )

    async def empty(self, waited: set[Any]) -> set[Any]:
        """Do it, and return the tasks that are left to be run again."""
        poll, said = SETTLE_SECONDS, dict[str, dict[str, Any]]()
        there = (await self.picture())["addresses"]
        self.moved = await self.retire(there)
        last_seen = time.monotonic()
        while True:
            self.still_mine()
            addresses = (await self.picture())["addresses"]
            # one that left by itself has nothing more to give, but may be there again
            missing = there.keys() - addresses.keys() - self.given_up
            if not missing:
                last_seen = time.monotonic()
            awaited = missing and time.monotonic() < min(last_seen + BACK_SECONDS, self.deadline)
            found = await self.at_work(addresses)
            # of one that does not answer what it said before stands
            said = {address: (said | found)[address] for address in addresses.values() if address in said | found}
            begun = {key for each in said.values() for key in each["begun"]}
            waited |= begun
            idle = {address: each["queued"] for address, each in found.items() if each["retired"] and each["queued"]}
            if idle:
                await self.ask(give_away, idle)
            anew = {name: where for name, where in addresses.items() if not found.get(where, {}).get("retired", True)}
            if anew:
                # of a worker that died and is there again
                await self.retire(anew)
            elif not begun and not idle and not awaited and len(found) == len(addresses):
                await asyncio.sleep(SETTLE_SECONDS)
                await self.retire(addresses)
                seen = await self.picture()
                if not seen["keys"] and not seen["processing"]:
                    return set()
            if time.monotonic() > self.deadline and self.wish["outcome"] == "undo":
                what = f"{len(begun)} tasks still run" if begun else "it is not empty yet"
                silent = [name for name, address in addresses.items() if address not in found]
                what += f", {', '.join(silent)} does not answer," if silent else ""
                raise FailedError(f"{what} after {self.wish['timeout']} s")
            if time.monotonic() > self.deadline and self.wish["outcome"] == "reschedule":
                await self.retire(addresses)
                return begun
            await asyncio.sleep(poll)
            poll = min(poll * 1.5, LONGEST_POLL_SECONDS)

    async def undo(self) -> None:
        """Put the workers back into service.

        Raises:
            FailedError: one did not come back.
        """
        self.take()
        await self.back(self.wish["workers"])

    async def back(self, names: Collection[str]) -> None:
        """Have them take tasks again, and wait until they do."""
        end, put = time.monotonic() + BACK_SECONDS, set[str]()
        while True:
            status = await self.ask(into_service, names, set(names) - put)
            put |= {name for name, what in status.items() if what == "closing_gracefully"}
            away = [name for name in names if status.get(name) not in {"running", "paused"}]
            if not away or time.monotonic() > end:
                break
            await asyncio.sleep(SETTLE_SECONDS)
        if came := sorted(put - set(away)):
            print(f"{', '.join(came)}: back in service")
        if told := [name for name in away if name in put]:
            raise FailedError(
                f"{', '.join(told)} did not come back into service within {BACK_SECONDS:.0f} s:"
                " it was told to, and will when what it runs lets it"
            )
        if away:
            raise FailedError(f"{', '.join(away)} is not in the cluster, after {BACK_SECONDS:.0f} s")


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
    except SupersededError as error:
        print(f"{', '.join(wish['workers'])}: {error}", file=sys.stderr)
        return 5
    except Exception as error:  # whatever the cause, it is one line for whoever waits
        kind = "" if isinstance(error, FailedError) else f"{type(error).__name__} "
        print(f"{', '.join(wish['workers'])}: {kind}{error}".strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
