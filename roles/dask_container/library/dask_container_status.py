#!/usr/bin/python
"""Look at our containers of one kind on this host; nothing is changed."""

from __future__ import annotations

import http.client
import re
import time
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import Engine

DOCUMENTATION = r"""
module: dask_container_status
short_description: Looks at our containers of one kind on a host without changing them
options:
  kind:
    description: The kind, as the containers' label has it.
    type: str
    required: true
  image:
    description: The pinned image.
    type: str
    required: true
  drift:
    description: By name of each container that the inventory wants, what would be changed of it.
    type: dict
    required: true
"""
RETURN = r"""
rows:
  description: >-
    One for each container that is there or should be: name, state, health, image, uptime (seconds), restarts, memory
    and memory_limit (bytes), stored and spilled (bytes of results, in memory and on disk), logs (bytes on disk),
    drift (what site.yml would change of it). What cannot be told is null.
  type: list
"""

DEADLINE = 5
UNKNOWN: dict[str, Any] = dict.fromkeys(
    ("state", "health", "image", "uptime", "restarts", "memory", "memory_limit", "stored", "spilled", "logs")
)
METRIC = re.compile(r'^dask_worker_memory_bytes\{type="(managed|spilled)"\} (\S+)$', re.MULTILINE)


def uptime(state: Mapping[str, Any]) -> int | None:
    """Return the seconds since a running container's start."""
    if not state["Running"]:
        return None
    # nanoseconds, which Python does not read
    started = datetime.fromisoformat(re.sub(r"\.\d+", "", state["StartedAt"]).replace("Z", "+00:00"))
    return max(0, int(time.time() - started.timestamp()))


def memory(engine: Engine, name: str) -> int | None:
    """Return a container's bytes in use as the kernel counts them, less the cache of files that it can drop."""
    stats = (engine.ask(f"/containers/{name}/stats?stream=false&one-shot=true") or {}).get("memory_stats", {})
    if "usage" not in stats:
        return None
    details = stats.get("stats", {})
    return int(stats["usage"] - details.get("total_inactive_file", details.get("inactive_file", 0)))


def results(container: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the bytes of results that a worker holds; its health check names its page."""
    held: dict[str, int | None] = {"stored": None, "spilled": None}
    address, port = container["Config"]["Healthcheck"]["Test"][-2:]
    with suppress(OSError, http.client.HTTPException, ValueError):
        page = http.client.HTTPConnection(address, int(port), timeout=DEADLINE)
        page.request("GET", "/metrics")
        found = dict(METRIC.findall(page.getresponse().read().decode()))
        if found:
            held = {"stored": int(float(found["managed"])), "spilled": int(float(found["spilled"]))}
    return held


def logs(path: str) -> int | None:
    """Return the bytes of a log with those that were rotated."""
    if not path:
        return None
    sizes = []
    for file in Path(path).parent.glob(f"{Path(path).name}*"):
        # rotated away meanwhile
        with suppress(OSError):
            sizes.append(file.stat().st_size)
    return sum(sizes)


def status(name: str) -> dict[str, Any] | None:
    """Return what is to be said of one container; None when it is gone."""
    engine = Engine()
    said = engine.ask(f"/containers/{name}/json")
    if said is None:
        return None
    state = said["State"]
    running = bool(state["Running"])
    # drain.yml alone takes a container's restarts away
    drained = not running and said["HostConfig"]["RestartPolicy"]["Name"] in {"", "no"}
    return {
        "name": said["Name"].lstrip("/"),
        "state": "drained" if drained else state["Status"],
        "health": state.get("Health", {}).get("Status") if running else None,
        "image": said["Config"]["Image"],
        "uptime": uptime(state),
        "restarts": said["RestartCount"],
        "memory": memory(engine, name) if running else None,
        "memory_limit": said["HostConfig"]["Memory"],
        "logs": logs(said["LogPath"]),
        **(results(said) if running else {"stored": None, "spilled": None}),
    }


def look(kind: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return what is wrong with the engine, and what is to be said of each container by its name."""
    try:
        label = urllib.parse.quote(f'{{"label":["io.dask-hostnet.kind={kind}"]}}')
        listed = [each["Id"] for each in Engine().ask(f"/containers/json?all=1&filters={label}")]
        with ThreadPoolExecutor(max_workers=8) as pool:
            return "", {found["name"]: found for found in pool.map(status, listed) if found}
    except FileNotFoundError:
        return "there is no engine", {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"the engine does not answer: {str(error) or type(error).__name__}", {}


def rows(kind: str, image: str, drift: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return a row for each container that is there or should be."""
    trouble, there = look(kind)
    listed = []
    for name, differing in drift.items():
        found = there.pop(name, None)
        if found is None:
            state = "unknown" if trouble else "missing"
            listed.append({**UNKNOWN, "name": name, "state": state, "drift": [trouble or "missing"]})
        else:
            # with an image that is not there yet nothing was foreseen
            listed.append({**found, "drift": differing or (["image"] if found["image"] != image else [])})
    return listed + [{**found, "drift": ["not in the inventory"]} for found in there.values()]


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(
        argument_spec={
            "kind": {"type": "str", "required": True},
            "image": {"type": "str", "required": True},
            "drift": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, rows=rows(**module.params))


if __name__ == "__main__":
    main()
