"""What cannot work: judged from the inventory, and from what dask_preflight_host saw on a host.

Every judgement returns a list of problems, empty when all is well. A problem says which check found it, the host, the
variable, what its value is, and the remedy. Nothing here touches a host.
"""

from __future__ import annotations

import difflib
import ipaddress
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DIGEST = re.compile(r"[^\s@:/]+(:[0-9]+)?(/[^\s@:/]+)+@sha256:[0-9a-f]{64}")
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OLDEST_DEBIAN = 12
GROUPS = ("dask_scheduler", "dask_workers", "dask_registry")
# names that an older release knew, and what they are called now
RENAMED = {"dask_docker_daemon_config": "dask_docker_daemon_options"}
# what of ours is no container and holds a port, by its unit
OURS = {
    "dask_cluster_registry_port": "docker-registry.service",
    "dask_cluster_dashboard_port": "dask-hostnet-dashboard.service",
}
SMALLEST_WORKER = 256 * 1024**2
CLOCK_SECONDS = 5
NOT_LOCAL = re.compile(r"tmpfs|ramfs|nfs\d?|cifs|smb3?|9p|ceph|glusterfs|fuse\.(sshfs|glusterfs|s3fs|rclone)|lustre")
NO_OWNERS = re.compile(r"vfat|msdos|exfat|ntfs\d?|fuseblk")
# whoever reaches one of these from a container has the host: the sockets and stores of engines, the system itself
HOST_KEYS = (
    "/run/docker.sock",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/var/lib/docker",
    "/var/lib/containerd",
)
SYSTEM_FOLDERS = ("/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/sys", "/usr")
CONTAINER_BRIDGE = re.compile(r"docker\d+|br-[0-9a-f]{12}|cni\d*|cni-podman\d+|podman\d+|lxcbr\d+|virbr\d+|veth\w+")

Problem = dict[str, str]
Ports = list[tuple[str, str, int]]


@dataclass(frozen=True)
class Host:
    """One host: what the inventory says about it, what was seen on it, and the clocks."""

    about: Mapping[str, Any]
    seen: Mapping[str, Any]
    clock: Mapping[str, float]

    def problem(self, check: str, variable: str, value: str, remedy: str) -> Problem:
        """Return a problem of this host."""
        host = str(self.about["host"])
        return {"check": check, "host": host, "variable": variable, "value": value, "remedy": remedy}

    def is_in(self, group: str) -> bool:
        """Return whether the inventory has this host in the group."""
        return group in self.about["groups"]

    @property
    def workers(self) -> int:
        """How many workers it has; 0 also where the number cannot be meant."""
        return int(self.about["plan"]["count"]) if self.is_in("dask_workers") and not list(_count(self)) else 0


# The inventory by itself.


def dask_preflight_inventory(picture: Mapping[str, Mapping[str, str]]) -> list[Problem]:
    """Judge which hosts the inventory names.

    Args:
        picture: group name to the addresses of its hosts by their names, an absent group being empty.
    """
    problems = []

    def problem(check: str, variable: str, value: str, remedy: str) -> None:
        problems.append({"check": check, "host": "inventory", "variable": variable, "value": value, "remedy": remedy})

    for group, remedy in (
        ("dask_scheduler", "write exactly one host into it"),
        ("dask_registry", "write exactly one host into it, as `children: {dask_scheduler: {}}` does"),
    ):
        hosts = picture.get(group, {})
        if len(hosts) != 1:
            said = f"{len(hosts)} hosts ({', '.join(hosts)})" if hosts else "empty or missing"
            problem("groups", f"group {group}", said, remedy)
    if not picture.get("dask_workers"):
        problem("groups", "group dask_workers", "empty or missing", "write at least one host into it")
    addresses = defaultdict(set)
    for group in GROUPS:
        for host, address in picture.get(group, {}).items():
            addresses[str(address)].add(host)
    for address, named in addresses.items():
        if len(named) > 1:
            value = f"{address} of {', '.join(sorted(named))}"
            problem("addresses", "dask_cluster_address", value, "give each host its own address, or write it once")
    return problems


