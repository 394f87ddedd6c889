"""Hand over what a worker holds before it stops: a preload of the nanny, on its command line.

On SIGTERM (`docker stop`, the host's shutdown) `dask worker` closes its nanny, which awaits this teardown while the
worker still runs. The scheduler moves the worker's keys to others and gives it no more tasks; what it is executing
ends; then it leaves, and what was queued on it runs elsewhere. Nothing is lost and no task runs twice, if there is
somebody who can take it and it can be done within HOSTNET_STOP_TIMEOUT less what the worker's own end takes.

Whatever is in the way is logged, and the stop goes on as it would without this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

from distributed.comm.addressing import get_address_host_port
from distributed.core import Status
from distributed.protocol.pickle import dumps

# of the seconds until SIGKILL, those for the nanny (which gives its worker ten) and for Docker
KEPT_SECONDS = 15.0
# a scheduler that is gone must not hold up what starts again
ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.2
LONGEST_POLL_SECONDS = 2.0

# below distributed's logger, which is the one that is shown
logger = logging.getLogger("distributed.hostnet_handover")
_begun: set[int] = set()


def budget() -> float:
    """Return the seconds that a handover may take."""
    return max(0.0, float(os.environ.get("HOSTNET_STOP_TIMEOUT", "60")) - KEPT_SECONDS)


def busy(dask_worker: Any) -> int:
    """Return the number of tasks that the worker is executing; runs inside it."""
    return len(dask_worker.state.executing) + len(dask_worker.state.long_running)


async def asked(nanny: Any, address: str, remove: bool) -> bool:
    """Have the scheduler retire the worker; whether somebody has all of its keys."""
    answer = await nanny.scheduler.retire_workers(workers=[address], remove=remove, close_workers=False)
    return address in answer


async def hand_over(nanny: Any, address: str) -> str:
    """Move the worker's keys, let its tasks end, and take it from the scheduler; return what came of it."""
    host, port = get_address_host_port(nanny.scheduler.address)
    async with asyncio.timeout(ANSWER_SECONDS):
        # a dead one refuses at once, where Dask would try again for its 30 s
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        await nanny.scheduler.identity()
    if not await asked(nanny, address, remove=False):
        return "nobody can take the keys: they are lost"
    request = {"function": dumps(busy), "args": dumps(()), "kwargs": dumps({}), "wait": True}
    poll = POLL_SECONDS
    while True:
        answer = await nanny.rpc(address).run(**request)
        if answer["status"] != "OK":
            raise RuntimeError(str(answer.get("exception") or answer))
        # the scheduler hears of a task's end by another connection than this
        await asyncio.sleep(poll)
        if not answer["result"]:
            break
        # each question is a line in the worker's log
        poll = min(poll * 1.5, LONGEST_POLL_SECONDS)
    # results that came meanwhile; then what is queued is given to others
    if not await asked(nanny, address, remove=True):
        return "nobody can take the last results: they are lost"
    return "all is handed over"


async def dask_setup(nanny: Any) -> None:
    """Say that this is at work: Dask only logs a preload that fails."""
    logger.info("A stop with notice hands over within %.0f s", budget())


async def dask_teardown(nanny: Any) -> None:
    """Hand over, unless the worker is gone already; Dask may call this twice."""
    address, alive = nanny.worker_address, nanny.is_alive()
    if id(nanny) in _begun or not alive or not address or nanny.status != Status.closing:
        return
    _begun.add(id(nanny))
    start = time.monotonic()
    try:
        async with asyncio.timeout(budget()):
            said = await hand_over(nanny, address)
    except Exception as error:  # whatever it is, the worker has to stop
        said = f"not handed over: {type(error).__name__} {error}".strip()
    logger.info("Handover of %s after %.1f s: %s", address, time.monotonic() - start, said)
