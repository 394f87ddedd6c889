"""The display of a step: one live line on a terminal, plain lines when piped."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import TextIO

from hostnet.errors import REFUSED
from hostnet.events import Recorder
from hostnet.runner import Result

LIVE_SECONDS = 0.5
PLAIN_SECONDS = 30.0
CLEAR = "\r\x1b[K"


class Progress:
    """Says which step and task runs, on how many of its hosts it is done, and for how long the step has run."""

    def __init__(self, stream: TextIO, *, live: bool | None = None, every: float | None = None) -> None:
        """Write to `stream`; `live` is found out from it when not given; `every` is the refresh in seconds."""
        self._stream = stream
        self._live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb" if live is None else live
        self._every = every or (LIVE_SECONDS if self._live else PLAIN_SECONDS)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._step = ""
        self._where = ""
        self._play = ""
        self._since = 0.0

    def say(self, text: str = "") -> None:
        """Print a line that stays."""
        with self._lock:
            self._stream.write(f"{CLEAR if self._live else ''}{text}\n")
            self._stream.flush()

    def start(self, step: str) -> Callable[[Recorder], None]:
        """Begin a step; what is returned takes its events."""
        self._step, self._where, self._play, self._since = step, "starting", "", time.monotonic()
        self._stop.clear()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()
        return self._update

    def end(self, summary: str | None = None) -> None:
        """End the step with a line that stays."""
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
            self._ticker = None
        if summary is not None:
            self.say(f"{self._step:<6} {summary}")
        elif self._live:
            with self._lock:
                self._stream.write(CLEAR)
                self._stream.flush()

    def _update(self, recorder: Recorder) -> None:
        hosts = f"  {len(recorder.finished)}/{len(recorder.started)} hosts" if recorder.started else ""
        self._where = f"{recorder.task or recorder.play}{hosts}"
        if not self._live and recorder.play != self._play:
            self._play = recorder.play
            self.say(f"{self._step:<6} {_clock(self._since)}  {self._play}")

    def _tick(self) -> None:
        while not self._stop.wait(self._every):
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                with self._lock:
                    self._stream.write(CLEAR + f"{self._step:<6} {_clock(self._since)}  {self._where}"[:width])
                    self._stream.flush()
            else:
                self.say(f"{self._step:<6} {_clock(self._since)}  … {self._where}")


def summary(result: Result) -> str:
    """One line on a step's result: `4 hosts ok, changed=0, 63 s`; without hosts where only this machine was at work."""
    # a play on this machine beside those on the hosts is not a host of theirs
    hosts = [stats for name, stats in result.hosts.items() if name != "localhost"]
    good = sum(stats.good for stats in hosts)
    words = [] if result.ok else ["REFUSED" if result.status == REFUSED else "FAILED"]
    if hosts:
        words.append(f"{good} host{'s' if good != 1 else ''} ok")
        words += [] if result.ok else [f"{len(hosts) - good} failed"]
    return ", ".join([*(words or ["ok"]), f"changed={result.changed}", f"{result.seconds:.0f} s"])


def report(result: Result) -> list[str]:
    """Return the few lines that a failure needs: host, task, cause, log; of a refusal its message."""
    if result.status == REFUSED:
        return [f"  {line}" for failure in result.failures for line in failure.cause]
    lines = []
    for failure in result.failures:
        where = ": ".join(part for part in (", ".join(failure.hosts), failure.task) if part)
        lines += [f"  {where}" if where else "  Ansible:", *(f"    {line}" for line in failure.cause)]
    return [*lines, f"  log: {result.log}"]


def _clock(since: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - since), 60)
    return f"{minutes}:{seconds:02d}"
