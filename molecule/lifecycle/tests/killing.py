"""A playbook that is killed: SIGKILL to the control process and all that it started, as a task begins."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from conftest import DEADLINE, INVENTORY, OPERATOR, ROOT, kill

# how many a verb is killed at, spread over its tasks
MOMENTS = 20
BEGUN = re.compile(r"^TASK \[(.*?)\] \*", re.MULTILINE)


def killed(
    playbook: Path,
    *arguments: str,
    at: str | int,
    inventory: Path = INVENTORY,
    when: Callable[[], bool] = lambda: True,
) -> str | None:
    """Kill a run at its task whose name begins so, or of that number; return its output, None if it ended before.

    From that task's beginning on it is killed as soon as `when` says so. What it started on a
    host goes on there, as it would for an operator.
    """
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory / "hosts.yml"), *arguments]
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as output:
        running = psutil.Popen(
            [*command, str(playbook)],
            cwd=ROOT,
            env=OPERATOR,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        end = time.monotonic() + DEADLINE

        def text() -> str:
            return Path(output.name).read_text(encoding="utf-8", errors="replace")

        def reached() -> bool:
            begun = BEGUN.findall(text())
            return len(begun) >= at if isinstance(at, int) else any(name.startswith(at) for name in begun)

        try:
            while running.poll() is None and not (reached() and when()):
                assert time.monotonic() < end, f"{playbook.name} has not come to {at} within {DEADLINE} s: {text()}"
                time.sleep(0.05)
            done = running.poll() is not None
        finally:
            kill(running)
        return None if done else text()


def task_at(moment: int, length: int) -> int:
    """Return the number of the task, of `length`, that the moment is at."""
    return 1 + length * moment // MOMENTS