# One host's variables.


def _image(host: Host) -> Iterator[Problem]:
    image = host.about["image"]
    if not image:
        if host.about["image_required"]:
            yield host.problem("image", "dask_cluster_image", "not set", "run playbooks/image.yml, which writes it")
    elif not DIGEST.fullmatch(str(image)):
        remedy = "it must be registry/name@sha256:<64 hex digits>, never a tag: run playbooks/image.yml"
        yield host.problem("image", "dask_cluster_image", repr(image), remedy)


def _addresses_given(host: Host) -> Iterator[Problem]:
    address = host.about["scheduler_host"]
    variable = "dask_cluster_scheduler_host"
    if not address:
        yield host.problem("addresses", variable, "not set", "write the address that workers dial")
    elif ":" in str(address):
        yield host.problem("addresses", variable, repr(address), "it must be an IPv4 address or a name")
    for name in ("networks", "client_networks"):
        yield from _networks(host, f"dask_cluster_{name}", host.about[name])
    # these may be empty
    for variable, networks in host.about["plan"].get("networks", {}).items():
        if networks != []:
            yield from _networks(host, variable, networks)


def _networks(host: Host, variable: str, value: Any) -> Iterator[Problem]:
    if not value or isinstance(value, (str, Mapping)):
        said = "not set" if value in (None, "", []) else repr(value)
        yield host.problem("networks", variable, said, "write a list of networks, for example [192.0.2.0/24]")
        return
    for network in value:
        try:
            ipaddress.ip_network(network)
        except (ValueError, TypeError) as error:
            yield host.problem("networks", variable, f"{network!r} ({error})", "write it as in 192.0.2.0/24")


def _variables(host: Host) -> Iterator[Problem]:
    known = host.about["known"]
    for name in sorted(host.about["variables"]):
        if name in RENAMED:
            yield host.problem("variables", name, "an old name", f"write {RENAMED[name]} instead")
        elif name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            remedy = f"do you mean {near[0]}?" if near else "see docs/variables.md"
            yield host.problem("variables", name, "no variable of any role", remedy)


def _size(text: Any) -> int | None:
    found = SIZE.fullmatch(str(text).strip())
    return int(float(found[1]) * 1024 ** " KMGT".index((found[2] or " ").upper())) if found else None


def _sizes_given(host: Host) -> Iterator[Problem]:
    for variable, value in host.about["plan"]["sizes"].items():
        if str(value) and _size(value) is None:
            yield host.problem("sizes", variable, repr(value), "write a size such as 24GiB")


def _count(host: Host) -> Iterator[Problem]:
    count = host.about["plan"]["count"]
    if not str(count).isdecimal() or int(count) > 100:
        yield host.problem("sizes", "dask_worker_count", repr(count), "it must be a whole number from 0 to 100")


def _nthreads(host: Host) -> Iterator[Problem]:
    plan = host.about["plan"]
    given = str(plan["nthreads"])
    if given and not re.fullmatch("0*[1-9][0-9]*", given) and host.is_in("dask_workers") and str(plan["count"]) != "0":
        remedy = "it must be a whole number above 0, or '' to be derived"
        yield host.problem("sizes", "dask_worker_nthreads", repr(plan["nthreads"]), remedy)


def _mounts_given(host: Host) -> Iterator[Problem]:
    mounts = host.about["plan"]["mounts"]
    form = "write source:destination:mode with absolute paths, mode ro or rw"
    if isinstance(mounts, (str, Mapping)):
        yield host.problem("mounts", "dask_worker_mounts", repr(mounts), f"write a list; of each, {form}")
        return
    for mount in mounts:
        if not re.fullmatch(r"/[^:]*:/[^:]*(:(ro|rw)(,\w+)*)?", str(mount)):
            yield host.problem("mounts", "dask_worker_mounts", repr(mount), form)
        elif opened := _opened(str(mount).partition(":")[0]):
            remedy = "mount a folder of data: a task that reaches this one has the host"
            value = f"{mount}, which opens {opened}"
            yield host.problem("host_mounts", "dask_worker_mounts", value, remedy)


