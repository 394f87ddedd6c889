#!/usr/bin/python
"""Look at the Docker engine of this host: where it comes from, its settings, what it runs; nothing is changed."""

from __future__ import annotations

import grp
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
  note:
    description: The file that keeps what was there before us; where it is not there, what it would say is told.
    type: path
    default: ""
  registry:
    description: Where it is named, what the engine has that is not ours is told; ours are of this registry.
    type: str
    default: ""
  packages:
    description: Those of them that apt has yet to see to are told.
    type: list
    elements: str
    default: []
"""

DEADLINE = 20
# what an engine keeps
DATA = ("/var/lib/docker", "/var/lib/containerd")
# labels of ours, and images that we make on the way to ours
OURS = tuple(f"io.dask-hostnet.{what}" for what in ("cluster", "verify", "trial", "inputs", "stage"))
PASSING = ("dask-hostnet-base:", "dask-hostnet-trial:")


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


def mode(path: str) -> str:
    """Return the mode that the file keeps, at most what all may read: of one that is not there yet, that."""
    try:
        own = Path(path).stat().st_mode
    except OSError:
        own = 0o644
    return f"{own & 0o644:04o}"


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


def statuses() -> list[list[str]]:
    """Return the status and the name of each package that dpkg knows."""
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    ).stdout
    return [line.split() for line in listed.splitlines()]


def missing(packages: list[str]) -> list[str]:
    """Return those that are not installed by that very name: of one with a version or a pattern only apt knows."""
    here = {name for status, name in statuses() if status == "installed"}
    return [name for name in packages if name not in here]


def interrupted() -> bool:
    """Whether a dpkg was cut off: every later installation stops at the journal that it left."""
    return any(Path("/var/lib/dpkg/updates").glob("[0-9]*"))


def noted(path: str) -> dict[str, Any] | None:
    """Return what was noted of the host as it was before us; None where nothing was."""
    content, error = load(path)
    return content if content and not error else None


def before(config: str, is_ours: bool) -> dict[str, Any]:
    """Return what there is to note of the host before the first change; after it, that it cannot be known any more."""
    if is_ours:
        return {"known": False}
    content, _ = load(config)
    return {
        "known": True,
        "engine": package(),
        # null: there was none
        "config": content if Path(config).exists() else None,
        "held": held(),
        "packages": sorted({name for status, name in statuses() if not status.startswith("not-")}),
        "groups": sorted(group.gr_name for group in grp.getgrall()),
        "data": [path for path in DATA if Path(path).is_dir() and any(Path(path).iterdir())],
    }


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


def foreign(registry: str) -> list[str]:
    """Return what the engine runs and keeps that is not ours; that it does not say so where it does not answer."""
    try:
        engine = Engine()
        containers, images = engine.ask("/containers/json?all=1"), engine.ask("/images/json")
        volumes = engine.ask("/volumes")["Volumes"] or []
    except (OSError, http.client.HTTPException, ValueError):
        return ["it does not say what"]
    names = [tag for each in images if not ours(each) for tag in each.get("RepoTags") or [] if tag != "<none>:<none>"]
    passing = (f"{registry}/", *PASSING)
    return [
        *(f"container {each['Names'][0].lstrip('/')}" for each in containers if not ours(each)),
        *(f"volume {each['Name']}" for each in volumes),
        *(f"image {name}" for name in names if not name.startswith(passing)),
    ]


def ours(thing: dict[str, Any]) -> bool:
    """Whether a container's or an image's labels say that it is ours; a node of the tests is none of the cluster."""
    return any(label.startswith(OURS) for label in thing.get("Labels") or {})


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": "/etc/docker/daemon.json"},
            "record": {"type": "path", "required": True},
            "note": {"type": "path", "default": ""},
            "registry": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    config, error = load(module.params["config"])
    record, _ = load(module.params["record"])
    found = {"package": package(), "config": config, "error": error, "record": record, "held": held(), **running()}
    found |= {"missing": missing(module.params["packages"]), "interrupted": interrupted()}
    found["mode"] = mode(module.params["config"])
    if module.params["note"]:
        found["note"] = noted(module.params["note"])
        if found["note"] is None:
            # a record is younger than any note: that of a host from before there were notes
            found["before"] = before(module.params["config"], Path(module.params["record"]).exists())
    if module.params["registry"]:
        found["foreign"] = foreign(module.params["registry"]) if found["package"] else []
    module.exit_json(changed=False, engine=found)


if __name__ == "__main__":
    main()
