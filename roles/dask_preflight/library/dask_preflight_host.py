#!/usr/bin/python
"""Look at the host that the module runs on and return what is there; nothing is changed, nothing is judged."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import SOCKET, Engine

DOCUMENTATION = r"""
module: dask_preflight_host
short_description: Looks at a host without changing it
description:
  - Returns addresses, listening sockets, file systems, limits, firewalls and what the Docker engine says of itself.
  - Comes with an action of the same name, which adds when the control machine asked and heard, by its own clock.
options:
  about:
    description: Returned as it is, so that what should be and what is stand in one place.
    type: dict
    default: {}
  names:
    description: Names and addresses to look up; how the last of them is reached is looked up, too.
    type: list
    elements: str
    default: []
  paths:
    description: Folders and files of which the file system is looked up; none needs to exist.
    type: list
    elements: path
    default: []
  spill:
    description: The folder whose content counts as spilled already.
    type: path
    default: ""
  image:
    description: The pinned image, looked for in the engine and, when it is not there, in the registry.
    type: str
    default: ""
  registry:
    description:
      - How to ask the registry, O(registry.login) user:password in base64, O(registry.ca) a PEM text.
      - Empty when it is not to be asked.
    type: dict
    default: {}
"""

DEADLINE = 10
MANIFESTS = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    )
)
LISTENING = "0A"
UNITS = Path("/etc/systemd/system")
CAP_SYS_RESOURCE = 24


def run(*command: str) -> str | None:
    """Return what a command printed; None when it failed or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read(path: str) -> str:
    """Return a file's text, empty when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def addresses() -> dict[str, str]:
    """Return each address of this host with its interface."""
    listed = json.loads(run("ip", "-json", "address", "show") or "[]")
    return {
        entry["local"]: link["ifname"] for link in listed for entry in link.get("addr_info", ()) if "local" in entry
    }


def resolve(name: str) -> list[str]:
    """Return the addresses of a name, none when it is not known here."""
    try:
        return sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):
        return []


def route(found: list[str]) -> str:
    """Return the interface through which the first of these addresses is reached, empty when there is none."""
    said = json.loads((run("ip", "-json", "route", "get", found[0]) if found else None) or "[]")
    if not said or said[0].get("type") in ("unreachable", "prohibit", "blackhole"):
        return ""
    return str(said[0].get("dev", ""))


def decode(address: str) -> tuple[str, int]:
    """Return address and port of an entry of /proc/net/tcp or tcp6, whose words are in the machine's order."""
    host, _, port = address.partition(":")
    words = [struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)


def holders() -> dict[str, int]:
    """Return the process that holds each socket, by the socket's inode."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            for link in folder.iterdir():
                if match := re.match(r"socket:\[(\d+)\]", str(link.readlink())):
                    found[match[1]] = int(folder.parts[2])
        except OSError:
            # it has ended
            continue
    return found


def listeners() -> list[dict[str, Any]]:
    """Return what listens on this host: address, port, the process's name, its container's id and systemd's unit."""
    processes = holders()
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(table).splitlines()[1:]:
            fields = line.split()
            if fields[3] != LISTENING:
                continue
            address, port = decode(fields[1])
            process = processes.get(fields[9])
            groups = read(f"/proc/{process}/cgroup") if process else ""
            containers, units = re.findall(r"[0-9a-f]{64}", groups), re.findall(r"[^/\n]+[.]service", groups)
            found.append(
                {
                    "address": address,
                    "port": port,
                    "process": read(f"/proc/{process}/comm").strip() if process else "",
                    "container": containers[-1] if containers else "",
                    "unit": units[-1] if units else "",
                }
            )
    return found


def units() -> list[str]:
    """Return the units of packages that have settings of ours."""
    return sorted(path.parent.name.removesuffix(".d") for path in UNITS.glob("*.service.d/dask-hostnet.conf"))


def mounted(path: Path) -> tuple[str, bool]:
    """Return the type of the file system that a path is on, and whether it is read-only."""
    best, answer = -1, ("", False)
    for line in read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = point == "/" or str(path) == point or str(path).startswith(point + "/")
        # a later mount on the same point hides the earlier one
        if inside and len(point) >= best:
            kind, _, options = right.split(" ", 2)
            best = len(point)
            answer = (kind, "ro" in fields[5].split(",") or "ro" in options.split(" ")[-1].split(","))
    return answer


def place(name: str) -> dict[str, Any]:
    """Return what is at a path: kind, file system, free bytes; of what is not there, of the nearest folder above."""
    path = Path(os.path.normpath(name))
    kind = "folder" if path.is_dir() else "file" if path.exists() else "missing"
    there = path
    while not there.exists():
        there = there.parent
    if not there.is_dir() and there != path:
        kind = "below a file"
    state = os.statvfs(there)
    filesystem, read_only = mounted(there.resolve())
    return {
        "kind": kind,
        "filesystem": filesystem,
        "read_only": read_only,
        "device": there.stat().st_dev,
        "free": state.f_bavail * state.f_frsize,
    }