def _opened(source: str) -> str:
    """Return what of the host this source would give away; empty for a folder of data."""
    # normpath keeps two leading slashes
    path = re.sub(r"^/+(var/run(?=/|$))?", lambda found: "/run" if found[1] else "/", posixpath.normpath(source))
    if path in SYSTEM_FOLDERS:
        return "a folder of the host's system"
    for key in HOST_KEYS:
        if path == key or path.startswith(f"{key}/") or key.startswith(f"{path.rstrip('/')}/"):
            return key
    return ""


def _secrets(host: Host) -> Iterator[Problem]:
    names = host.about["plan"]["secrets"]
    if names is None:
        yield host.problem("secrets", "dask_worker_secrets", "no dictionary", "write NAME: value, the value vaulted")
        return
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name), re.ASCII):
            remedy = "a name has letters, digits and _, as variables of the environment have"
            yield host.problem("secrets", "dask_worker_secrets", repr(name), remedy)


# What a host is.


def _facts(host: Host) -> Iterator[Problem]:
    facts = host.about["facts"]
    name = facts.get("distribution", "unknown")
    release = str(facts.get("distribution_major_version", ""))
    if facts.get("os_family") != "Debian":
        yield host.problem(
            "system", "its system", f"{name} {release}", "it must be Debian 12 or newer, or of its family"
        )
    elif name == "Debian" and release.isdigit() and int(release) < OLDEST_DEBIAN:
        yield host.problem("system", "its system", f"{name} {release}", "it must be Debian 12 or newer: upgrade it")
    machine = str(facts.get("architecture"))
    if machine not in ARCHITECTURES:
        yield host.problem("system", "its architecture", machine, f"it must be {' or '.join(ARCHITECTURES)}")
    manager = str(facts.get("service_mgr"))
    if manager != "systemd":
        yield host.problem("system", "its services", f"run by {manager}", "it must be systemd")


def _addresses_here(host: Host) -> Iterator[Problem]:
    about, seen = host.about, host.seen
    own, address = seen["addresses"], str(about["address"])
    found = seen["names"].get(address, [])
    remedy = "write the address of this host that the others reach (ansible_host, or dask_cluster_address)"
    said = address if found == [address] else f"{address} ({', '.join(found) or 'not known on this host'})"
    if any(ipaddress.ip_address(each).is_loopback for each in found):
        yield host.problem("addresses", "dask_cluster_address", f"{said}, a loopback address", remedy)
    elif ":" in address:
        yield host.problem(
            "addresses", "dask_cluster_address", address, "write this host's IPv4 address: Dask takes no other"
        )
    elif not set(found) & set(own):
        have = ", ".join(each for each, link in own.items() if link != "lo" and not CONTAINER_BRIDGE.fullmatch(link))
        yield host.problem("addresses", "dask_cluster_address", f"{said}, not on this host, which has {have}", remedy)
    else:
        links = {own[each] for each in found if each in own}
        if all(CONTAINER_BRIDGE.fullmatch(link) for link in links):
            value = f"{said}, of the container bridge {', '.join(sorted(links))}"
            yield host.problem("addresses", "dask_cluster_address", value, remedy)
        networks = [] if list(_networks(host, "", about["networks"])) else about["networks"]
        if networks and not any(
            ipaddress.ip_address(each) in ipaddress.ip_network(network) for each in found for network in networks
        ):
            value = f"{', '.join(networks)} without {said}"
            yield host.problem("networks", "dask_cluster_networks", value, "add the network that this host is in")
    pages = str(about["http_address"])
    if ":" in pages:
        yield host.problem(
            "addresses", "dask_cluster_http_address", pages, "write an IPv4 address: Dask takes no other"
        )
    elif pages not in own:
        value = f"{pages}, every address" if pages in ("0.0.0.0", "::") else f"{pages}, not on this host"  # noqa: S104
        yield host.problem("addresses", "dask_cluster_http_address", value, "write 127.0.0.1, or this host's address")


