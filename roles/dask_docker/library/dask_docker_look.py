#!/usr/bin/python
"""Look at the Docker engine of this host: where it comes from, its settings, what it runs; nothing is changed."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import Engine

DOCUMENTATION = r"""
module: dask_docker_look
short_description: Looks at the Docker engine of a host without changing it
options:
  config:
    description: The engine's configuration file.
    type: path
    default: /etc/docker/daemon.json
  record:
    description: The file that keeps what of it is ours.
    type: path
    required: true
"""

DEADLINE = 20


def load(path: str) -> tuple[dict[str, Any], str]:
    """Return what a JSON file holds, and what is wrong with it; a file that is not there or empty holds nothing."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, str(error)
    return (content, "") if isinstance(content, dict) else ({}, "it is no JSON object")


def package() -> str:
    """Return which package the daemon belongs to: empty when there is no daemon, "none" when it is of no package."""
    daemon = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin:/snap/bin")
    if not daemon:
        return ""
    command = ["dpkg-query", "--search", daemon]
    found = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    return found.stdout.partition(":")[0] if found.returncode == 0 else "none"


def held() -> list[str]:
    """Return the packages that are on hold."""
    found = subprocess.run(
        ["dpkg", "--get-selections"], capture_output=True, text=True, timeout=DEADLINE, check=False
    ).stdout
    return [line.split()[0].partition(":")[0] for line in found.splitlines() if line.endswith("\thold")]


def running() -> dict[str, Any]:
    """Return what the engine says of itself and the names of what runs; nothing when it does not answer."""
    try:
        engine = Engine()
        info = engine.ask("/info")
        containers = engine.ask("/containers/json")
    except (OSError, http.client.HTTPException, ValueError):
        return {"answers": False, "swarm": False, "live_restore": False, "containers": []}
    return {
        "answers": True,
        "swarm": info.get("Swarm", {}).get("LocalNodeState", "inactive") != "inactive",
        "live_restore": bool(info.get("LiveRestoreEnabled")),
        "containers": sorted(each["Names"][0].lstrip("/") for each in containers),
    }


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": "/etc/docker/daemon.json"},
            "record": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    config, error = load(module.params["config"])
    record, _ = load(module.params["record"])
    found = {"package": package(), "config": config, "error": error, "record": record, "held": held(), **running()}
    module.exit_json(changed=False, engine=found)


if __name__ == "__main__":
    main()
