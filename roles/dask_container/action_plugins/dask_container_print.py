"""Print lines as they are, to be read by people or piped to a program; Ansible's own output wraps and quotes them."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):  # type: ignore[misc] # ansible has no types
    """Takes `lines`, a list of texts."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Print, and change nothing."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        for line in self._task.args["lines"]:
            Display().display(str(line))
        return result | {"changed": False}
