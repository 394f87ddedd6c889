"""Wait until the scheduler of this host has nothing in flight, and show each time what it has."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# seconds between two questions; and for one, whose own deadline is shorter
INTERVAL = 10
DEADLINE = 60
# a scheduler that is not there holds nothing; one that does not answer may hold everything
ABSENT = re.compile("No such container|is not running|is restarting")


def told(answer: dict[str, Any], silent: bool = False) -> tuple[bool, str]:
    """Return whether the answer to `docker exec … in_flight.py` means that nothing is in flight, and what it says.

    Args:
        answer: of the module that ran it.
        silent: whether a scheduler that does not answer has nothing, as no client ever met it.
    """
    said = str(answer.get("stderr") or answer.get("msg") or "").strip()
    if answer.get("rc") == 0:
        flight = json.loads(answer["stdout"])
        return flight["tasks"] == 0 and flight["clients"] == 0, (
            f"{flight['tasks']} tasks or stored keys ({flight['bytes']} bytes), of which {flight['processing']}"
            f" processing, and {flight['clients']} clients"
        )
    if ABSENT.search(said):
        return True, "no scheduler, and so nothing"
    return silent, f"a scheduler that does not answer: {said or 'not within ' + str(DEADLINE) + ' s'}"


class ActionModule(ActionBase):  # type: ignore[misc] # ansible has no types
    """Waits by `question` (in_flight.py), run after the words of `hold`.

    Takes `wait` (seconds; 0 asks once), `force` (lose the rest), `silent` (what does not answer has nothing),
    `rehearsal` (ask once, and say what would be done) and `remedy` (a text) too.
    """

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Return when nothing is in flight, or fail after the wait; `lost` says what is given up with `force`."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "")
        wait, force = float(self._task.args["wait"]), bool(self._task.args["force"])
        end = time.monotonic() + wait
        while True:
            idle, words = told(self._ask(task_vars), bool(self._task.args["silent"]))
            left = end - time.monotonic()
            if idle:
                return result | {"changed": False, "lost": ""}
            if self._task.args["rehearsal"]:
                then = "lose what is left" if force else "fail"
                Display().display(f"{host}: the cluster has {words}; would wait {wait:.0f} s at most, and then {then}")
                return result | {"changed": False, "lost": ""}
            if left <= 0:
                break
            Display().display(f"{host}: the cluster has {words}; waiting {left:.0f} s more at most")
            time.sleep(min(INTERVAL, left))
        if force:
            Display().display(f"{host}: the cluster has {words} after {wait:.0f} s: LOST, as it was asked for")
            return result | {"changed": False, "lost": words}
        remedy = self._task.args["remedy"]
        return result | {"failed": True, "msg": f"{host}: the cluster has {words} after {wait:.0f} s. {remedy}"}

    def _ask(self, task_vars: Any) -> dict[str, Any]:
        # as root, who reads the key also when its group is about to be another
        command = [
            *self._task.args["hold"],
            "timeout",
            str(DEADLINE),
            "docker",
            "exec",
            "--interactive",
            "--user",
            "0:0",
            "dask-scheduler",
            "python",
            "-",
        ]
        answer: dict[str, Any] = self._execute_module(
            module_name="ansible.legacy.command",
            module_args={"argv": command, "stdin": self._task.args["question"]},
            task_vars=task_vars,
        )
        return answer
