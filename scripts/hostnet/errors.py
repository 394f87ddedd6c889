"""Exit statuses of a command, the errors that end it with one line, and how it says that line."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable

DONE = 0
FAILED = 1
UNREACHABLE = 3
REFUSED = 4
STOPPED = "stopped; what was done stays, run the same command again to go on"


class HostnetError(Exception):
    """Ends the command: its text is the line that the user sees, `status` the exit status."""

    status = FAILED


class RefusedError(HostnetError):
    """A guard said no before anything was touched."""

    status = REFUSED


class InterruptedRunError(HostnetError):
    """A signal asked the command to stop; 128 + signal is what a shell reports."""

    def __init__(self, signum: int, words: str = STOPPED) -> None:
        """Remember which signal it was."""
        super().__init__(words)
        self.status = 128 + signum


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return those of the signals that are not ignored, as a hang-up is under nohup."""
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def ended(name: str, command: Callable[[], int], stopped: str = STOPPED) -> int:
    """Return the exit status of a command; what ends it early is one line on stderr.

    A request to terminate and a terminal that closes are what Ctrl-C is, where they are heeded.
    """
    for number in heeded((signal.SIGTERM, signal.SIGHUP)):
        signal.signal(number, signal.default_int_handler)
    try:
        return command()
    except KeyboardInterrupt:
        error: HostnetError = InterruptedRunError(signal.SIGINT, stopped)
    except HostnetError as raised:
        error = raised
    except EOFError:
        error = HostnetError("no answer came from the terminal")
    except (OSError, subprocess.TimeoutExpired) as raised:
        error = HostnetError(str(raised))
    print(f"{name}: {error}", file=sys.stderr)
    return error.status
