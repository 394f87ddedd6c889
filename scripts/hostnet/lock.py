"""One command at a time on one thing of a checkout."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostnet.errors import RefusedError


@contextmanager
def only_one(checkout: Path, name: str) -> Iterator[None]:
    """Hold the lock `name` of the checkout; the kernel frees it whatever happens to this process.

    Raises RefusedError where another process holds it.
    """
    path = checkout / ".hostnet" / f"{name}.lock"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise RefusedError(f"process {holder} already works on the {name} of {checkout}: wait for it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
