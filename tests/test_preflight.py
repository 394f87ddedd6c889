"""What preflight refuses: each problem names host, variable, value and remedy; all of them stand in one table."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from loading import load

ROOT = Path(__file__).parent.parent
ROLE = ROOT / "roles/dask_preflight"
GIB = 1024**3
DIGEST = "192.0.2.11:5000/dask@sha256:" + "a" * 64
OURS, FOREIGN = "1" * 64, "2" * 64


@pytest.fixture(scope="session")
def judge() -> ModuleType:
    return load(ROLE / "filter_plugins/dask_preflight.py")


@pytest.fixture(scope="session")
def looker() -> ModuleType:
    engine = ROLE.parent / "dask_cluster/module_utils/dask_cluster_engine.py"
    return load(ROLE / "library/dask_preflight_host.py", engine)


def good(*groups: str) -> dict[str, Any]:
    """A host on which nothing is wrong; without groups a worker of 16 GiB and 8 cores."""
    place = {"kind": "folder", "filesystem": "ext4", "read_only": False, "device": 1, "free": 100 * GIB}
    return {
        "about": {
            "host": "w1",
            "groups": list(groups or ["dask_workers"]),
            "others": ["w2"],
            "variables": ["dask_worker_count"],
            "known": ["dask_worker_count", "dask_worker_mounts", "dask_cluster_image"],
            "facts": {
                "os_family": "Debian",
                "distribution": "Debian",
                "distribution_major_version": "12",
                "architecture": "x86_64",
                "service_mgr": "systemd",
                "memtotal_mb": 16384,
                "processor_vcpus": 8,
            },
            "cluster": "dask",
            "image": DIGEST,
            "image_required": True,
            "image_size": "2GiB",
            "spill_share": 0.25,
            "scheduler_host": "192.0.2.11",
            "networks": ["192.0.2.0/24"],
            "client_networks": ["192.0.2.0/24", "2001:db8::/64"],
            "address": "192.0.2.21",
            "http_address": "127.0.0.1",
            "uid": 10786,
            "log_max_size": "10m",
            "log_max_file": 3,
            "ports": {
                "scheduler": 8786,
                "scheduler_http": 8787,
                "dashboard": 8443,
                "worker": 10000,
                "nanny": 10100,
                "worker_http": 10200,
                "registry": 5000,
            },
            "plan": {
                "nofile": 65536,
                "count": 2,
                "nthreads": "",
                "local_directory": "/spill",
                "mounts": ["/data:/data:ro"],
                "secrets": ["DB_PASSWORD"],
                "sizes": {"dask_scheduler_memory_limit": "4GiB", "dask_worker_memory_limit": ""},
                "derived": {"nthreads": 4, "memory": 6 * GIB, "overhead": GIB // 4, "scheduler": 4 * GIB},
            },
            "ignore": [],
        },
        "seen": {
            "units": ["docker-registry.service"],
            "addresses": {"127.0.0.1": "lo", "192.0.2.21": "eth0", "172.17.0.1": "docker0"},
            "names": {"192.0.2.21": ["192.0.2.21"], "192.0.2.11": ["192.0.2.11"]},
            "route": "eth0",
            "listeners": [
                {"address": "192.0.2.21", "port": 10000, "process": "python", "container": OURS, "unit": ""},
                {"address": "127.0.0.1", "port": 8787, "process": "jupyter", "container": "", "unit": ""},
            ],
            "port_range": [32768, 60999],
            "reserved_ports": "",
            "paths": {"/spill": place, "/data": place, "/var/lib/docker": place | {"device": 2}},
            "docker_root": "/var/lib/docker",
            "spilled": 0,
            "file_limit": 1048576,
            "memory_limits": True,
            "firewalls": [],
            "engine": {
                "present": True,
                "snap": False,
                "swarm": "inactive",
                "rootless": False,
                "memory_limit": True,
                "image": None,
                "containers": [
                    {"id": OURS, "name": "dask-worker-0", "cluster": "dask"},
                    {"id": FOREIGN, "name": "database", "cluster": ""},
                ],
            },
            "registry": {"status": 200, "architectures": ["amd64"]},
        },
        "clock": {"asked": 1000.0, "heard": 1001.0, "host": 1000.5},
    }


def found_in(judge: ModuleType, edits: Mapping[str, Any], *groups: str) -> list[dict[str, str]]:
    """Edit the good host (keys as paths with dots, or with bars) and return its problems."""
    host = good(*groups)
    for path, value in edits.items():
        *parts, last = path.split("|" if "|" in path else ".")
        where = host
        for part in parts:
            where = where[part]
        where[last] = copy.deepcopy(value)
    found: list[dict[str, str]] = judge.dask_preflight_hosts([host])
    return found


def problems_of(judge: ModuleType, edits: Mapping[str, Any], *groups: str) -> list[str]:
    """Return the problems of the edited host, a line each."""
    found = found_in(judge, edits, *groups)
    assert all(set(problem) == {"check", "host", "variable", "value", "remedy"} for problem in found)
    assert all(all(problem.values()) for problem in found)
    return ["{host}: {variable}: {value}; {remedy}".format(**problem) for problem in found]


def test_a_good_host_has_no_problem(judge: ModuleType) -> None:
    assert problems_of(judge, {}) == []
    scheduler: dict[str, Any] = {
        "about.host": "s",
        "about.address": "192.0.2.11",
        "seen.addresses": {"127.0.0.1": "lo", "192.0.2.11": "eth0"},
        "seen.listeners": [
            *listener(5000, "192.0.2.11", "docker-registr", unit="docker-registry.service"),
            *listener(8443, "192.0.2.11", unit="dask-hostnet-dashboard.service"),
        ],
        "about.plan.derived.memory": 4 * GIB,
    }
    assert problems_of(judge, scheduler, "dask_scheduler", "dask_registry") == []
    theirs = scheduler | {"seen.listeners": listener(8443, unit="nginx.service")}
    assert problems_of(judge, theirs, "dask_scheduler", "dask_registry") == [
        "s: dask_cluster_dashboard_port: 8443, held by nginx; end that, or plan another port"
    ]
    assert problems_of(judge, scheduler | {"seen.units": []}, "dask_scheduler", "dask_registry") == [
        "s: dask_cluster_registry_port: 5000, held by docker-registr; end that, or plan another port"
    ]
    # scheduler and worker on one host
    both = scheduler | {"seen.engine.containers": [], "seen.listeners": []}
    assert problems_of(judge, both, "dask_scheduler", "dask_registry", "dask_workers") == []
    # before the first image.yml there is neither an engine nor an image
    bare = {"about.image": "", "about.image_required": False, "seen.registry": {}, "seen.listeners": []}
    assert problems_of(judge, bare | {"seen.engine": {"present": False, "snap": False}}) == []


@pytest.mark.parametrize("status", [0, 404, 401])
def test_a_registry_that_lost_its_image_is_no_problem_to_what_brings_it(judge: ModuleType, status: int) -> None:
    gone = {"seen.registry": {"status": status, "error": "no"}}
    assert len(problems_of(judge, gone)) == 1
    assert problems_of(judge, gone | {"about.image_required": False}) == []


def listener(
    port: int,
    address: str = "0.0.0.0",  # noqa: S104
    process: str = "nginx",
    container: str = "",
    unit: str = "",
) -> list[dict[str, Any]]:
    return [{"address": address, "port": port, "process": process, "container": container, "unit": unit}]


def place(**changed: Any) -> dict[str, Any]:
    return {"kind": "folder", "filesystem": "ext4", "read_only": False, "device": 1, "free": 100 * GIB} | changed


CASES: list[tuple[dict[str, Any], str]] = [
    # the image
    ({"about.image": ""}, "dask_cluster_image: not set; run playbooks/image.yml"),
    ({"about.image": "reg/dask:latest"}, "dask_cluster_image: 'reg/dask:latest'; it must be registry/name@sha256:"),
    ({"about.image": "reg/dask@sha256:abc"}, "dask_cluster_image: 'reg/dask@sha256:abc'; it must be registry/name@"),
    ({"about.image": "reg:5000/dask:1@sha256:" + "a" * 64}, "never a tag: run playbooks/image.yml"),
    ({"seen.registry": {"status": 404, "error": "Not Found"}}, "which the registry does not have; run playbooks/image"),
    ({"seen.registry": {"status": 401, "error": "no"}}, "the registry answers 401 no; run playbooks/image.yml"),
    ({"seen.registry": {"status": 0, "error": "refused"}}, "no registry answers: refused; run playbooks/image.yml"),
    (
        {"seen.registry": {"status": 200, "architectures": ["arm64"]}},
        f"dask_cluster_image: {DIGEST} for arm64, but the host is amd64; one architecture a cluster",
    ),
    ({"seen.engine.image": {"architecture": "arm64"}, "seen.registry": {}}, "for arm64, but the host is amd64"),
    # addresses and networks
    ({"about.scheduler_host": ""}, "dask_cluster_scheduler_host: not set; write the address that workers dial"),
    ({"about.scheduler_host": "2001:db8::11"}, "dask_cluster_scheduler_host: '2001:db8::11'; it must be an IPv4"),
    ({"about.networks": []}, "dask_cluster_networks: not set; write a list of networks"),
    ({"about.networks": "192.0.2.0/24"}, "dask_cluster_networks: '192.0.2.0/24'; write a list of networks"),
    (
        {"about.client_networks": ["192.0.2.1/24"]},
        "dask_cluster_client_networks: '192.0.2.1/24' (192.0.2.1/24 has host",
    ),
    ({"about.client_networks": ["all"]}, "write it as in 192.0.2.0/24"),
    (
        {"about.plan.networks": {"dask_firewall_monitoring_networks": ["office"], "dask_firewall_other": []}},
        "dask_firewall_monitoring_networks: 'office' ('office' does not appear to be an IPv4 or IPv6 network)",
    ),
    ({"about.networks": ["198.51.100.0/24"]}, "198.51.100.0/24 without 192.0.2.21; add the network that this host is"),
    (
        {"about.address": "192.0.2.99", "seen.names": {"192.0.2.99": ["192.0.2.99"], "192.0.2.11": ["192.0.2.11"]}},
        "dask_cluster_address: 192.0.2.99, not on this host, which has 192.0.2.21; write the address of this host",
    ),
    (
        {"about.address": "w1", "seen.names": {"w1": ["127.0.1.1"], "192.0.2.11": ["192.0.2.11"]}},
        "dask_cluster_address: w1 (127.0.1.1), a loopback address; write the address of this host",
    ),
    (
        {"about.address": "w1", "seen.names": {"w1": [], "192.0.2.11": ["192.0.2.11"]}},
        "dask_cluster_address: w1 (not known on this host), not on this host",
    ),
    (
        {
            "about.address": "172.17.0.1",
            "about.networks": ["172.17.0.0/16"],
            "seen.names": {"172.17.0.1": ["172.17.0.1"], "192.0.2.11": ["192.0.2.11"]},
        },
        "dask_cluster_address: 172.17.0.1, of the container bridge docker0; write the address",
    ),
    (
        {
            "about.address": "2001:db8::21",
            "about.networks": ["2001:db8::/64"],
            "seen.addresses": {"127.0.0.1": "lo", "192.0.2.21": "eth0", "2001:db8::21": "eth0"},
            "seen.names": {"2001:db8::21": ["2001:db8::21"], "192.0.2.11": ["192.0.2.11"]},
        },
        "dask_cluster_address: 2001:db8::21; write this host's IPv4 address: Dask takes no other",
    ),
    ({"about.http_address": "0.0.0.0"}, "dask_cluster_http_address: 0.0.0.0, every address; write 127.0.0.1"),  # noqa: S104
    ({"about.http_address": "192.0.2.7"}, "dask_cluster_http_address: 192.0.2.7, not on this host"),
    ({"seen.route": ""}, "dask_cluster_scheduler_host: 192.0.2.11, no route from this host; write an address"),
    ({"seen.route": "docker0"}, "192.0.2.11, reached through this host's own docker0; write an address of the"),
    (
        {
            "about.scheduler_host": "127.0.0.1",
            "seen.names": {"192.0.2.21": ["192.0.2.21"], "127.0.0.1": ["127.0.0.1"]},
            "seen.route": "lo",
        },
        "dask_cluster_scheduler_host: 127.0.0.1, reached through this host's own lo",
    ),
    # ports
    ({"seen.listeners": listener(10001)}, "dask_cluster_worker_port: 10001, held by nginx; end that, or plan another"),
    ({"seen.listeners": listener(10100, "::")}, "dask_cluster_nanny_port: 10100, held by nginx"),
    ({"seen.listeners": listener(10200, "::ffff:127.0.0.1")}, "dask_cluster_worker_http_port: 10200, held by nginx"),
    ({"seen.listeners": listener(10000, container=FOREIGN)}, "dask_cluster_worker_port: 10000, held by nginx"),
    (
        {"about.ports.nanny": 10001},
        "dask_cluster_nanny_port, dask_cluster_worker_port: 10001 more than once; plan each",
    ),
    ({"seen.port_range": [1024, 10050]}, "dask_cluster_worker_port: 10000, 10001, in the host's range for outgoing"),
    (
        {"about.ports.worker": 40000, "seen.listeners": []},
        "dask_cluster_worker_port: 40000, 40001, in the host's range for outgoing connections 32768-60999; plan",
    ),
    # sizes
    (
        {"about.plan.sizes": {"dask_worker_memory_limit": "24 gigs"}},
        "dask_worker_memory_limit: '24 gigs'; write a size",
    ),
    ({"about.plan.count": "two"}, "dask_worker_count: 'two'; it must be a whole number from 0 to 100"),
    ({"about.plan.count": 101}, "dask_worker_count: 101; it must be a whole number from 0 to 100"),
    (
        {"about.plan.nthreads": "auto", "about.plan.derived.nthreads": "auto"},
        "dask_worker_nthreads: 'auto'; it must be a whole number above 0, or '' to be derived",
    ),
    ({"about.plan.nthreads": 2.5, "about.plan.derived.nthreads": 2.5}, "dask_worker_nthreads: 2.5; it must be a whole"),
    ({"about.plan.nthreads": 0, "about.plan.derived.nthreads": 0}, "dask_worker_nthreads: 0; it must be a whole"),
    ({"about.plan.nthreads": None, "about.plan.derived.nthreads": None}, "dask_worker_nthreads: None; it must be"),
    ({"about.plan.derived.memory": 100 * 1024**2}, "dask_worker_memory_limit: 100 MiB for each of 2; it must be at"),
    ({"about.plan.derived.memory": 8 * GIB}, "16896 MiB with what the containers need besides, of 16384 MiB"),
    ({"about.plan.derived.nthreads": 5}, "dask_worker_nthreads: 10 on 2 workers, of 8 cores that the host has; lower"),
    # disks, folders, limits
    ({"seen|paths|/spill": place(filesystem="tmpfs")}, "dask_worker_local_directory: /spill, on tmpfs; name a folder"),
    ({"seen|paths|/spill": place(filesystem="nfs4")}, "/spill, on nfs4; name a folder on a local disk"),
    ({"seen|paths|/spill": place(read_only=True)}, "/spill, on ext4, read-only; name a folder that uid 10786 of the"),
    ({"seen|paths|/spill": place(filesystem="vfat")}, "/spill, on vfat, which knows no owners; name a folder that uid"),
    ({"seen|paths|/spill": place(kind="file")}, "dask_worker_local_directory: /spill, a file; name a folder"),
    ({"seen|paths|/spill": place(kind="below a file")}, "/spill, below a file; name a folder"),
    ({"seen|paths|/spill": place(free=2 * GIB)}, "2048 MiB free in /spill, less than 3072 MiB (3072 MiB for spilled"),
    (
        {"seen|paths|/var/lib/docker": place(device=2, free=GIB)},
        "1024 MiB free in /var/lib/docker, less than 2108 MiB (2048 MiB for the image, 60 MiB for logs); free some",
    ),
    ({"seen|paths|/data": place(kind="missing")}, "dask_worker_mounts: /data:/data:ro: /data is not there; make it"),
    ({"about.plan.mounts": ["data"]}, "dask_worker_mounts: 'data'; write source:destination:mode"),
    (
        {"about.plan.mounts": ["/var/run/docker.sock:/s:ro"]},
        "/var/run/docker.sock:/s:ro, which opens /run/docker.sock; mount a folder of data: a task that",
    ),
    ({"about.plan.mounts": ["/:/host"]}, "dask_worker_mounts: /:/host, which opens /run/docker.sock; mount a folder"),
    (
        {"about.plan.mounts": ["/etc/:/etc"]},
        "dask_worker_mounts: /etc/:/etc, which opens a folder of the host's system",
    ),
    ({"about.plan.secrets": ["a/../b"]}, "dask_worker_secrets: 'a/../b'; a name has letters, digits and _"),
    ({"about.plan.secrets": None}, "dask_worker_secrets: no dictionary; write NAME: value, the value vaulted"),
    ({"about.plan.mounts": "/data:/data"}, "dask_worker_mounts: '/data:/data'; write a list"),
    ({"seen.file_limit": 16384}, "dask_container_nofile: 65536, above this host's hard limit 16384; lower it to that"),
    ({"seen.memory_limits": False}, "its kernel: does not enforce memory limits of containers; boot with cgroup_"),
    ({"seen.engine.memory_limit": False}, "its kernel: does not enforce memory limits of containers"),
    # engines, firewalls, clocks
    ({"seen.engine.swarm": "active"}, "its engine: in swarm mode (active); docker swarm leave"),
    ({"seen.engine.rootless": True}, "its engine: rootless; a rootless engine has no host network"),
    ({"seen.engine.snap": True}, "its engine: a snap, which sees other folders than the host; snap remove docker"),
    ({"seen.engine.error": "timed out"}, "its engine: does not answer: timed out; see journalctl -u docker"),
    (
        {"about.cluster": "other", "seen.listeners": []},
        "dask_cluster_name: other, but dask-worker-0 of cluster dask are on this host; a host belongs to one cluster",
    ),
    ({"seen.firewalls": ["ufw"]}, "its firewall: ufw is active; ufw disable, or open the ports of docs/ports.md"),
    ({"seen.firewalls": ["firewalld"]}, "its firewall: firewalld is active; systemctl disable --now firewalld"),
    ({"clock.host": 1007.0}, "its clock: 6 s ahead of the control machine's; run a time service on both"),
    ({"clock.host": 990.0}, "its clock: 10 s behind the control machine's; run a time service on both"),
    # variables
    (
        {"about.variables": ["dask_worker_mount"]},
        "dask_worker_mount: no variable of any role; do you mean dask_worker_mo",
    ),
    ({"about.variables": ["hostnet_zzz"]}, "hostnet_zzz: no variable of any role; see docs/variables.md"),
    ({"about.variables": ["dask_docker_daemon_config"]}, "an old name; write dask_docker_daemon_options instead"),
    # systems
    (
        {"about.facts.os_family": "RedHat", "about.facts.distribution": "Fedora"},
        "its system: Fedora 12; it must be Debian 12 or newer, or of its family",
    ),
    ({"about.facts.distribution_major_version": "11"}, "its system: Debian 11; it must be Debian 12 or newer: upgrade"),
    ({"about.facts.architecture": "armv7l"}, "its architecture: armv7l; it must be x86_64 or aarch64"),
    ({"about.facts.service_mgr": "openrc"}, "its services: run by openrc; it must be systemd"),
]


@pytest.mark.parametrize(("edits", "expected"), CASES, ids=[expected[:50] for _, expected in CASES])
def test_what_cannot_work_is_said_with_its_remedy(judge: ModuleType, edits: dict[str, Any], expected: str) -> None:
    (problem,) = problems_of(judge, edits)
    assert problem.startswith("w1: ")
    assert expected in problem


@pytest.mark.parametrize(
    "source",
    ["//", "/run", "/var/run/", "/run/docker.sock", "/srv/../run/./docker.sock", "//var//run", "/var", "/var/lib",
     "/usr/", "/var/lib/docker/volumes", "/var/run/containerd/containerd.sock", "/proc", "/dev"],
)  # fmt: skip
def test_no_way_of_writing_it_mounts_what_gives_the_host_away(judge: ModuleType, source: str) -> None:
    (problem,) = problems_of(judge, {"about.plan.mounts": [f"{source}:/data:ro"]})
    assert "which opens " in problem


@pytest.mark.parametrize(
    "source",
    ["/srv", "/data", "/run/munge", "/runs", "/etc/ssl/certs", "/usr/local/share", "/var/lib/docker-data",
     "/var/running", "/home", "/dev/infiniband"],
)  # fmt: skip
def test_a_folder_of_data_may_be_mounted(judge: ModuleType, source: str) -> None:
    assert problems_of(judge, {"about.plan.mounts": [f"{source}:/data:ro"]}) == []


def test_a_scheduler_address_must_be_one_of_its_host_that_others_can_dial(judge: ModuleType) -> None:
    here = {"seen.addresses": {"127.0.0.1": "lo", "192.0.2.21": "eth0"}, "seen.listeners": []}
    (problem,) = problems_of(judge, here, "dask_scheduler")
    assert "dask_cluster_scheduler_host: 192.0.2.11, not on this host; write the address of the scheduler's" in problem
    loop = here | {
        "about.scheduler_host": "127.0.0.1",
        "seen.names": {"192.0.2.21": ["192.0.2.21"], "127.0.0.1": ["127.0.0.1"]},
    }
    (problem,) = problems_of(judge, loop, "dask_scheduler")
    assert "127.0.0.1, a loopback address; write one that workers can dial" in problem
    other = {
        "about.scheduler_host": "198.51.100.21",
        "seen.addresses": {"127.0.0.1": "lo", "192.0.2.21": "eth0", "198.51.100.21": "eth1"},
        "seen.names": {"192.0.2.21": ["192.0.2.21"], "198.51.100.21": ["198.51.100.21"]},
    }
    (problem,) = problems_of(judge, here | other, "dask_scheduler")
    assert (
        "198.51.100.21, where nothing listens: this host's dask_cluster_address is 192.0.2.21; write the same"
        in problem
    )


def test_dask_s_pages_have_an_ipv4_address(judge: ModuleType) -> None:
    (problem,) = problems_of(
        judge, {"about.http_address": "::1", "seen.addresses": {"::1": "lo", "192.0.2.21": "eth0"}}
    )
    assert "dask_cluster_http_address: ::1; write an IPv4 address: Dask takes no other" in problem


@pytest.mark.parametrize("given", ["", 4, "4"])
def test_threads_are_given_or_derived(judge: ModuleType, given: Any) -> None:
    assert problems_of(judge, {"about.plan.nthreads": given}) == []


def test_threads_are_nothing_to_a_host_without_workers(judge: ModuleType) -> None:
    odd = {"about.plan.nthreads": "auto", "about.plan.derived.nthreads": "auto", "seen.listeners": []}
    assert problems_of(judge, odd | {"about.plan.count": 0}) == []
    assert not any("nthreads" in problem for problem in problems_of(judge, odd, "dask_scheduler"))
    # both are said at once
    assert len(problems_of(judge, odd | {"about.plan.count": "two"})) == 2


def test_reserved_ports_are_no_ephemeral_ones(judge: ModuleType) -> None:
    edits = {"seen.port_range": [1024, 60999], "seen.reserved_ports": "10000-10001,10100-10101,10200,10201"}
    assert problems_of(judge, edits) == []


def test_what_is_spilled_already_needs_no_room(judge: ModuleType) -> None:
    assert problems_of(judge, {"seen|paths|/spill": place(free=GIB), "seen.spilled": 2 * GIB}) == []


def test_a_problem_is_accepted_on_the_host_that_says_so_and_no_other(judge: ModuleType) -> None:
    first, other = good(), good()
    other["about"]["host"] = "w2"
    for host in first, other:
        host["seen"]["firewalls"] = ["ufw"]
    for accepting, reported in (first, "w2"), (other, "w1"):
        accepting["about"]["ignore"] = ["firewall"]
        assert [problem["host"] for problem in judge.dask_preflight_hosts([first, other])] == [reported]
        accepting["about"]["ignore"] = []
    checks = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    found = {problem["check"] for edits, _ in CASES for problem in found_in(judge, edits)}
    assert found <= set(checks["dask_preflight_ignore"]["choices"])


PICTURE = {
    "dask_scheduler": {"s": "192.0.2.11"},
    "dask_workers": {"w": "192.0.2.21"},
    "dask_registry": {"s": "192.0.2.11"},
}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"dask_scheduler": {}}, "group dask_scheduler: empty or missing; write exactly one host"),
        ({"dask_scheduler": {"s": "192.0.2.11", "b": "192.0.2.12"}}, "2 hosts (s, b); write exactly one host"),
        ({"dask_workers": {}}, "group dask_workers: empty or missing; write at least one host"),
        ({"dask_registry": {}}, "group dask_registry: empty or missing; write exactly one host"),
        (
            {"dask_workers": {"w": "192.0.2.21", "x": "192.0.2.21"}},
            "dask_cluster_address: 192.0.2.21 of w, x; give each",
        ),
    ],
)
def test_inventories_that_cannot_work(judge: ModuleType, groups: dict[str, dict[str, str]], expected: str) -> None:
    (problem,) = judge.dask_preflight_inventory(PICTURE | groups)
    assert expected in "{variable}: {value}; {remedy}".format(**problem)


def test_one_host_may_be_in_several_groups(judge: ModuleType) -> None:
    assert judge.dask_preflight_inventory(PICTURE | {"dask_workers": {"s": "192.0.2.11"}}) == []


def test_every_problem_stands_once_with_all_its_hosts(judge: ModuleType) -> None:
    common = {"check": "image", "variable": "dask_cluster_image", "value": "not set", "remedy": "run image.yml"}
    other = {"check": "ports", "host": "w2", "variable": "p", "value": "1, held by nginx", "remedy": "end that"}
    table = judge.dask_preflight_table([common | {"host": "w1"}, common | {"host": "w2"}, other])
    assert table[0] == "2 problems; nothing was changed"
    assert table[1].split() == ["host", "variable", "is", "remedy"]
    assert table[2].split("  ")[0] == "w1, w2"
    assert len(table) == 4
    assert judge.dask_preflight_table([]) == []


def test_every_variable_of_every_spec_is_known(judge: ModuleType) -> None:
    known = judge.dask_preflight_known(str(ROOT / "roles"), ["hostnet_status_format"])
    assert {"dask_cluster_name", "dask_worker_count", "dask_container_verify_timeout", "hostnet_status_format"} <= set(
        known
    )


# What the module sees on this machine.


@pytest.fixture
def held() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_listening_socket_is_seen_with_its_process(looker: ModuleType, held: int) -> None:
    (found,) = [each for each in looker.listeners() if each["port"] == held]
    assert found["address"] == "127.0.0.1"
    assert found["process"] == Path("/proc/self/comm").read_text().strip()


def test_a_packages_unit_is_ours_by_our_settings_of_it(
    looker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker-registry.service.d/dask-hostnet.conf", "nginx.service.d/theirs.conf"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.setattr(looker, "UNITS", tmp_path)
    assert looker.units() == ["docker-registry.service"]


def test_addresses_of_proc_are_read_in_both_families(looker: ModuleType) -> None:
    assert looker.decode("0100007F:1F90") == ("127.0.0.1", 8080)
    assert looker.decode("00000000000000000000000001000000:0016") == ("::1", 22)


def test_a_place_that_is_not_there_is_judged_by_the_folder_above(looker: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert looker.place(str(tmp_path))["kind"] == "folder"
    assert looker.place(str(tmp_path / "file"))["kind"] == "file"
    assert looker.place(str(tmp_path / "file/below"))["kind"] == "below a file"
    missing = looker.place(str(tmp_path / "no/such"))
    assert (missing["kind"], missing["device"]) == ("missing", tmp_path.stat().st_dev)
    assert missing["free"] > 0
    assert looker.place("/proc")["filesystem"] == "proc"


def test_what_is_on_disk_is_counted(looker: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(b"x" * 100_000)
    assert 100_000 <= looker.content(str(tmp_path)) < 200_000
    assert looker.content(str(tmp_path / "none")) == 0


def test_names_are_resolved_where_the_module_runs(looker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looker.resolve("192.0.2.1") == ["192.0.2.1"]
    assert looker.resolve("no such name") == []
    answers: dict[str, Callable[..., str | None]] = {
        "none": lambda *_: None,
        "unreachable": lambda *_: '[{"type": "unreachable"}]',
        "eth0": lambda *_: '[{"dev": "eth0"}]',
    }
    for expected, answer in answers.items():
        monkeypatch.setattr(looker, "run", answer)
        assert looker.route(["192.0.2.1"]) == ("eth0" if expected == "eth0" else "")
    assert looker.route([]) == ""
