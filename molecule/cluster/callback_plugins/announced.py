"""Appends a line for each file and container that a run changed, or would change, to the file that CHANGES names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Notes the playbook, whether it was a rehearsal, the host whose file or container it is, and its path or name."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "announced"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.playbook = ""
        self.lines: list[dict[str, Any]] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self.playbook = Path(playbook._file_name).name

    def note(self, result: Any) -> None:
        said, action = result.result, result.task.action.rpartition(".")[2]
        if not said.get("changed"):
            return
        arguments = said.get("invocation", {}).get("module_args", {})
        item = said.get("item")
        where = "localhost" if result.task.delegate_to == "localhost" else result.host.get_name()
        name = item.get("name") if isinstance(item, dict) else item
        if action == "docker_container" or (action == "debug" and name):
            what = f"container {name}"
        elif action == "debug":
            what = ""
        else:
            path = said.get("dest") or said.get("path") or arguments.get("dest") or arguments.get("path")
            # what is kept out of the output is told by its task alone
            what = f"file {path}" if path else f"task {result.task.get_name()}" if "censored" in said else ""
        if what:
            self.lines.append(
                {"playbook": self.playbook, "check": context.CLIARGS["check"], "host": where, "what": what}
            )

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self.note(result)

    def v2_runner_on_ok(self, result: Any) -> None:
        # the items of a loop are noted already
        if "results" not in result.result or not result.task.loop:
            self.note(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        record = Path(os.environ["CHANGES"])
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self.lines)
