"""The firewall's rules from the plan of ports: who may reach which, by family of addresses, as nft writes it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LAST_PORT = 65535
Doors = Mapping[str, Mapping[str, Any]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: Any) -> Network:
    """Return the network that a text names; anything else is a ValueError."""
    # a number would be an address, and an address with a zone is of one host's link alone
    if not isinstance(text, str) or "%" in text:
        raise ValueError("no text such as 192.0.2.0/24 or 2001:db8::/64")
    return ipaddress.ip_network(text)


def dask_firewall_wrong(given: Mapping[str, Any], extra: Mapping[str, Any], doors: Iterable[str]) -> list[str]:
    """Return a line for everything that is no network: the variable, what it is, the remedy.

    Args:
        given: lists of networks by the variable that has them.
        extra: further lists by door.
        doors: the doors that there are.
    """
    known, lines = list(doors), []
    for variable, networks in {**given, **{f"dask_firewall_extra_networks.{key}": extra[key] for key in extra}}.items():
        if not isinstance(networks, Sequence) or isinstance(networks, str):
            lines.append(f"{variable}: {networks!r}: write a list of networks, as in [192.0.2.0/24]")
            continue
        for network in networks:
            try:
                _network(network)
            except ValueError as error:
                lines.append(f"{variable}: {network!r} ({error}): write it as in 192.0.2.0/24")
    for key in extra:
        if key not in known:
            lines.append(
                f"dask_firewall_extra_networks: {key!r} is no port of the plan: write one of {', '.join(known)}"
            )
    return lines


def _plan(doors: Doors) -> dict[int, str]:
    """Return the door that each port belongs to.

    Where ranges overlap, a port is of the door that it is the earlier one of: in a plan without conflicts a host does
    not have the later ones.
    """
    claims: dict[int, tuple[int, str]] = {}
    for name, door in doors.items():
        for i in range(int(door.get("count", 1))):
            port = int(door["first"]) + i
            if port <= LAST_PORT and (port not in claims or i < claims[port][0]):
                claims[port] = i, name
    return {port: name for port, (_, name) in claims.items()}


def _ranges(ports: Iterable[int]) -> str:
    """Return ports as nft writes them."""
    spans: list[list[int]] = []
    for port in sorted(ports):
        if spans and port == spans[-1][1] + 1:
            spans[-1][1] = port
        else:
            spans.append([port, port])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def dask_firewall_rules(doors: Doors, extra: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Return a rule for each door and family of addresses that somebody may come from.

    Args:
        doors: of each its first port, how many (one unless said) and the networks that may reach them.
        extra: further networks by door.
    """
    plan, rules = _plan(doors), []
    for name, door in doors.items():
        ports = _ranges(port for port, owner in plan.items() if owner == name)
        networks = [_network(network) for network in (*door["networks"], *extra.get(name, ()))]
        four = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
        six = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
        # nft refuses an element that another one has in it
        for family, some in (
            ("ip", ipaddress.collapse_addresses(four)),
            ("ip6", ipaddress.collapse_addresses(six)),
        ):
            text = ", ".join(map(str, some))
            if text and ports:
                rules.append({"name": name, "ports": ports, "family": family, "networks": text})
    return rules


def dask_firewall_ports(doors: Doors) -> str:
    """Return every port of the plan, as nft writes them."""
    return _ranges(_plan(doors))


def dask_firewall_door(doors: Doors, port: int | str) -> str:
    """Return the door that a port belongs to; empty where it is none of ours."""
    return _plan(doors).get(int(port), "")


class FilterModule:
    """Ansible's entry to the functions above."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "dask_firewall_door": dask_firewall_door,
            "dask_firewall_ports": dask_firewall_ports,
            "dask_firewall_rules": dask_firewall_rules,
            "dask_firewall_wrong": dask_firewall_wrong,
        }
