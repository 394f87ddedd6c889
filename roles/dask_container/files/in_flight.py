"""Print what a scheduler has in flight as one line of JSON: tasks and stored keys, processing, bytes, clients.

Also the scheduler's id, and the names of its workers that are retired: a drain of them is under way or was cut off.

Runs in the scheduler's container (`python -`): the process there says on its command line where it listens, which the
inventory may no longer. In another (`python - tls://192.0.2.11:8786`) it asks the one at that address. It asks without
a client, which would count itself, and leaves out the clients that workers keep for their own tasks (joblib,
`get_client`) and those that the scheduler lists for published datasets: they stay for as long as the worker or the
scheduler does, and what they hold is counted as tasks. A scheduler that does not run or refuses connections has nothing
in flight.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from distributed.core import rpc
from distributed.protocol.pickle import dumps
from distributed.security import Security

DEADLINE = 20
NOTHING = {"tasks": 0, "processing": 0, "bytes": 0, "clients": 0, "scheduler": "", "retired": []}


def count(dask_scheduler: Any) -> dict[str, Any]:
    """Return the counts (bytes in B); runs inside the scheduler."""
    tasks, workers = dask_scheduler.tasks.values(), dask_scheduler.workers.values()
    # the scheduler itself lists "fire-and-forget", and one a published dataset, also after it was unpublished;
    # distributed.Worker names its clients "worker"
    own = ("fire-and-forget", "published-", "Client-worker-")
    return {
        "tasks": len(tasks),
        "processing": sum(task.state == "processing" for task in tasks),
        "bytes": sum(max(task.nbytes, 0) for task in tasks if task.who_has),
        "clients": sum(not name.startswith(own) for name in dask_scheduler.clients),
        "scheduler": dask_scheduler.id,
        "retired": sorted(str(worker.name) for worker in workers if worker.status.name == "closing_gracefully"),
    }


async def ask(address: str) -> dict[str, Any]:
    """Return the counts of the scheduler at the address.

    Raises:
        OSError: it cannot be reached, or not within the deadline.
        RuntimeError: it does not run what it is asked to (`distributed.scheduler.pickle: false`).
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), DEADLINE)
        writer.close()
    except ConnectionRefusedError:
        return NOTHING
    # without TLS there may be no certificates that the configuration names
    arguments = Security().get_connection_args("client") if address.startswith("tls://") else {}
    scheduler = rpc(address, connection_args=arguments)
    try:
        request = scheduler.run_function(function=dumps(count), args=dumps(()), kwargs=dumps({}), wait=True)
        answer = await asyncio.wait_for(request, DEADLINE)
    finally:
        await scheduler.close_rpc()
    if answer["status"] != "OK":
        raise RuntimeError(str(answer.get("exception") or answer))
    return dict(answer["result"])


def listening(processes: Path = Path("/proc")) -> str | None:
    """Return where the scheduler among the processes listens; None when there is none."""
    for file in processes.glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            # it has ended
            continue
        if "scheduler" in words and {"--host", "--port"} <= set(words):
            host, port = (words[words.index(option) + 1] for option in ("--host", "--port"))
            # one that was started before TLS came has no protocol
            protocol = words[words.index("--protocol") + 1] if "--protocol" in words else "tcp"
            return f"{protocol}://{host}:{port}"
    return None


def main() -> int:
    """Print the counts and return 0; of a scheduler that does not say, print why and return 1."""
    address = sys.argv[1] if len(sys.argv) > 1 else listening()
    try:
        print(json.dumps(asyncio.run(ask(address)) if address else NOTHING))
    except Exception as error:  # whatever the cause, it is one line for whoever waits
        print(f"{address}: {type(error).__name__} {error}".strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # not waiting for the thread that looks a name up, which no deadline ends
    os._exit(status)
