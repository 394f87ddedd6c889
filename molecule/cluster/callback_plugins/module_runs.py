"""Counts, by host, results of tasks whose module ran on that host; writes them to the file that MODULE_RUNS names."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

# what the control machine does by itself
HERE = {
    "add_host",
    "assert",
    "debug",
    "fail",
    "group_by",
    "import_role",
    "include_role",
    "include_tasks",
    "include_vars",
    "meta",
    "pause",
    "set_fact",
    "validate_argument_spec",
}


class CallbackModule(CallbackBase):
    """Counts each item of a loop, and nothing that was skipped or delegated."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "module_runs"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Counter[str]] = {}

    def count(self, result: Any) -> None:
        task = result.task
        if task.action.rpartition(".")[2] not in HERE and not task.delegate_to:
            self.runs.setdefault(result.host.get_name(), Counter())[task.get_name()] += 1

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self.count(result)

    def v2_runner_on_ok(self, result: Any) -> None:
        # the items of a loop are counted already
        if "results" not in result.result or not result.task.loop:
            self.count(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        Path(os.environ["MODULE_RUNS"]).write_text(json.dumps(self.runs), encoding="utf-8")