def _scheduler_reached(host: Host) -> Iterator[Problem]:
    name = host.about["scheduler_host"]
    if not name or ":" in str(name):
        return
    variable, found = "dask_cluster_scheduler_host", host.seen["names"].get(str(name), [])
    said = str(name) if found == [name] else f"{name} ({', '.join(found) or 'not known on this host'})"
    if host.is_in("dask_scheduler"):
        if found and not set(found) & set(host.seen["addresses"]):
            yield host.problem(
                "route", variable, f"{said}, not on this host", "write the address of the scheduler's host"
            )
        elif any(ipaddress.ip_address(each).is_loopback for each in found) and host.about["others"]:
            yield host.problem("route", variable, f"{said}, a loopback address", "write one that workers can dial")
        elif found and not set(found) & set(host.seen["names"].get(str(host.about["address"]), [])):
            value = f"{said}, where nothing listens: this host's dask_cluster_address is {host.about['address']}"
            yield host.problem("route", variable, value, "write the same address for both")
    elif not found or not host.seen["route"]:
        remedy = "write an address that this host has a route to, or give it one"
        yield host.problem("route", variable, f"{said}, no route from this host", remedy)
    elif host.seen["route"] == "lo" or CONTAINER_BRIDGE.fullmatch(host.seen["route"]):
        value = f"{said}, reached through this host's own {host.seen['route']}"
        yield host.problem("route", variable, value, "write an address of the scheduler's host that is not on this one")


def planned_ports(about: Mapping[str, Any], workers: int) -> Ports:
    """Return what this host will listen on: (variable, address, port)."""
    ports, address, pages = about["ports"], str(about["address"]), str(about["http_address"])
    plan = []
    if "dask_scheduler" in about["groups"]:
        plan.append(("dask_cluster_scheduler_port", address, int(ports["scheduler"])))
        plan.append(("dask_cluster_scheduler_http_port", pages, int(ports["scheduler_http"])))
        plan.append(("dask_cluster_dashboard_port", address, int(ports["dashboard"])))
    if "dask_registry" in about["groups"]:
        plan.append(("dask_cluster_registry_port", address, int(ports["registry"])))
    for i in range(workers):
        plan.append(("dask_cluster_worker_port", address, int(ports["worker"]) + i))
        plan.append(("dask_cluster_nanny_port", address, int(ports["nanny"]) + i))
        plan.append(("dask_cluster_worker_http_port", pages, int(ports["worker_http"]) + i))
    return plan


def _ports(host: Host) -> Iterator[Problem]:
    seen = host.seen
    ours = {each["id"] for each in seen["engine"].get("containers", ()) if each["cluster"]}
    # a registry without our settings is somebody else's
    units = {*seen["units"], OURS["dask_cluster_dashboard_port"]}
    plan = planned_ports(host.about, host.workers)
    for port, times in Counter(port for _, _, port in plan).items():
        if times > 1:
            variables = sorted({variable for variable, _, taken in plan if taken == port})
            yield host.problem("ports", ", ".join(variables), f"{port} more than once", "plan each port once")
    low, high = seen["port_range"]
    reserved = _number_ranges(seen["reserved_ports"])
    loose = defaultdict(list)
    for variable, address, port in plan:
        for held in seen["listeners"]:
            # a worker's pages are shown to holders of a certificate at the host's own address too
            at = {address, str(host.about["address"])} if variable == "dask_cluster_worker_http_port" else {address}
            taken = [each for name in at for each in seen["names"].get(name, [name])]
            if held["port"] != port or not _overlap(taken, held["address"]):
                continue
            mine = held["container"] in ours or (held["unit"] in units and held["unit"] == OURS.get(variable))
            # whose container it is, an engine that does not answer cannot say
            if not mine and not (held["container"] and seen["engine"].get("error")):
                who = held["process"] or "another process"
                yield host.problem("ports", variable, f"{port}, held by {who}", "end that, or plan another port")
                break
        if low <= port <= high and not any(start <= port <= end for start, end in reserved):
            loose[variable].append(port)
    for variable, ports in loose.items():
        value = f"{', '.join(map(str, ports))}, in the host's range for outgoing connections {low}-{high}"
        remedy = "plan a port below it, or add these to net.ipv4.ip_local_reserved_ports"
        yield host.problem("port_range", variable, value, remedy)


