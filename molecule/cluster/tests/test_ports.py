"""What is open on every host of the cluster: to its own networks exactly the plan, to everybody else SSH alone."""

import json
from collections.abc import Iterator

import pytest
from at_work import ROOT, on

pytestmark = pytest.mark.timeout(600)

SCAN = (ROOT / "molecule/dask_firewall/tests/scan.py").read_text(encoding="utf-8")
SCANNER = "worker3"
# of the networks kept for documentation: of no network of the cluster
STRANGER = "203.0.113.9"
WORKER = {10000, 10100, 10200}
PLAN = {"scheduler1": {22, 5000, 8443, 8786}, "worker1": {22, *WORKER}, "worker2": {22, *WORKER}}
PLANNED = [5000, 8443, 8786, 8787, *range(10000, 10300)]


def address(name: str) -> str:
    """Return a node's address on the cluster's network."""
    return str(on(name).check_output("ip -4 -o address show dev eth0 scope global").split()[3].partition("/")[0])


def scan(target: str, *options: str) -> dict[str, dict[str, list[int]]]:
    """Return what the scan on the scanner's node saw of a target, by source."""
    said = on(SCANNER).check_output("python3 -c %s " + " ".join([target, *options]), SCAN)
    found: dict[str, dict[str, list[int]]] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    """An address of the scanner that is in none of the cluster's networks, and that the other hosts can answer."""
    here = address(SCANNER)
    on(SCANNER).check_output(f"ip address add {STRANGER}/32 dev lo")
    for name in PLAN:
        on(name).check_output(f"ip route add {STRANGER} via {here}")
    try:
        yield STRANGER
    finally:
        for name in PLAN:
            on(name).check_output(f"ip route delete {STRANGER} via {here}")
        on(SCANNER).check_output(f"ip address delete {STRANGER}/32 dev lo")


@pytest.mark.parametrize("name", list(PLAN))
def test_from_the_clusters_network_exactly_the_plan_is_open(name: str) -> None:
    found = scan(address(name))[""]
    assert set(found["open"]) == PLAN[name]


@pytest.mark.parametrize("name", list(PLAN))
def test_to_a_stranger_every_planned_port_is_silent_and_ssh_open(name: str, stranger: str) -> None:
    found = scan(address(name), "--source", stranger, "--ports", "1-10400")[stranger]
    assert found["open"] == [22]
    assert found["silent"] == PLANNED
