"""What cannot work, found by looking at the inventory and at a host's facts alone.

Each function returns a list of problems, empty when all is well. A problem is one line: the host, the variable, what it
is, what it should be. Nothing here touches a host, so the same functions serve the role and the unit tests.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any

DIGEST = re.compile(r"[^\s@:/]+(:[0-9]+)?(/[^\s@:/]+)+@sha256:[0-9a-f]{64}")
ARCHITECTURES = ("x86_64", "aarch64")
OLDEST_DEBIAN = 12
GROUPS = ("dask_scheduler", "dask_workers", "dask_registry")


def dask_preflight_groups(groups: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Reduce Ansible's `groups` to ours: group name to the names of its hosts, an absent group being empty."""
    return {group: list(groups.get(group, ())) for group in GROUPS}


def dask_preflight_inventory(groups: Mapping[str, list[str]]) -> list[str]:
    """Judge which hosts the inventory names.

    Args:
        groups: what `dask_preflight_groups` returns.

    Returns:
        One line a problem.
    """
    problems = []
    for group, remedy in (
        ("dask_scheduler", "write exactly one host into it"),
        ("dask_registry", "write exactly one host into it, as `children: {dask_scheduler: {}}` does"),
    ):
        hosts = groups[group]
        if len(hosts) != 1:
            said = f"has {len(hosts)} hosts ({', '.join(hosts)})" if hosts else "is empty or missing"
            problems.append(f"inventory: group {group} {said}; {remedy}")
    if not groups["dask_workers"]:
        problems.append("inventory: group dask_workers is empty or missing; write at least one host into it")
    return problems


def dask_preflight_settings(settings: Mapping[str, Any], host: str, *, image_required: bool = True) -> list[str]:
    """Judge one host's variables.

    Args:
        settings: `image`, `scheduler_host`, `networks` and `client_networks` as the inventory gives them,
            None where unset.
        host: the inventory's name of the host.
        image_required: whether an image must be named; not before the first `image.yml`.

    Returns:
        One line a problem.
    """
    problems = []
    image = settings.get("image")
    if image is None:
        if image_required:
            problems.append(f"{host}: dask_cluster_image is not set; run playbooks/image.yml, which writes it")
    elif not DIGEST.fullmatch(str(image)):
        problems.append(
            f"{host}: dask_cluster_image is {image!r}; it must be registry/name@sha256:<64 hex digits>, never a tag: "
            "run playbooks/image.yml"
        )
    address = settings.get("scheduler_host")
    if not address:
        problems.append(f"{host}: dask_cluster_scheduler_host is not set; write the address that workers dial")
    elif ":" in str(address):
        problems.append(f"{host}: dask_cluster_scheduler_host is {address!r}; it must be an IPv4 address or a name")
    for name in ("networks", "client_networks"):
        problems += _networks(host, f"dask_cluster_{name}", settings.get(name))
    return problems


def _networks(host: str, variable: str, value: Any) -> list[str]:
    if not value or isinstance(value, (str, Mapping)):
        said = "is not set" if value in (None, "", []) else f"is {value!r}"
        return [f"{host}: {variable} {said}; write a list of networks, for example [192.0.2.0/24]"]
    problems = []
    for network in value:
        try:
            ipaddress.ip_network(network)
        except (ValueError, TypeError) as error:
            problems.append(f"{host}: {variable} holds {network!r} ({error}); write it as in 192.0.2.0/24")
    return problems


def dask_preflight_facts(facts: Mapping[str, Any], host: str) -> list[str]:
    """Judge what a host is.

    Args:
        facts: Ansible's facts of the host (`os_family`, `distribution`, `distribution_major_version`, `architecture`,
            `service_mgr`).
        host: the inventory's name of the host.

    Returns:
        One line a problem.
    """
    problems = []
    name = facts.get("distribution", "unknown")
    release = str(facts.get("distribution_major_version", ""))
    if facts.get("os_family") != "Debian":
        problems.append(f"{host}: its system is {name} {release}; it must be of the Debian family, Debian 12 or newer")
    elif name == "Debian" and release.isdigit() and int(release) < OLDEST_DEBIAN:
        problems.append(f"{host}: its system is {name} {release}; it must be Debian 12 or newer: upgrade the host")
    machine = facts.get("architecture")
    if machine not in ARCHITECTURES:
        problems.append(f"{host}: its architecture is {machine}; it must be {' or '.join(ARCHITECTURES)}")
    manager = facts.get("service_mgr")
    if manager != "systemd":
        problems.append(f"{host}: its services are run by {manager}; it must be systemd")
    return problems


class FilterModule:
    """Ansible's entry to the functions above."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "dask_preflight_facts": dask_preflight_facts,
            "dask_preflight_groups": dask_preflight_groups,
            "dask_preflight_inventory": dask_preflight_inventory,
            "dask_preflight_settings": dask_preflight_settings,
        }
