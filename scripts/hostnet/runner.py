"""One playbook through ansible-runner: its output in a log file, its events in a Recorder, signals passed on."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import ansible_runner

from hostnet.errors import DONE, FAILED, REFUSED, UNREACHABLE, InterruptedRunError, heeded
from hostnet.events import Failure, HostStats, Recorder

# after the signal Ansible gets this long to end its workers; then ansible-runner kills it
GRACE = 10.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Run:
    """What to run: paths relative to `checkout`, whose ansible.cfg holds; `deadline` in seconds."""

    checkout: Path
    playbook: str
    inventory: str
    log: Path
    deadline: float
    extra_vars: Mapping[str, object]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Result:
    """What came of it: `shown` is what debug tasks printed, by task name; `seconds` is how long it took."""

    ok: bool
    hosts: Mapping[str, HostStats]
    failures: tuple[Failure, ...]
    shown: Mapping[str, list[str]]
    log: Path
    seconds: float

    @property
    def changed(self) -> int:
        """Changes on all hosts together."""
        return sum(host.changed for host in self.hosts.values())

    @property
    def status(self) -> int:
        """The exit status that this result means."""
        if self.ok:
            return DONE
        if any(failure.refused for failure in self.failures):
            return REFUSED
        return UNREACHABLE if any(failure.unreachable for failure in self.failures) else FAILED


class Stop:
    """Why and how a running Ansible is stopped: a signal to this process, or its deadline.

    Ansible's workers lead sessions of their own, so killing its process group leaves them running: the main process
    is told instead, which tells them.
    """

    def __init__(self, deadline: float) -> None:
        """Count the `deadline` in seconds from now."""
        self.pid: int | None = None
        self.signum: int | None = None
        self.timed_out = False
        self._ends = time.monotonic() + deadline
        self._kill_at: float | None = None
        self._signals = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Take over the signals, but those that are ignored."""
        self._before = {number: signal.signal(number, self._received) for number in heeded(STOP_SIGNALS)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = signum
        self._signals += 1

    def must_kill(self) -> bool:
        """Ask Ansible to end when it is time; true once it had its grace. ansible-runner calls this every second."""
        now = time.monotonic()
        self.timed_out = self.timed_out or now > self._ends
        if self.signum is None and not self.timed_out:
            return False
        if self._kill_at is None:
            self._kill_at = now + GRACE
            if self.pid is None:
                return True
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                return True
        return self._signals > 1 or now > self._kill_at


def run(what: Run, progress: Callable[[Recorder], None]) -> Result:
    """Run the playbook to its end and call `progress` after every event.

    Raises InterruptedRunError when a signal ended it.
    """
    recorder = Recorder()
    start = time.monotonic()
    what.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        what.log.open("w", encoding="utf-8") as log,
        tempfile.TemporaryDirectory(prefix="hostnet-") as private,
        Stop(what.deadline) as stop,
    ):

        def on_event(event: dict[str, Any]) -> bool:
            if event.get("event") == "playbook_on_start":
                stop.pid = int(event["pid"])
            if event.get("stdout"):
                log.write(event["stdout"] + "\n")
                log.flush()
            recorder.record(event)
            progress(recorder)
            return False  # nothing of it is kept as an artifact

        outcome = ansible_runner.run(
            private_data_dir=private,
            project_dir=str(what.checkout),
            playbook=what.playbook,
            inventory=[what.inventory],
            extravars=dict(what.extra_vars),
            envvars=_environment(what),
            settings={"pexpect_timeout": 1},
            # facts are kept as ansible.cfg says, not in runner's own files
            fact_cache_type="",
            quiet=True,
            event_handler=on_event,
            cancel_callback=stop.must_kill,
        )
    if stop.signum is not None:
        raise InterruptedRunError(stop.signum)
    failures = recorder.failures()
    ok = outcome.rc == 0
    if not ok and stop.timed_out:
        late = f"not done after {what.deadline:.0f} s, stopped"
        failures = (*failures, Failure(tuple(sorted(recorder.started - recorder.finished)), recorder.task, (late,)))
    elif not ok and not failures:
        failures = (Failure((), "", (f"ansible-playbook ended with status {outcome.rc}",)),)
    return Result(ok, recorder.hosts, failures, recorder.shown, what.log, time.monotonic() - start)


def _environment(what: Run) -> dict[str, str]:
    tools = str(Path(sys.executable).parent)
    return {
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ANSIBLE_CONFIG": str(what.checkout / "ansible.cfg"),
        # ansible-runner would switch it off
        "ANSIBLE_HOST_KEY_CHECKING": os.environ.get("ANSIBLE_HOST_KEY_CHECKING", "True"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        # Ansible refuses to start without UTF-8
        "LC_ALL": "C.UTF-8",
        **what.environment,
    }