def _overlap(planned: Iterable[str], held: str) -> bool:
    return held in ("0.0.0.0", "::") or held.removeprefix("::ffff:") in planned  # noqa: S104


def _number_ranges(text: str) -> list[tuple[int, int]]:
    ranges = [part.partition("-") for part in text.split(",") if part]
    return [(int(start), int(end or start)) for start, _, end in ranges]


def _sizes(host: Host) -> Iterator[Problem]:
    derived, facts, workers = host.about["plan"]["derived"], host.about["facts"], host.workers
    if not derived:
        return
    total, memory = int(facts["memtotal_mb"]) * 1024**2, int(derived["memory"])
    needed = workers * (memory + int(derived["overhead"]))
    needed += int(derived["scheduler"]) if host.is_in("dask_scheduler") else 0
    if workers and memory < SMALLEST_WORKER:
        value = f"{_mib(memory)} for each of {workers}"
        remedy = "it must be at least 256 MiB: lower dask_worker_count or dask_worker_reserved_memory, or set it"
        yield host.problem("sizes", "dask_worker_memory_limit", value, remedy)
    elif needed > total:
        value = f"{_mib(needed)} with what the containers need besides, of {_mib(total)} that the host has"
        variable = "dask_worker_memory_limit" if workers else "dask_scheduler_memory_limit"
        yield host.problem("sizes", variable, value, "lower it, or the number of workers")
    if not workers or list(_nthreads(host)):
        return
    threads, cores = workers * int(derived["nthreads"]), int(facts["processor_vcpus"])
    if threads > cores:
        value = f"{threads} on {_count_of(workers, 'worker')}, of {cores} cores that the host has"
        remedy = "lower it, or dask_worker_count; left empty, it is derived"
        yield host.problem("sizes", "dask_worker_nthreads", value, remedy)


