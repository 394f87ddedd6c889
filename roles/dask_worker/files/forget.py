"""Have the scheduler let go of the workers of a host that is dead, or say which they are.

Runs in the scheduler's container (`python - JSON`). The JSON: scheduler, its address; host, by whose name its workers
begin; look, to say only. Exit status: 0 done, 1 failed.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

from distributed import Client

ANSWER_SECONDS = 20.0


async def forget(host: str, look: bool, dask_scheduler: Any) -> list[str]:
    """Let go of the host's workers, and return a line for each; runs inside the scheduler."""
    mine = re.compile(rf"{re.escape(host)}-\d+")
    workers = [worker for worker in dask_scheduler.workers.values() if mine.fullmatch(str(worker.name))]
    workers.sort(key=lambda worker: str(worker.name))
    lines = []
    for worker in workers:
        sole = [task for task in worker.has_what if set(task.who_has) <= set(workers)]
        size = sum(max(task.nbytes, 0) for task in sole)
        lines.append(
            f"{worker.name}: {'would be ' if look else ''}let go of: {len(sole)} keys ({size} bytes) were nowhere else,"
            f" {len(worker.processing)} tasks were there; what was computed is computed again, what was scattered is"
            " lost"
        )
    if not look:
        for worker in workers:
            # its death is no fault of the tasks that it had
            await dask_scheduler.remove_worker(worker.address, stimulus_id="hostnet-remove", expected=True)
    return lines or [f"{host}: the scheduler knows no worker of it"]


async def run(wish: dict[str, Any]) -> list[str]:
    """Tell the scheduler, and return what it says."""
    async with Client(wish["scheduler"], asynchronous=True, timeout=ANSWER_SECONDS, set_as_default=False) as client:
        told = client.run_on_scheduler(forget, host=wish["host"], look=wish["look"])
        return list(await asyncio.wait_for(told, ANSWER_SECONDS))


def main() -> int:
    """Do it and return 0; else print why not, on one line, and return 1."""
    wish = json.loads(sys.argv[1])
    try:
        print("\n".join(asyncio.run(run(wish))))
    except Exception as error:  # whatever the cause, it is one line for whoever waits
        print(f"{type(error).__name__} {error}".strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
