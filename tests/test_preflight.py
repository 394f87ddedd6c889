"""The refusals: each names host, variable, what it was and what it should be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DIGEST = "192.0.2.11:5000/dask@sha256:" + "a" * 64


@pytest.fixture(scope="session")
def preflight() -> ModuleType:
    path = ROOT / "roles/dask_preflight/filter_plugins/dask_preflight.py"
    spec = importlib.util.spec_from_file_location("dask_preflight", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(**changed: Any) -> dict[str, Any]:
    good = {
        "image": DIGEST,
        "scheduler_host": "192.0.2.11",
        "networks": ["192.0.2.0/24"],
        "client_networks": ["192.0.2.0/24", "2001:db8::/64"],
    }
    return good | changed


FACTS = {
    "os_family": "Debian",
    "distribution": "Debian",
    "distribution_major_version": "12",
    "architecture": "x86_64",
    "service_mgr": "systemd",
}


def test_a_good_cluster_has_no_problem(preflight: ModuleType) -> None:
    groups = {"all": ["s", "w"], "dask_scheduler": ["s"], "dask_workers": ["w"], "dask_registry": ["s"]}
    assert preflight.dask_preflight_inventory(preflight.dask_preflight_groups(groups)) == []
    assert preflight.dask_preflight_settings(settings(), "w") == []
    assert preflight.dask_preflight_settings(settings(image=None), "w", image_required=False) == []
    assert preflight.dask_preflight_facts(FACTS, "w") == []


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"dask_scheduler": []}, "group dask_scheduler is empty or missing; write exactly one host"),
        ({"dask_scheduler": ["a", "b"]}, "group dask_scheduler has 2 hosts (a, b); write exactly one host"),
        ({"dask_workers": []}, "group dask_workers is empty or missing; write at least one host"),
        ({"dask_registry": []}, "group dask_registry is empty or missing; write exactly one host"),
    ],
)
def test_groups_that_cannot_work(preflight: ModuleType, groups: dict[str, list[str]], expected: str) -> None:
    good = {"dask_scheduler": ["s"], "dask_workers": ["w"], "dask_registry": ["s"]}
    (problem,) = preflight.dask_preflight_inventory(preflight.dask_preflight_groups(good | groups))
    assert expected in problem


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"image": None}, "w1: dask_cluster_image is not set; run playbooks/image.yml"),
        ({"image": "reg/dask:latest"}, "w1: dask_cluster_image is 'reg/dask:latest'; it must be registry/name@sha256:"),
        ({"image": "reg/dask@sha256:abc"}, "w1: dask_cluster_image is 'reg/dask@sha256:abc'; it must be"),
        ({"scheduler_host": None}, "w1: dask_cluster_scheduler_host is not set; write the address"),
        ({"image": "reg:5000/dask:latest@sha256:" + "a" * 64}, "w1: dask_cluster_image is 'reg:5000/dask:latest@"),
        ({"scheduler_host": "2001:db8::11"}, "w1: dask_cluster_scheduler_host is '2001:db8::11'; it must be an IPv4"),
        ({"networks": None}, "w1: dask_cluster_networks is not set; write a list of networks"),
        ({"networks": []}, "w1: dask_cluster_networks is not set; write a list of networks"),
        ({"networks": "192.0.2.0/24"}, "w1: dask_cluster_networks is '192.0.2.0/24'; write a list"),
        ({"client_networks": ["192.0.2.1/24"]}, "w1: dask_cluster_client_networks holds '192.0.2.1/24'"),
        ({"client_networks": ["all"]}, "w1: dask_cluster_client_networks holds 'all'"),
    ],
)
def test_variables_that_cannot_work(preflight: ModuleType, changed: dict[str, Any], expected: str) -> None:
    (problem,) = preflight.dask_preflight_settings(settings(**changed), "w1")
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"os_family": "RedHat", "distribution": "Fedora"},
            "w1: its system is Fedora 12; it must be of the Debian",
        ),
        ({"distribution_major_version": "11"}, "w1: its system is Debian 11; it must be Debian 12 or newer"),
        ({"architecture": "armv7l"}, "w1: its architecture is armv7l; it must be x86_64 or aarch64"),
        ({"service_mgr": "openrc"}, "w1: its services are run by openrc; it must be systemd"),
    ],
)
def test_hosts_that_cannot_work(preflight: ModuleType, changed: dict[str, str], expected: str) -> None:
    (problem,) = preflight.dask_preflight_facts(FACTS | changed, "w1")
    assert problem.startswith(expected)
