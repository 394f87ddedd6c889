"""A dead host's workers are let go of: roles/dask_worker/files/forget.py, with a scheduler and workers of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from distributed import Client, Scheduler, Worker
from loading import load

SCRIPT = Path(__file__).parents[1] / "roles/dask_worker/files/forget.py"


def test_only_workers_of_that_host_are_let_go_of_and_their_tasks_are_run_again() -> None:
    forget = load(SCRIPT)

    async def scene() -> tuple[list[str], list[str], list[str], list[str], int]:
        options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        async with Scheduler(port=0, **options) as scheduler:
            names = ("dead-0", "dead-1", "dead-too-0", "alive-0")
            workers = [Worker(scheduler.address, name=name, nthreads=1, **options) for name in names]
            for worker in workers:
                await worker
            wish = {"scheduler": scheduler.address, "host": "dead", "look": True}
            async with Client(scheduler.address, asynchronous=True, set_as_default=False) as client:
                kept = client.submit(lambda: 7, workers=["dead-0"], allow_other_workers=True, key="kept")
                assert await kept == 7
                looked = await forget.run(wish)
                there = [str(worker.name) for worker in scheduler.workers.values()]
                told = await forget.run(wish | {"look": False})
                left = [str(worker.name) for worker in scheduler.workers.values()]
                again = await asyncio.wait_for(kept, 30)
                last = await forget.run(wish | {"look": False})
                assert last == ["dead: the scheduler knows no worker of it"]
            for worker in workers:
                await worker.close(nanny=False)
            return looked, there, told, left, again

    looked, there, told, left, again = asyncio.run(scene())
    assert sorted(there) == ["alive-0", "dead-0", "dead-1", "dead-too-0"]
    assert [line.partition(":")[0] for line in looked] == ["dead-0", "dead-1"]
    assert "would be let go of: 1 keys" in looked[0]
    assert "dead-0: let go of: 1 keys" in told[0]
    assert sorted(left) == ["alive-0", "dead-too-0"]
    assert again == 7
