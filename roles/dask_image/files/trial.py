"""Try, inside an image that is not of our making, whether it can be run as we run it.

trial.py packages          print the installed distributions as one line of JSON
trial.py dask UID GID      run a scheduler and a worker as our containers do; a line `refused: …` for each fault

Needs what a Dask image has, and nothing else.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

OLDEST = (2026, 1, 1)
SECONDS = 120
HERE = "127.0.0.1"
ASK = """
from distributed import Client
print(Client("tcp://127.0.0.1:8786", timeout=30).submit(sum, range(10)).result(timeout=30))
"""


def packages() -> list[str]:
    """Return the installed distributions, sorted."""
    return sorted({f"{found.metadata['Name']}=={found.version}" for found in distributions()})


def page(port: int, path: str) -> str:
    """Return a page's text; empty while it does not answer."""
    connection = HTTPConnection(HERE, port, timeout=5)
    with suppress(OSError, HTTPException):
        connection.request("GET", path)
        return connection.getresponse().read().decode(errors="replace")
    return ""


def healthy(port: int) -> bool:
    """Return whether the page that a container's health check asks says so."""
    return page(port, "/health").strip() == "ok"


def until(condition: Callable[[], bool], end: float) -> bool:
    """Return whether the condition came true before the end."""
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.3)
    return False


def faults(uid: int, gid: int) -> Iterator[str]:
    """Yield what is wrong, in words that say what it should be."""
    if (os.getuid(), os.getgid()) != (uid, gid):
        yield f"user: it runs as {os.getuid()}:{os.getgid()}; it must run as {uid}:{gid}"
    with suppress(OSError):
        Path("/probe").touch()
        yield "root: its root is writable; it must be read-only"
    if not shutil.which("python3"):
        yield "health: it has no python3 on its PATH, which the health check needs"
    try:
        found = version("distributed")
    except PackageNotFoundError:
        yield "dask: it has no distributed; it must have dask and distributed"
        return
    if tuple(int(part) for part in found.split("+")[0].split(".")[:3]) < OLDEST:
        yield f"dask: it has distributed {found}; it must be {'.'.join(map(str, OLDEST))} or newer"
        return
    yield from running()


def running() -> Iterator[str]:
    """Yield what is wrong with a scheduler and a worker that run."""
    end = time.monotonic() + SECONDS
    scheduler = [
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "8786",
        "--dashboard-address",
        "127.0.0.1:8787",
        "--no-show",
    ]
    worker = [
        *("worker", "tcp://127.0.0.1:8786", "--nworkers", "1", "--nthreads", "1", "--memory-limit", "512MiB"),
        *("--dashboard-address", "127.0.0.1:10200", "--local-directory", tempfile.gettempdir()),
    ]
    started = []
    try:
        for command in (scheduler, worker):
            started.append(subprocess.Popen(["dask", *command], stdout=sys.stderr))
        for port, name in ((8787, "scheduler"), (10200, "worker")):
            if not until(partial(healthy, port), end):
                yield f"health: the {name}'s /health does not answer within {SECONDS} s"
                return
            if f"dask_{name}_" not in page(port, "/metrics"):
                yield f"metrics: the {name}'s /metrics tells nothing; it needs prometheus_client"
        asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60, check=False)
        if asked.stdout.strip() != "45":
            yield f"dask: a client gets no result: {' '.join(asked.stderr.split()[-20:])}"
    except FileNotFoundError as error:
        yield f"dask: {error}; it must have the command dask"
    finally:
        for child in started:
            child.terminate()
        for child in started:
            with suppress(subprocess.TimeoutExpired):
                child.wait(20)
            child.kill()


def main() -> int:
    """Try; 0 when there is no fault."""
    if sys.argv[1] == "packages":
        print(json.dumps(packages()))
        return 0
    found = list(faults(int(sys.argv[2]), int(sys.argv[3])))
    for fault in found:
        print(f"refused: {fault}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
