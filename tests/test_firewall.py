"""The firewall's rules: which port is whose, which networks are refused, by which port SSH came in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loading import load

ROLE = Path(__file__).parent.parent / "roles/dask_firewall"
DOORS: dict[str, dict[str, Any]] = {
    "scheduler": {"first": 8786, "networks": ["10.0.0.0/24", "2001:db8::/64", "10.0.0.0/24"]},
    "scheduler_http": {"first": "8787", "networks": []},
    "worker": {"first": 10000, "count": 100, "networks": ["10.0.0.0/24"]},
    "nanny": {"first": 10100, "count": 100, "networks": ["10.0.0.0/24"]},
}


@pytest.fixture(scope="session")
def plugin() -> ModuleType:
    return load(ROLE / "filter_plugins/dask_firewall.py")


def rules(plugin: ModuleType, doors: Any, extra: Any = None) -> list[tuple[str, ...]]:
    return [tuple(rule.values()) for rule in plugin.dask_firewall_rules(doors, extra or {})]


def test_a_rule_for_each_door_and_family_that_has_a_network(plugin: ModuleType) -> None:
    assert rules(plugin, DOORS) == [
        ("scheduler", "8786", "ip", "10.0.0.0/24"),
        ("scheduler", "8786", "ip6", "2001:db8::/64"),
        ("worker", "10000-10099", "ip", "10.0.0.0/24"),
        ("nanny", "10100-10199", "ip", "10.0.0.0/24"),
    ]


def test_further_networks_of_a_door(plugin: ModuleType) -> None:
    extra = {"scheduler_http": ["192.0.2.7"], "worker": ["2001:db8::/64"]}
    assert set(rules(plugin, DOORS, extra)) - set(rules(plugin, DOORS)) == {
        ("scheduler_http", "8787", "ip", "192.0.2.7/32"),
        ("worker", "10000-10099", "ip6", "2001:db8::/64"),
    }


def test_a_network_within_another_is_left_out(plugin: ModuleType) -> None:
    door = {"first": 1, "networks": ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "192.0.2.1"]}
    assert rules(plugin, {"a": door}) == [("a", "1", "ip", "0.0.0.0/0")]


def test_every_port_of_the_plan(plugin: ModuleType) -> None:
    assert plugin.dask_firewall_ports(DOORS) == "8786-8787, 10000-10199"


def test_a_door_is_known_by_its_ports(plugin: ModuleType) -> None:
    asked = {
        port: plugin.dask_firewall_door(DOORS, port) for port in ("22", 8785, 8786, 10000, 10099, 10100, 10199, 10200)
    }
    assert asked == {
        "22": "",
        8785: "",
        8786: "scheduler",
        10000: "worker",
        10099: "worker",
        10100: "nanny",
        10199: "nanny",
        10200: "",
    }


def test_where_ranges_overlap_a_port_is_of_the_door_that_uses_it(plugin: ModuleType) -> None:
    """Two workers a host: 9000 and 9001, nannies 9002 and 9003, pages 9004 and 9005, the registry at 9050."""
    doors = {
        "worker": {"first": 9000, "count": 100, "networks": ["10.0.0.0/24"]},
        "nanny": {"first": 9002, "count": 100, "networks": ["10.0.0.0/24"]},
        "worker_http": {"first": 9004, "count": 100, "networks": []},
        "registry": {"first": 9050, "networks": ["10.0.0.0/24"]},
    }
    found = {port: plugin.dask_firewall_door(doors, port) for port in (9000, 9001, 9002, 9003, 9004, 9005, 9050)}
    assert list(found.values()) == ["worker", "worker", "nanny", "nanny", "worker_http", "worker_http", "registry"]
    assert rules(plugin, doors) == [
        ("worker", "9000-9001", "ip", "10.0.0.0/24"),
        ("nanny", "9002-9003", "ip", "10.0.0.0/24"),
        ("registry", "9050", "ip", "10.0.0.0/24"),
    ]
    assert plugin.dask_firewall_ports(doors) == "9000-9103"


def test_a_range_ends_with_the_last_port(plugin: ModuleType) -> None:
    assert plugin.dask_firewall_ports({"worker": {"first": 65500, "count": 100, "networks": []}}) == "65500-65535"


@pytest.mark.parametrize(
    ("given", "extra", "line"),
    [
        ({"a_networks": ["10.0.0.0/33"]}, {}, "a_networks: '10.0.0.0/33' ("),
        (
            {"a_networks": ["10.0.0.1/8"]},
            {},
            "a_networks: '10.0.0.1/8' (10.0.0.1/8 has host bits set): write it as in 192.0.2.0/24",
        ),
        ({"a_networks": ["10.0.0.0/8", "worker1"]}, {}, "a_networks: 'worker1' ("),
        ({"a_networks": [10]}, {}, "a_networks: 10 (no text such as"),
        ({"a_networks": ["fe80::1%eth0"]}, {}, "a_networks: 'fe80::1%eth0' (no text such as"),
        ({"a_networks": "10.0.0.0/8"}, {}, "a_networks: '10.0.0.0/8': write a list of networks"),
        ({"a_networks": None}, {}, "a_networks: None: write a list of networks"),
        ({}, {"worker": ["10.0.0.300"]}, "dask_firewall_extra_networks.worker: '10.0.0.300' ("),
        (
            {},
            {"web": []},
            "dask_firewall_extra_networks: 'web' is no port of the plan: write one of scheduler, scheduler_http,",
        ),
    ],
)
def test_what_is_no_network_is_named(plugin: ModuleType, given: Any, extra: Any, line: str) -> None:
    lines = plugin.dask_firewall_wrong(given, extra, DOORS)
    assert len(lines) == 1
    assert lines[0].startswith(line)


def test_networks_are_accepted(plugin: ModuleType) -> None:
    given = {"a_networks": ["10.0.0.0/8", "192.0.2.1", "::/0", "2001:db8::1"], "b_networks": []}
    assert plugin.dask_firewall_wrong(given, {"worker": ["192.0.2.0/24"]}, DOORS) == []


def test_the_port_of_ssh_is_what_an_ancestor_was_told() -> None:
    """As under sudo: the process itself was told nothing."""
    code = f"""
import importlib.util, json, os
spec = importlib.util.spec_from_file_location("look", {str(ROLE / "library/dask_firewall_look.py")!r})
look = importlib.util.module_from_spec(spec)
spec.loader.exec_module(look)
print(json.dumps([look.ssh_port(os.getpid()), "SSH_CONNECTION" in os.environ]))
"""
    told = {**os.environ, "SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 2222"}
    command = ["sh", "-c", 'env --unset=SSH_CONNECTION "$@"; exit $?', "sh", sys.executable, "-c", code]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [2222, False]


def test_where_nobody_was_told_there_is_no_port(tmp_path: Path) -> None:
    look = load(ROLE / "library/dask_firewall_look.py")
    for process, parent in ((7, 1), (1, 0)):
        folder = tmp_path / str(process)
        folder.mkdir()
        (folder / "environ").write_bytes(b"PATH=/bin\0")
        (folder / "status").write_text(f"Name:\tsh\nPPid:\t{parent}\n")
    assert look.ssh_port(7, tmp_path) == 0
    (tmp_path / "1" / "environ").write_bytes(b"A=b\0SSH_CONNECTION=::1 1 ::1 22\0")
    assert look.ssh_port(7, tmp_path) == 22
