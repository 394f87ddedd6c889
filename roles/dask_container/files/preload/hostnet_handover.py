"""Hand over what a worker holds before it stops: a preload of the nanny, on its command line.

On SIGTERM (`docker stop`, the host's shutdown) `dask worker` closes its nanny, which awaits this teardown while the
worker still runs. The scheduler moves the worker's keys to others and gives it no more tasks; what it is executing
ends; then it leaves, and what was queued on it runs elsewhere. Nothing is lost and no task runs twice, if there is
somebody who can take it and it can be done within HOSTNET_STOP_TIMEOUT less what the worker's own end takes. What
still runs then is run again elsewhere. Actors cannot be moved: they are lost, the rest is not.

Whatever is in the way is logged, and the stop goes on as it would without this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from typing import Any

from distributed.comm.addressing import get_address_host_port
from distributed.core import Status
from distributed.protocol.pickle import dumps

# of the seconds until SIGKILL, those for the nanny (which gives its worker ten) and for Docker
KEPT_SECONDS = 15.0
# of those for the handover, the ones that the last results have, at most half of them
LAST_SECONDS = 10.0
# for a worker to say what it is executing, for the scheduler's host to accept a connection; the least that the
# scheduler has for its answer
ANSWER_SECONDS = 5.0
# between two tries where others are there but take nothing, and between two moves of what ended meanwhile
RETRY_SECONDS = 2.0
SWEEP_SECONDS = 5.0
POLL_SECONDS = 0.2
LONGEST_POLL_SECONDS = 2.0

# below distributed's logger, which is the one that is shown
logger = logging.getLogger("distributed.hostnet_handover")
_begun: set[int] = set()


def budget() -> float:
    """Return the seconds that a handover may take."""
    return max(0.0, float(os.environ.get("HOSTNET_STOP_TIMEOUT", "60")) - KEPT_SECONDS)


def at_work(dask_worker: Any) -> tuple[int, int]:
    """Return the numbers of tasks that the worker is executing and of its actors; runs inside it."""
    state = dask_worker.state
    return len(state.executing) + len(state.long_running), len(state.actors)


async def all_but_actors(address: str, remove: bool, dask_scheduler: Any) -> bool:
    """Do what `retire_workers` does, which refuses a worker with actors; runs inside the scheduler."""
    worker = dask_scheduler.workers.get(address)
    if worker is None:
        return True
    stimulus = f"hostnet-handover-{time.time()}"
    if worker.status != Status.closing_gracefully:
        dask_scheduler.handle_worker_status_change(Status.closing_gracefully, worker, stimulus)
        told = {"op": "worker-status-change", "status": "closing_gracefully", "stimulus_id": stimulus}
        dask_scheduler.stream_comms[address].send(told)
    staying = set(dask_scheduler.running)
    keys = [task.key for task in worker.has_what if not task.actor and not task.who_has & staying]
    if keys and not staying:
        return False
    if keys:
        await dask_scheduler.replicate(keys, n=1, workers=[each.address for each in staying])
    if remove:
        await dask_scheduler.remove_worker(address, expected=True, close=False, stimulus_id=stimulus)
    return True


async def run(where: Any, function: Any, *arguments: Any) -> Any:
    """Run a function where `where` runs functions."""
    answer = await where(function=dumps(function), args=dumps(arguments), kwargs=dumps({}), wait=True)
    if answer["status"] != "OK":
        raise RuntimeError(str(answer.get("exception") or answer))
    return answer["result"]


class Handover:
    """One worker's; Dask's own deadlines are longer than the caller's."""

    def __init__(self, nanny: Any, address: str) -> None:
        """Begin with nothing moved."""
        self.nanny, self.address = nanny, address
        self.actors = 0

    async def busy(self) -> bool:
        """Whether the worker is executing something; one that does not say is."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                tasks, self.actors = await run(self.nanny.rpc(self.address).run, at_work)
        except TimeoutError:
            # a task keeps all of the interpreter to itself
            return True
        return bool(tasks)

    async def others(self) -> bool:
        """Whether there are workers that can take something, now or later."""
        workers = (await self.nanny.scheduler.identity())["workers"]
        return any(
            address != self.address and worker["status"] in {"init", "running", "paused"}
            for address, worker in workers.items()
        )

    async def moved(self, remove: bool) -> bool:
        """Have the worker retired; whether somebody has all of its keys."""
        if self.actors:
            return bool(await run(self.nanny.scheduler.run_function, all_but_actors, self.address, remove))
        answer = await self.nanny.scheduler.retire_workers(workers=[self.address], remove=remove, close_workers=False)
        return self.address in answer

    async def until_idle(self) -> bool:
        """Move keys until the worker runs nothing; False when nobody can ever take them."""
        poll, swept = POLL_SECONDS, 0.0
        while True:
            busy = await self.busy()
            if swept and not busy:
                # the scheduler hears of a task's end by another connection than this
                await asyncio.sleep(POLL_SECONDS)
                return True
            if not swept or time.monotonic() - swept > SWEEP_SECONDS:
                if await self.moved(remove=False):
                    swept = time.monotonic()
                elif not await self.others():
                    return False
                else:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
            await asyncio.sleep(poll)
            # each question is a line in the worker's log
            poll = min(poll * 1.5, LONGEST_POLL_SECONDS)

    async def whole(self, seconds: float) -> str:
        """Move the worker's keys, let its tasks end, and take it from the scheduler; return what came of it."""
        ending = asyncio.get_running_loop().time() + max(seconds - LAST_SECONDS, seconds / 2)
        host, port = get_address_host_port(self.nanny.scheduler.address)
        async with asyncio.timeout(ANSWER_SECONDS):
            # a dead one refuses at once, or its host is silent, where Dask would try again for its 30 s
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
        # one that hangs must not hold up what starts again, one that is busy may take a while
        async with asyncio.timeout(max(ANSWER_SECONDS, seconds / 3)):
            await self.nanny.scheduler.identity()
        said = "all is handed over"
        try:
            async with asyncio.timeout_at(ending):
                if not await self.until_idle():
                    return "nobody can take the keys: they are lost"
        except TimeoutError:
            said = "what it still runs is run again elsewhere, the rest is handed over"
        # results that came meanwhile; then what is queued or runs is given to others, and is no failure of theirs
        if not await self.moved(remove=True):
            return "nobody can take the last results: they are lost"
        return f"{said}, but for {self.actors} actors, which are lost" if self.actors else said


async def dask_setup(nanny: Any) -> None:
    """Say that this is at work: Dask only logs a preload that fails."""
    logger.info("A stop with notice hands over within %.0f s", budget())


async def dask_teardown(nanny: Any) -> None:
    """Hand over, unless the worker is gone already; Dask may call this twice."""
    address, alive = nanny.worker_address, nanny.is_alive()
    if id(nanny) in _begun or not alive or not address or nanny.status != Status.closing:
        return
    _begun.add(id(nanny))
    # a second signal would end the nanny in the midst of it: Dask has put the default actions back at the first one
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
    start = time.monotonic()
    try:
        async with asyncio.timeout(budget()):
            said = await Handover(nanny, address).whole(budget())
    except Exception as error:  # whatever it is, the worker has to stop
        said = f"not handed over: {type(error).__name__} {error}".strip()
    logger.info("Handover of %s after %.1f s: %s", address, time.monotonic() - start, said)
