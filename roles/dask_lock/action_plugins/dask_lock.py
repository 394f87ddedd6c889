"""Asks for the operators' lock as this run of ansible-playbook, and judges whether a holder of this machine is gone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pwd
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

HOLD = Path(__file__).parent.parent / "module_utils/dask_lock_hold.py"
# a host that was just started has no such file, and its commands run as they are
HELD = 'if [ -f "$0" ]; then exec /usr/bin/python3 -I "$0" "$@"; fi; shift 3; exec "$@"'
IGNORE = "-e hostnet_ignore_lock=true"
# in /proc/<pid>/stat, after the name in brackets
STATE, START = 0, 19
# a holder that is gone may be followed by others that are, but not often
TURNS = 3
# after the run has ended its keeper lives on for this long at most
WATCH_SECONDS = 1


def stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on; none where they cannot be seen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def this_run() -> int:
    """Return the process of ansible-playbook; a task runs in one that it forked, whichever process group that has."""
    parent = multiprocessing.parent_process()
    return parent.pid if parent and parent.pid else os.getpid()


def this_machine() -> dict[str, str]:
    """Return what tells the place where a process id means something: a boot, and in it a container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return {"control": os.uname().nodename, "boot": f"{boot} {Path('/proc/self/ns/pid').readlink()}"}


def user() -> str:
    """Return the name of the user of this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def identity() -> dict[str, Any]:
    """Return who this run is.

    Raises:
        ProcessLookupError: ansible-playbook was killed meanwhile.
    """
    pid, machine = this_run(), this_machine()
    fields = stat(pid)
    if not fields:
        raise ProcessLookupError(f"the run's process {pid} is gone")
    token = f"{machine['control']} {machine['boot']} {pid} {fields[START]}"
    return {"user": user(), **machine, "pid": pid, "start": fields[START], "token": token}


def has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder of this machine, whatever name that has now, is no process any more."""
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    fields = stat(int(holder["pid"]))
    # one that is there and cannot be seen is somebody else's
    return bool(fields) and (fields[STATE] in "ZX" or fields[START] != holder["start"])


def is_gone(holder: dict[str, Any]) -> bool:
    """Whether a holder was a process of this machine and is none any more; another machine's is never known to be."""
    return {name: holder.get(name) for name in ("control", "boot")} == this_machine() and has_ended(holder)


def words(path: str, token: str) -> list[str]:
    """Return what stands before a command by which the lock is renewed while it runs."""
    return ["/bin/sh", "-c", HELD, f"{path}.py", path, token, "--"]


def kept_by(run: dict[str, Any]) -> str:
    """Return the name of the socket by which a run has one keeper; it goes with its process."""
    return f"\0dask-hostnet lock {run['boot']} {run['pid']} {run['start']}"


def end_with(run: dict[str, Any]) -> None:
    """End this process, and what it started, when the run has ended."""
    try:
        # it is no child of this process, which could be waited for
        while not has_ended(run):
            time.sleep(WATCH_SECONDS)
    finally:
        os.killpg(0, signal.SIGKILL)


def keep(run: dict[str, Any], every: float, renew: Callable[[], object]) -> None:
    """Leave a keeper, which renews the lock from time to time until the run ends; one that is there goes on.

    No step of a run is too long then. It is a fork of the task, which alone has the connection and its passwords.
    Nobody waits for it, whatever the host does.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as alone:
        try:
            alone.bind(kept_by(run))
        except OSError:
            return
        if os.fork():
            return
        try:
            # no signal to the task's group is meant for it
            os.setsid()
            threading.Thread(target=end_with, args=(run,)).start()
            while True:
                time.sleep(every)
                # whatever is in the way, it may not be the next time
                with contextlib.suppress(Exception):
                    renew()
        finally:
            # the rest is the task's to do
            os._exit(0)


def who(holder: dict[str, Any]) -> str:
    """Return the holder in words."""
    user, control, pid, verb, since = (holder.get(name) for name in ("user", "control", "pid", "verb", "since"))
    return f"{user}@{control} (pid {pid}): {verb} since {since}"


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Takes `path`, `state` (taken, renewed, released), `verb`, and `required`: whether a silent host refuses.

    While the run lives, the lock that it has is renewed `every` so many seconds.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return `hold`, the words before a command on that host by which the lock is renewed while it runs."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        wanted = self._task.args
        host = self._task.delegate_to or (task_vars or {})["inventory_hostname"]
        try:
            wish = identity() | {"verb": wanted["verb"]}
            if wanted["state"] == "released":
                seen = self._ask(task_vars, state="free", wish=wish)
            else:
                seen = self._take(task_vars, host, wish)
        except (AnsibleConnectionFailure, OSError) as error:
            seen = {"failed": True, "msg": str(error)}
        if seen.get("failed"):
            why = " ".join(str(seen.get("module_stderr") or seen.get("msg")).split())
            said = f"{host}: whether another operator is at work cannot be asked there: {why}"
            if wanted["state"] == "taken" and wanted.get("required", True):
                return result | {"failed": True, "changed": False, "msg": f"{said}; mend that, or {IGNORE}"}
            self._display.display(f"{said}; gone on without")
            return result | {"changed": False, "hold": [], "holder": {}}
        holder = seen["holder"]
        if wanted["state"] != "released" and holder["token"] != wish["token"]:
            refusal = f"{host}: locked by {who(holder)}, last renewed {seen['age']} s ago; wait for it, or {IGNORE}"
            return result | {
                "failed": True,
                "changed": False,
                "holder": holder,
                "msg": f"{refusal} if you know that it is gone",
            }
        hold = words(wanted["path"], wish["token"])
        if wanted["state"] != "released":
            renew = shlex.join([*hold, "true"])
            keep(wish, float(wanted["every"]), lambda: self._low_level_execute_command(renew))
        return result | {"changed": False, "hold": hold, "holder": holder}

    def _take(self, task_vars: dict[str, Any] | None, host: str, wish: dict[str, Any]) -> dict[str, Any]:
        """Return what there is after it was asked for."""
        gone = ""
        for _ in range(TURNS):
            program = HOLD.read_text(encoding="utf-8")
            seen = self._ask(task_vars, state="held", wish=wish, gone=gone, program=program)
            if seen.get("failed"):
                return seen
            before = seen["before"]
            if before:
                why = "that process is gone" if before["token"] == gone else f"last renewed {seen['age']} s ago"
                self._display.display(f"{host}: the lock is taken over from {who(before)}: {why}")
            if seen["holder"]["token"] == wish["token"] or not is_gone(seen["holder"]):
                return seen
            gone = seen["holder"]["token"]
        return seen

    def _ask(self, task_vars: dict[str, Any] | None, **arguments: Any) -> dict[str, Any]:
        """Run the module on the host."""
        asked: dict[str, Any] = self._execute_module(
            module_name="dask_lock", module_args={"path": self._task.args["path"], **arguments}, task_vars=task_vars
        )
        return asked
