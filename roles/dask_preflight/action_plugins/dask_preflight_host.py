"""Runs the module of the same name, and reads the host's clock between two readings of the control machine's."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Looks at a host, and at the clocks on both sides."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result with `clock`: the host's time and when it was asked and heard, in seconds."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        if not result.get("failed"):
            # by itself, so that little time lies between the two readings of this clock
            asked = time.time()
            said = self._low_level_execute_command("date +%s.%N", sudoable=False)
            heard = time.time()
            result["clock"] = {"asked": asked, "heard": heard, "host": float(said["stdout"].strip())}
        return result
