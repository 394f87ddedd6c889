"""What is open on every host of the cluster: to its own networks exactly the plan, to everybody else SSH alone."""

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
from at_work import ROOT, containers, identities, on, verification, wait_until

pytestmark = pytest.mark.timeout(1200)

SCAN = (ROOT / "molecule/dask_firewall/tests/scan.py").read_text(encoding="utf-8")
WORKER = {22, 10000, 10100, 10200}
PLAN = {"scheduler1": {22, 5000, 8443, 8786}, "worker1": WORKER, "worker2": WORKER, "worker3": WORKER}
PLANNED = [5000, 8443, 8786, 8787, *range(10000, 10300)]
# who scans, and an address of theirs that is of no network of the cluster: one kept for documentation
STRANGERS = {"worker3": "203.0.113.9", "worker2": "203.0.113.8"}


def scanner(target: str) -> str:
    """Return the node from which another is scanned."""
    return next(name for name in STRANGERS if name != target)


def address(name: str) -> str:
    """Return a node's address on the cluster's network."""
    return str(on(name).check_output("ip -4 -o address show dev eth0 scope global").split()[3].partition("/")[0])


def scan(target: str, *options: str) -> dict[str, dict[str, list[int]]]:
    """Return what was seen of a target's ports, by source."""
    said = on(scanner(target)).check_output("python3 -c %s " + " ".join([address(target), *options]), SCAN)
    found: dict[str, dict[str, list[int]]] = json.loads(said)
    return found


def booted(name: str) -> str:
    """Return what tells a boot from the next; nothing while the host is down."""
    with suppress(RuntimeError, AssertionError, ValueError):
        return str(on(name).check_output("systemctl show --property=UserspaceTimestampMonotonic --value"))
    return ""


@pytest.fixture(scope="module")
def strangers() -> Iterator[None]:
    """Addresses that are in none of the cluster's networks, and that the hosts can answer."""
    for who, stranger in STRANGERS.items():
        here = address(who)
        on(who).check_output(f"ip address add {stranger}/32 dev lo")
        for name in set(PLAN) - {who}:
            on(name).check_output(f"ip route add {stranger} via {here}")
    try:
        yield
    finally:
        for who, stranger in STRANGERS.items():
            for name in set(PLAN) - {who}:
                on(name).run(f"ip route delete {stranger}")
            on(who).run(f"ip address delete {stranger}/32 dev lo")


def test_a_host_that_was_booted_is_as_closed_as_before_and_works_again() -> None:
    table = "nft --stateless list table inet dask_hostnet"
    before, rules = booted("worker2"), on("worker2").check_output(table)
    identity = identities("worker2")["worker2", "dask-worker-0"]
    # its connection may end first
    with suppress(RuntimeError):
        on("worker2").run("systemctl reboot")
    wait_until(lambda: booted("worker2") not in ("", before), "worker2 is up again", 120)
    assert on("worker2").check_output(table) == rules
    wait_until(
        lambda: containers("worker2")["dask-worker-0"]["State"].get("Health", {}).get("Status") == "healthy",
        "its worker is healthy",
        120,
    )
    now = identities("worker2")["worker2", "dask-worker-0"]
    assert now[0] == identity[0]
    assert now[1] > identity[1]
    assert "333283335000" in verification("worker1-0", "worker2-0", "worker3-0")


@pytest.mark.parametrize("name", list(PLAN))
def test_from_the_clusters_network_exactly_the_plan_is_open(name: str) -> None:
    assert set(scan(name)[""]["open"]) == PLAN[name]


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("name", list(PLAN))
def test_to_a_stranger_every_planned_port_is_silent_and_ssh_open(name: str) -> None:
    stranger = STRANGERS[scanner(name)]
    found = scan(name, "--source", stranger, "--ports", "1-10400")[stranger]
    assert found["open"] == [22]
    assert found["silent"] == PLANNED