def content(folder: str) -> int:
    """Return the bytes on disk below a folder."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_blocks * 512  # noqa: PTH118  # many files: no objects
            except OSError:
                continue
    return total


def file_limit() -> int:
    """Return how many open files a container of this host can be given at most."""
    effective = re.search(r"^CapEff:\s*(\w+)", read("/proc/1/status"), re.MULTILINE)
    if effective and int(effective[1], 16) >> CAP_SYS_RESOURCE & 1:
        return int(read("/proc/sys/fs/nr_open") or 0)
    limit = re.search(r"^Max open files\s+\S+\s+(\d+)", read("/proc/1/limits"), re.MULTILINE)
    return int(limit[1]) if limit else 0


def memory_limits() -> bool:
    """Return whether the kernel can limit a container's memory."""
    if controllers := read("/sys/fs/cgroup/cgroup.controllers"):
        return "memory" in controllers.split()
    enabled = re.search(r"^memory\s+\d+\s+\d+\s+(\d)", read("/proc/cgroups"), re.MULTILINE)
    return bool(enabled and enabled[1] == "1")


def firewalls() -> list[str]:
    """Return which of the known firewalls' managers are active."""
    active = []
    if run("systemctl", "is-active", "firewalld.service") is not None:
        active.append("firewalld")
    # its unit is active on a host where it is installed and switched off, too
    if re.search(r"^ENABLED=yes", read("/etc/ufw/ufw.conf"), re.MULTILINE | re.IGNORECASE):
        active.append("ufw")
    return active


def engine(image: str) -> dict[str, Any]:
    """Return what the engine says of itself, its containers and the image; `present` is false where there is none."""
    snap = Path("/var/snap/docker").exists()
    if not Path(SOCKET).exists():
        return {"present": False, "snap": snap}
    try:
        docker = Engine()
        info = docker.ask("/info")
        containers = docker.ask("/containers/json?all=1")
        held = docker.ask(f"/images/{image}/json") if image else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        return {"present": True, "snap": snap, "error": str(error) or type(error).__name__}
    return {
        "present": True,
        "snap": snap or str(info.get("DockerRootDir", "")).startswith("/var/snap/"),
        "swarm": info.get("Swarm", {}).get("LocalNodeState", "inactive"),
        "rootless": any("name=rootless" in option for option in info.get("SecurityOptions") or ()),
        "memory_limit": bool(info.get("MemoryLimit", True)),
        "root": info.get("DockerRootDir", "/var/lib/docker"),
        "image": {"architecture": held.get("Architecture")} if held else None,
        "containers": [
            {
                "id": each["Id"],
                "name": each["Names"][0].lstrip("/"),
                "cluster": (each.get("Labels") or {}).get("io.dask-hostnet.cluster", ""),
            }
            for each in containers
        ],
    }


def registry(image: str, how: dict[str, Any]) -> dict[str, Any]:
    """Return for which architectures the registry has the image; `status` is 0 when it does not answer."""
    reference, _, digest = image.partition("@")
    host, _, repository = reference.partition("/")
    context = ssl.create_default_context(cadata=how["ca"])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))

    def get(path: str) -> Any:
        url = f"https://{host}/v2/{repository}/{path}"
        request = urllib.request.Request(url, headers={"Accept": MANIFESTS, "Authorization": f"Basic {how['login']}"})
        with opener.open(request, timeout=DEADLINE) as answer:
            return json.loads(answer.read())

    try:
        manifest = get(f"manifests/{digest}")
        if "manifests" in manifest:
            found = [entry["platform"]["architecture"] for entry in manifest["manifests"]]
        else:
            found = [get(f"blobs/{manifest['config']['digest']}")["architecture"]]
    except urllib.error.HTTPError as error:
        return {"status": error.code, "error": error.reason}
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        return {"status": 0, "error": str(getattr(error, "reason", error))}
    return {"status": 200, "architectures": found}


def look(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return everything that is to be judged about this host."""
    image = parameters["image"]
    docker = engine(image)
    low, high = (int(word) for word in (read("/proc/sys/net/ipv4/ip_local_port_range") or "0 0").split())
    paths = [*parameters["paths"], docker.get("root") or "/var/lib/docker"]
    names = {name: resolve(name) for name in parameters["names"]}
    ask = bool(image and (parameters["registry"] or {}).get("ca") and not docker.get("image"))
    return {
        "addresses": addresses(),
        "names": names,
        "route": route([*names.values()][-1] if names else []),
        "listeners": listeners(),
        "units": units(),
        "port_range": [low, high],
        "reserved_ports": read("/proc/sys/net/ipv4/ip_local_reserved_ports").strip(),
        "paths": {path: place(path) for path in paths},
        "docker_root": paths[-1],
        "spilled": content(parameters["spill"]) if parameters["spill"] else 0,
        "file_limit": file_limit(),
        "memory_limits": memory_limits(),
        "firewalls": firewalls(),
        "engine": docker,
        "registry": registry(image, parameters["registry"]) if ask else {},
    }


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(
        argument_spec={
            "about": {"type": "dict", "default": {}},
            "names": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "path", "default": []},
            "spill": {"type": "path", "default": ""},
            "image": {"type": "str", "default": ""},
            "registry": {
                "type": "dict",
                "default": {},
                "options": {
                    "login": {"type": "str", "no_log": True},
                    "ca": {"type": "str"},
                },
            },
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, about=module.params["about"], seen=look(module.params))


if __name__ == "__main__":
    main()
