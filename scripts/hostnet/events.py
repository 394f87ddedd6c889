"""From the events of one Ansible run: where it is, what each host counts, and why a host failed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_LINES = 8
MAX_WIDTH = 400
# messages that name no cause: the last line of the error output follows them
EMPTY_MESSAGE = re.compile(r"non-zero return code|MODULE FAILURE|See stdout/stderr", re.IGNORECASE)
ERROR_LINE = re.compile(r"^(\[ERROR\]:|ERROR!)\s*")


@dataclass(frozen=True)
class HostStats:
    """What Ansible's recap says of one host."""

    ok: int
    changed: int
    failed: int
    unreachable: int

    @property
    def good(self) -> bool:
        """Neither failed nor unreachable."""
        return not (self.failed or self.unreachable)


@dataclass(frozen=True)
class Failure:
    """One task that ended its hosts' run; `cause` are the lines that say why. No hosts: Ansible itself stopped."""

    hosts: tuple[str, ...]
    task: str
    cause: tuple[str, ...]
    unreachable: bool = False

    @property
    def refused(self) -> bool:
        """A task of molecule/default named `Refuse …` said no before the first change: there is no more to say."""
        return self.task.startswith("Refuse ")


class Recorder:
    """Takes the events in order; its fields say where the run is, its methods what came of it."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.play = ""
        self.task = ""
        self.started: set[str] = set()
        self.finished: set[str] = set()
        self.hosts: dict[str, HostStats] = {}
        self.rescued: dict[str, int] = {}
        self.shown: dict[str, list[str]] = {}
        self._failed: dict[str, list[Failure]] = {}
        self._errors: list[str] = []

    def record(self, event: Mapping[str, Any]) -> None:
        """Take one event of ansible-runner."""
        kind = str(event.get("event", ""))
        data = event.get("event_data") or {}
        host = str(data.get("host", ""))
        if kind == "playbook_on_play_start":
            self.play, self.task = str(data.get("name", "")), ""
            self._next_task("")
        elif kind == "playbook_on_task_start":
            self._next_task(task_name(data))
        elif kind == "runner_on_start":
            self.started.add(host)
        elif kind in ("runner_on_ok", "runner_on_skipped", "runner_on_failed", "runner_on_unreachable"):
            self.finished.add(host)
            self._result(kind, host, data)
        elif kind == "playbook_on_stats":
            self._stats(data)
        elif kind in ("error", "verbose", "warning"):
            self._output(str(event.get("stdout", "")))

    def failures(self) -> tuple[Failure, ...]:
        """Why hosts ended early, one entry a cause with all its hosts; failures that a rescue mended are not in it."""
        merged: dict[tuple[str, tuple[str, ...], bool], list[str]] = {}
        for host, failed in self._failed.items():
            stats = self.hosts.get(host)
            if stats is not None and stats.good:
                continue
            # where a rescue ran, the failure that was not mended is the last one; else the first one ended the host
            failure = failed[-1] if self.rescued.get(host) else failed[0]
            merged.setdefault((failure.task, failure.cause, failure.unreachable), []).append(host)
        found = tuple(Failure(tuple(sorted(hosts)), *key) for key, hosts in merged.items())
        if found or not self._errors:
            return found
        return (Failure((), "", tuple(clip(self._errors))),)

    def _next_task(self, name: str) -> None:
        self.task = name
        self.started, self.finished = set(), set()

    def _result(self, kind: str, host: str, data: Mapping[str, Any]) -> None:
        result = data.get("res") or {}
        unreachable = kind == "runner_on_unreachable"
        if unreachable or (kind == "runner_on_failed" and not data.get("ignore_errors")):
            failure = Failure((host,), task_name(data), tuple(clip(cause(result))), unreachable)
            self._failed.setdefault(host, []).append(failure)
        elif kind == "runner_on_ok" and data.get("task_action") in ("debug", "ansible.builtin.debug"):
            self.shown[str(data.get("task", ""))] = as_lines(result.get("msg"))

    def _stats(self, data: Mapping[str, Any]) -> None:
        def count(name: str, host: str) -> int:
            return int((data.get(name) or {}).get(host, 0))

        for host in data.get("processed") or {}:
            self.hosts[host] = HostStats(
                count("ok", host), count("changed", host), count("failures", host), count("dark", host)
            )
            self.rescued[host] = count("rescued", host)

    def _output(self, text: str) -> None:
        # before any task ran (a missing inventory, a syntax error) there are no results, only such lines
        if self._errors or ERROR_LINE.match(text.strip()):
            self._errors += [ERROR_LINE.sub("", line) for line in as_lines(text)]


def task_name(data: Mapping[str, Any]) -> str:
    """`role : task`, as Ansible prints it."""
    name = str(data.get("task") or data.get("name") or "")
    role = data.get("role")
    return f"{role} : {name}" if role else name


def cause(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of a failed task's result that tell why it failed."""
    if "censored" in result:
        return ["its output is hidden (no_log)"]
    items = [item for item in result.get("results") or [] if isinstance(item, dict) and _failed(item)]
    if items:
        return [f"{_label(item)}: {'; '.join(clip(cause(item), 3))}" for item in items]
    lines = as_lines(result.get("msg"))
    if lines and not any(EMPTY_MESSAGE.search(line) for line in lines):
        return lines
    for name in ("module_stderr", "stderr", "module_stdout", "stdout"):
        output = as_lines(result.get(name))
        if output:
            return [*lines, output[-1]]
    return lines or ["no message; see the log"]


def as_lines(value: object) -> list[str]:
    """Text or a list of texts as lines without the empty ones."""
    texts: Iterable[object] = value if isinstance(value, list) else [] if value is None else [value]
    return [line.rstrip() for text in texts for line in str(text).splitlines() if line.strip()]


def clip(lines: list[str], limit: int = MAX_LINES) -> list[str]:
    """At most `limit` lines of at most MAX_WIDTH characters; what is left out is counted."""
    short = [line if len(line) <= MAX_WIDTH else line[: MAX_WIDTH - 1] + "…" for line in lines]
    if len(short) > limit:
        short = [*short[: limit - 1], f"… and {len(short) - limit + 1} more, see the log"]
    return short


def _failed(item: Mapping[str, Any]) -> bool:
    return bool(item.get("failed") or item.get("unreachable"))


def _label(item: Mapping[str, Any]) -> str:
    value = item.get("_ansible_item_label", item.get(str(item.get("ansible_loop_var", "item"))))
    if isinstance(value, dict) and "name" in value:
        value = value["name"]
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:79] + "…"
