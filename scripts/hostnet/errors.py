"""Exit statuses of the command, and the errors that end it with one line."""

DONE = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
REFUSED = 4


class HostnetError(Exception):
    """Ends the command: its text is the line that the user sees, `status` the exit status."""

    status = FAILED


class RefusedError(HostnetError):
    """A guard said no before anything was touched."""

    status = REFUSED


class InterruptedRunError(HostnetError):
    """A signal asked the command to stop; 128 + signal is what a shell reports."""

    def __init__(self, signum: int) -> None:
        """Remember which signal it was."""
        super().__init__("stopped; what was done stays, run the same command again to go on")
        self.status = 128 + signum