def _count_of(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _mib(size: Any) -> str:
    return f"{int(size) // 1024**2} MiB"


def _spill(host: Host) -> Iterator[Problem]:
    folder = host.about["plan"]["local_directory"]
    place = host.seen["paths"].get(folder)
    if not host.workers or not place:
        return
    variable, kind = "dask_worker_local_directory", place["filesystem"]
    said = f"{folder}, on {kind}"
    if place["kind"] in ("file", "below a file"):
        yield host.problem(
            "spill", variable, f"{folder}, {'a' if place['kind'] == 'file' else 'below a'} file", "name a folder"
        )
    elif NOT_LOCAL.fullmatch(kind):
        yield host.problem("spill", variable, said, "name a folder on a local disk")
    elif place["read_only"] or NO_OWNERS.fullmatch(kind):
        value = f"{said}, {'read-only' if place['read_only'] else 'which knows no owners'}"
        uid = host.about["uid"]
        yield host.problem("spill", variable, value, f"name a folder that uid {uid} of the containers may write to")


def _mounts(host: Host) -> Iterator[Problem]:
    if not host.workers or list(_mounts_given(host)):
        return
    for mount in host.about["plan"]["mounts"]:
        source = str(mount).partition(":")[0]
        if host.seen["paths"].get(source, {}).get("kind") in ("missing", "below a file"):
            value = f"{mount}: {source} is not there"
            yield host.problem("mounts", "dask_worker_mounts", value, "make it on this host, or leave the mount out")


def _disk(host: Host) -> Iterator[Problem]:
    about, seen = host.about, host.seen
    containers = host.workers + host.is_in("dask_scheduler")
    image = 0 if seen["engine"].get("image") or not containers else _size(about["image_size"]) or 0
    # the registry's host builds it, and keeps it a second time
    image += image if host.is_in("dask_registry") else 0
    logs = containers * (_size(about["log_max_size"]) or 0) * int(about["log_max_file"])
    folder, memory = about["plan"]["local_directory"], int(about["plan"]["derived"].get("memory", 0))
    spill = max(0, int(float(about["spill_share"]) * host.workers * memory) - seen["spilled"])
    parts = [
        (seen["docker_root"], image, "the image"),
        (seen["docker_root"], logs, "logs"),
        (folder, spill, "spilled data"),
    ]
    devices = defaultdict(list)
    for where, size, what in parts:
        if size and where in seen["paths"]:
            devices[seen["paths"][where]["device"]].append((where, size, what))
    for wanted in devices.values():
        needed, free = sum(size for _, size, _ in wanted), seen["paths"][wanted[0][0]]["free"]
        if needed > free:
            what = ", ".join(f"{_mib(size)} for {name}" for _, size, name in wanted)
            folders = ", ".join(dict.fromkeys(where for where, _, _ in wanted))
            value = f"{_mib(free)} free in {folders}, less than {_mib(needed)} ({what})"
            remedy = "free some, or name another dask_worker_local_directory; dask_preflight_spill_share says how much"
            yield host.problem("disk", "its disk", value, remedy)


def _limits(host: Host) -> Iterator[Problem]:
    wanted, limit = host.about["plan"]["nofile"], host.seen["file_limit"]
    if str(wanted).isdecimal() and limit and int(wanted) > limit and (host.workers or host.is_in("dask_scheduler")):
        value = f"{wanted}, above this host's hard limit {limit}"
        yield host.problem("limits", "dask_container_nofile", value, "lower it to that, or raise the host's limit")
    docker = host.seen["engine"]
    if not host.seen["memory_limits"] or not docker.get("memory_limit", True):
        remedy = "boot with cgroup_enable=memory, and cgroup v2 where there is a choice"
        yield host.problem("limits", "its kernel", "does not enforce memory limits of containers", remedy)


def _engine(host: Host) -> Iterator[Problem]:
    docker, name = host.seen["engine"], str(host.about["cluster"])
    if docker["snap"]:
        remedy = "snap remove docker; dask_docker installs the distribution's"
        yield host.problem("engine", "its engine", "a snap, which sees other folders than the host", remedy)
    if docker.get("error"):
        yield host.problem("engine", "its engine", f"does not answer: {docker['error']}", "see journalctl -u docker")
    if docker.get("rootless"):
        remedy = "a rootless engine has no host network: use the system's"
        yield host.problem("engine", "its engine", "rootless", remedy)
    if docker.get("swarm", "inactive") not in ("inactive", ""):
        remedy = "docker swarm leave: live-restore, which keeps containers through an engine's restart, excludes it"
        yield host.problem("engine", "its engine", f"in swarm mode ({docker['swarm']})", remedy)
    others = defaultdict(list)
    for each in docker.get("containers", ()):
        if each["cluster"] not in ("", name):
            others[each["cluster"]].append(each["name"])
    for cluster, containers in others.items():
        value = f"{name}, but {', '.join(containers)} of cluster {cluster} are on this host"
        remedy = f"a host belongs to one cluster: write {cluster}, or docker rm --force them"
        yield host.problem("cluster", "dask_cluster_name", value, remedy)


def _firewalls(host: Host) -> Iterator[Problem]:
    remedies = {
        "ufw": "ufw disable, or open the ports of docs/ports.md and set dask_preflight_ignore: [firewall]",
        "firewalld": "systemctl disable --now firewalld, or open the ports of docs/ports.md and set "
        "dask_preflight_ignore: [firewall]",
    }
    for name in host.seen["firewalls"]:
        yield host.problem("firewall", "its firewall", f"{name} is active", remedies[name])


def _clock(host: Host) -> Iterator[Problem]:
    least, most = host.clock["host"] - host.clock["heard"], host.clock["host"] - host.clock["asked"]
    if most < -CLOCK_SECONDS or least > CLOCK_SECONDS:
        offset = most if most < 0 else least
        value = f"{abs(offset):.0f} s {'behind' if offset < 0 else 'ahead of'} the control machine's"
        yield host.problem("clock", "its clock", value, "run a time service on both, such as systemd-timesyncd")


def _registry(host: Host) -> Iterator[Problem]:
    image, answer, held = host.about["image"], host.seen["registry"], host.seen["engine"].get("image")
    machine = ARCHITECTURES.get(str(host.about["facts"].get("architecture")))
    found = [held["architecture"]] if held else answer.get("architectures", ())
    if found and machine and machine not in found:
        value = f"{image} for {', '.join(found)}, but the host is {machine}"
        yield host.problem(
            "registry", "dask_cluster_image", value, "one architecture a cluster: see docs/architecture.md"
        )
    if not host.about["image_required"]:
        # image.yml is what brings the registry, and the image into it
        return
    status = answer.get("status")
    remedy = "run playbooks/image.yml, or name a digest that the registry has"
    if status == 404:
        yield host.problem("registry", "dask_cluster_image", f"{image}, which the registry does not have", remedy)
    elif status not in (None, 200):
        said = (
            f"the registry answers {status} {answer['error']}" if status else f"no registry answers: {answer['error']}"
        )
        yield host.problem("registry", "dask_cluster_image", f"{image}; {said}", remedy)


VARIABLES = (_image, _addresses_given, _variables, _sizes_given, _count, _nthreads, _mounts_given, _secrets)
HOSTS = (
    _facts, _addresses_here, _scheduler_reached, _ports, _sizes, _spill, _mounts, _disk, _limits, _engine, _firewalls,
    _clock, _registry,
)  # fmt: skip


def dask_preflight_hosts(results: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Judge every host that was looked at, less the checks whose problems the operator accepts on it.

    Args:
        results: of each, what dask_preflight_host returned: `about`, `seen` and `clock`.
    """
    problems = []
    for result in results:
        host = Host(result["about"], result["seen"], result["clock"])
        for judge in (*VARIABLES, *HOSTS):
            problems += [problem for problem in judge(host) if problem["check"] not in host.about["ignore"]]
    return problems


def dask_preflight_table(problems: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the lines of the table: host, variable, value and remedy; hosts with the same problem share a line."""
    hosts: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for problem in problems:
        hosts[problem["variable"], problem["value"], problem["remedy"]].append(problem["host"])
    rows = [(", ".join(dict.fromkeys(names)), *key) for key, names in hosts.items()]
    if not rows:
        return []
    heading = ("host", "variable", "is", "remedy")
    wide = [min(60, max(len(row[column]) for row in [heading, *rows])) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], wide, strict=True)), row[3]])
        for row in (heading, *rows)
    ]
    return [f"{_count_of(len(rows), 'problem')}; nothing was changed", *lines]


def dask_preflight_known(roles: str, options: Iterable[str]) -> list[str]:
    """Return the names that an inventory may give: of the specs of the roles in a folder, and the playbooks' own."""
    names = set(options)
    for file in sorted(Path(roles).glob("*/meta/argument_specs.yml")):
        for spec in yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"].values():
            names |= set(spec.get("options", {}))
    return sorted(names)


def dask_preflight_sizes(sizes: Mapping[str, Any]) -> bool:
    """Return whether each of the sizes, by variable, can be read; only then can anything be derived from them."""
    return all(not str(value) or _size(value) is not None for value in sizes.values())


class FilterModule:
    """Ansible's entry to the functions above."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "dask_preflight_hosts": dask_preflight_hosts,
            "dask_preflight_inventory": dask_preflight_inventory,
            "dask_preflight_known": dask_preflight_known,
            "dask_preflight_sizes": dask_preflight_sizes,
            "dask_preflight_table": dask_preflight_table,
        }
