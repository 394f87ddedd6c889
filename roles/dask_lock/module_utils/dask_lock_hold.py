"""The operators' lock: a file on the scheduler's host that says who is at work on the cluster.

As a program (`dask_lock_hold.py FILE TOKEN -- COMMAND...`) it runs a command and renews the lock meanwhile. Input,
output and exit status are the command's; a signal that ends it ends the command. Where the lock is another's, that is
said and the command goes on: to end it half way helps nobody. Where there is no lock there is nothing to renew.

The standard library alone: this file lies beside the lock while that is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RENEW_SECONDS = 5
# who has the file to itself needs milliseconds
TURN_SECONDS = 10
TURN_POLL_SECONDS = 0.02
ENDED_BY = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

Record = dict[str, Any]


def uptime() -> float:
    """Return the seconds since the host's boot: ages are measured by it, which no clock that is set can shift."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def booted() -> str:
    """Return what tells this boot of the host from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def read(path: Path) -> Record | None:
    """Return who holds the lock; None where nobody does, or it is of another boot of this host."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and "token" in record and record.get("booted") == booted() else None


def age(record: Record) -> float:
    """Return the seconds since the lock was renewed."""
    return uptime() - float(record["uptime"])


def renewed(record: Record) -> Record:
    """Return it as of now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return record | {"renewed": now, "uptime": uptime(), "booted": booted()}


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Have the file to oneself.

    Raises:
        TimeoutError: another process kept it.
    """
    end = time.monotonic() + TURN_SECONDS
    while True:
        # for root alone: who may open a file can keep it from others
        opened = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # one that was replaced or removed meanwhile is nobody's
                if path.exists() and path.stat().st_ino == os.fstat(opened).st_ino:
                    yield
                    return
        finally:
            os.close(opened)
        if time.monotonic() > end:
            raise TimeoutError(f"{path} is kept by another process for {TURN_SECONDS} s")
        time.sleep(TURN_POLL_SECONDS)


def place(path: Path, content: str) -> None:
    """Have that content in the file, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    part.replace(path)


def change(path: Path, judge: Callable[[Record | None], Record | None]) -> Record | None:
    """Have in the file what `judge` makes of what is there, whole or not at all; None is no file. Return that."""
    with turn(path):
        before = read(path)
        after = judge(before)
        if after is None:
            path.unlink()
        elif after is not before:
            place(path, json.dumps(after) + "\n")
        return after


def renew(path: Path, token: str) -> bool:
    """Renew the lock if it is this token's; False, after saying so, if it is another's."""
    if not path.exists():
        return True
    try:
        now = change(path, lambda was: renewed(was) if was and was["token"] == token else was)
    except OSError as error:
        # another time perhaps
        print(f"the lock is not renewed: {error}", file=sys.stderr, flush=True)
        return True
    if now is None or now["token"] == token:
        return True
    print(f"the lock is not ours any more, but {now['user']}@{now['control']}'s", file=sys.stderr, flush=True)
    return False


def end_with_parent() -> None:
    """Have the kernel end this process when its parent was killed, which can hand on nothing."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415  # a small Python has none

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def hold(path: Path, token: str, command: list[str]) -> int:
    """Run the command and return its status, negative for the signal that ended it."""
    ours = renew(path, token)
    awaited = {signal.SIGCHLD, *ENDED_BY}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    def begin() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end_with_parent()

    try:
        # the shell of an operator is not waited for, and nothing else runs in this process
        child = subprocess.Popen(command, preexec_fn=begin)  # noqa: PLW1509
    except OSError as error:
        print(error, file=sys.stderr)
        return 127
    while (status := child.poll()) is None:
        got = signal.sigtimedwait(awaited, RENEW_SECONDS)
        if got and got.si_signo in ENDED_BY:
            child.send_signal(got.si_signo)
        elif not got:
            ours = ours and renew(path, token)
    return status


def main() -> int:
    """Hold the lock for a command."""
    path, token, _, *command = sys.argv[1:]
    status = hold(Path(path), token, command)
    if status < 0:
        # of the one that nobody can handle
        with contextlib.suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(main())
