#!/usr/bin/python
"""Look at the workers of this host: which are drained, which run, and whether they hand over when the host stops."""

from __future__ import annotations

import http.client
import re
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import Engine, installed

DOCUMENTATION = r"""
module: dask_worker_look
short_description: Looks at the workers of a host without changing them
options:
  folder:
    description: Where a file for each drained worker is.
    type: path
    required: true
  workers:
    description: Names of the host's workers, as the inventory has them.
    type: list
    elements: str
    required: true
  state:
    description: C(drained) or C(running) for all of them, whatever the folder says; empty to go by the folder.
    type: str
    required: true
  files:
    description: By path, what the files that hand the workers over have to have.
    type: dict
    required: true
  unit:
    description: The unit that runs them.
    type: str
    required: true
"""
RETURN = r"""
drained:
  description: Names of the drained workers.
  type: list
marks:
  description: By worker, what its file says.
  type: dict
running:
  description: Names of the containers of workers that run.
  type: list
called:
  description: By container that runs, the worker's C(name) and its C(scheduler), as it was started.
  type: dict
answers:
  description: Whether there is an engine that says so, or none at all.
  type: bool
handover:
  description: Whether the files are as they have to be and the unit is enabled and active.
  type: bool
has_unit:
  description: Whether systemd knows the unit.
  type: bool
"""
DEADLINE = 20


def marks(folder: Path) -> dict[str, str]:
    """Return what each mark in the folder says."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path.read_text(encoding="utf-8", errors="replace").strip() for path in found if path.is_file()}


def running() -> dict[str, dict[str, str]] | None:
    """Return how workers that run were called, by container: of no engine none, of one that does not say `None`."""
    wanted = urllib.parse.quote('{"label":["io.dask-hostnet.kind=dask-worker"],"status":["running","restarting"]}')
    try:
        listed = Engine().ask(f"/containers/json?filters={wanted}")
    except (OSError, http.client.HTTPException, ValueError):
        return None if installed() else {}
    return {each["Names"][0].lstrip("/"): called(each["Command"]) for each in listed or []}


def called(command: str) -> dict[str, str]:
    """Return a worker's name and its scheduler's address by the command that started it."""
    name, scheduler = re.search(r" --name (\S+)", command), re.search(r"\b(?:tls|tcp)://\S+", command)
    return {"name": name[1] if name else "", "scheduler": scheduler[0] if scheduler else ""}


def unit_state(unit: str) -> dict[str, str]:
    """Return the properties of a unit that say whether it is as it should be."""
    command = ["systemctl", "show", "--property=LoadState,ActiveState,UnitFileState,NeedDaemonReload", unit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def same(path: str, content: str) -> bool:
    """Whether a file has that content."""
    try:
        return Path(path).read_text(encoding="utf-8") == content
    except (OSError, ValueError):
        return False


def look(folder: str, workers: list[str], state: str, files: dict[str, str], unit: str) -> dict[str, Any]:
    """Return all of it."""
    marked = marks(Path(folder))
    drained = {"drained": workers, "running": []}.get(state, [name for name in workers if name in marked])
    said, found = unit_state(unit), running()
    wanted = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    return {
        "drained": drained,
        "marks": marked,
        "running": sorted(found or {}),
        "called": found or {},
        "answers": found is not None,
        "handover": said == wanted and all(same(path, content) for path, content in files.items()),
        "has_unit": said.get("LoadState") == "loaded",
    }


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "workers": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "unit": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **look(**module.params))


if __name__ == "__main__":
    main()
