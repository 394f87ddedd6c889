"""The firewall as it is met from outside and inside of the networks: it closes the plan's ports, and no others."""

import ipaddress
import json
from pathlib import Path

import pytest

SCAN = Path(__file__).with_name("scan.py").read_text(encoding="utf-8")
UNIT = "dask-hostnet-firewall.service"
FILES = ["/etc/dask-hostnet/firewall.nft", f"/etc/systemd/system/{UNIT}"]
TABLE = "nft --stateless list table inet dask_hostnet"
DELETE = "nft 'add table inet dask_hostnet; delete table inet dask_hostnet'"
NFTABLES = "systemctl show --property=UnitFileState,ActiveState,DropInPaths nftables.service"

# on worker2's wire, routed to it: who is in no network, who is a client, who reads the pages
STRANGER, CLIENT, PAGES = "192.0.2.77", "192.0.2.78", "192.0.2.79"
ROUTE = "192.0.2.76/30"
# in a network of its own on worker1: nodes have no IPv6 between them
HERE_6, CLUSTER_6, STRANGER_6 = "fd00:d45c::1", "fd00:d45c::2", "fd00:d45c::3"
NETNS = "nsenter --net=/run/netns/test-outside"

WORKERS, NANNIES, WORKER_PAGES = set(range(10000, 10100)), set(range(10100, 10200)), set(range(10200, 10300))
PLAN = {5000, 8443, 8786, 8787} | WORKERS | NANNIES | WORKER_PAGES
OF_CLUSTER = {5000, 8786} | WORKERS | NANNIES | WORKER_PAGES
# of each of the plan's doors, and the neighbours that are not ours
LISTENING = {4999, 5000, 8443, 8785, 8786, 8787, 8788, 9999, 10001, 10099, 10101, 10199, 10201, 10299, 10300}
LISTEN = """
import signal, socket, sys
kept = [socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True) for port in sys.argv[1:]]
signal.pause()
"""


def scan(host, target, *sources, ports="1-12000", prefix=""):
    """What a host finds of a target's ports, by source: (open, silent)."""
    options = " ".join(f"--source {source}" for source in sources)
    said = json.loads(host.check_output(f"{prefix} python3 -c %s {target} --ports {ports} {options}", SCAN))
    return {source: (set(seen["open"]), set(seen["silent"])) for source, seen in said.items()}


@pytest.fixture(scope="module")
def listeners(node, wait):
    """Real listeners on worker1, on every address."""
    host = node("worker1")
    ports = " ".join(map(str, sorted(LISTENING)))
    host.check_output(f"systemd-run --quiet --collect --unit test-listeners python3 -c %s {ports}", LISTEN)
    wait(lambda: "10300" in host.check_output("ss -Htln sport = :10300"), "the listeners listen")
    yield host
    host.check_output("systemctl stop test-listeners")


@pytest.fixture(scope="module")
def wire(node, addresses):
    """worker2 with addresses that are in none of the networks, and worker1's way back to them."""
    worker1, worker2 = node("worker1"), node("worker2")
    try:
        for address in (STRANGER, CLIENT, PAGES):
            worker2.check_output(f"ip address add {address}/32 dev eth0")
        worker1.check_output(f"ip route add {ROUTE} via {addresses['worker2']}")
        yield worker2
    finally:
        worker1.run(f"ip route delete {ROUTE}")
        for address in (STRANGER, CLIENT, PAGES):
            worker2.run(f"ip address delete {address}/32 dev eth0")


@pytest.fixture(scope="module")
def outside_6(node):
    """A network of its own on worker1 with IPv6 to it."""
    host = node("worker1")
    try:
        host.check_output("ip netns add test-outside")
        host.check_output("ip link add test-in type veth peer name test-out netns test-outside")
        host.check_output("sysctl --quiet --write net.ipv6.conf.test-in.disable_ipv6=0")
        host.check_output(f"ip address add {HERE_6}/64 dev test-in nodad && ip link set test-in up")
        for address in (CLUSTER_6, STRANGER_6):
            host.check_output(f"{NETNS} ip address add {address}/64 dev test-out nodad")
        host.check_output(f"{NETNS} ip link set test-out up")
        yield host
    finally:
        host.run("ip link delete test-in")
        host.run("ip netns delete test-outside")


@pytest.fixture(scope="module")
def networks(addresses, converge):
    """worker1 with networks that are told apart."""
    subnet = str(ipaddress.ip_network(f"{addresses['worker1']}/24", strict=False))
    converge(
        "--limit",
        "worker1",
        dask_cluster_networks=[subnet, f"{CLUSTER_6}/128"],
        dask_cluster_client_networks=[f"{CLIENT}/32"],
        dask_firewall_monitoring_networks=[PAGES],
        dask_firewall_extra_networks={"dashboard": [PAGES]},
    )
    yield
    converge("--limit", "worker1")


@pytest.mark.parametrize("name", ["scheduler1", "worker1", "worker2"])
def test_every_host_loads_its_table_before_its_engine(node, name):
    host = node(name)
    said = host.check_output(f"systemctl show --property=UnitFileState,ActiveState,Before {UNIT}").splitlines()
    assert {"UnitFileState=enabled", "ActiveState=active"} <= set(said)
    before = next(line for line in said if line.startswith("Before=")).removeprefix("Before=").split()
    assert {"docker.service", "network-pre.target"} <= set(before)
    assert "type filter hook input" in host.check_output(TABLE)
    file = host.file(FILES[0])
    assert (file.user, file.group, oct(file.mode)) == ("root", "root", "0o644")
    # the distribution's own is as it came
    assert set(host.check_output(NFTABLES).splitlines()) == {
        "UnitFileState=disabled",
        "ActiveState=inactive",
        "DropInPaths=",
    }
    changed = host.run("dpkg --verify nftables").stdout.splitlines()
    assert not [line for line in changed if "/usr/share/" not in line]


def test_the_boots_order_has_no_circle_where_sysinit_waits_for_the_network(node):
    """systemd would drop a unit of the circle; cloud-init orders itself so."""
    unit = (
        "[Unit]\nDefaultDependencies=no\nAfter=network-pre.target\nBefore=sysinit.target\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/true\n"
    )
    host, folder, name = node("worker1"), "/run/test-units", "test-like-cloud-init.service"
    host.check_output(f"mkdir -p {folder}/sysinit.target.wants && printf %s >{folder}/{name}", unit)
    host.check_output(f"ln -s ../{name} {folder}/sysinit.target.wants")
    said = host.run(f"SYSTEMD_UNIT_PATH={folder}: systemd-analyze verify multi-user.target")
    host.check_output(f"rm -r {folder}")
    circles = [line for line in (said.stdout + said.stderr).splitlines() if UNIT in line or name in line]
    assert circles == []


def test_it_outlasts_the_engine_its_own_reload_and_restarts_of_nftables(node, wait):
    host = node("worker1")
    table = host.check_output(TABLE)
    for command in (
        "systemctl reset-failed docker.service docker.socket; systemctl restart docker.service",
        f"systemctl reload {UNIT}",
        # a stop leaves the ports closed; the start is as a boot does it
        f"systemctl stop {UNIT} && {TABLE} && {DELETE} && systemctl start {UNIT}",
    ):
        host.check_output(command)
        assert host.check_output(TABLE) == table, command

    # nftables.service as it would be, but that it flushes our table alone: the node's name service is in another one
    drop_in = "/run/systemd/system/nftables.service.d"
    settings = (
        "[Service]\nProtectSystem=no\nProtectHome=no\nExecStop=\n"
        f"ExecStart=\nExecStart=/usr/sbin/{DELETE}\nExecReload=\nExecReload=/usr/sbin/{DELETE}\n"
    )
    host.check_output(f"mkdir -p {drop_in} && printf %s >{drop_in}/test.conf", settings)
    try:
        host.check_output("systemctl daemon-reload")
        does = host.check_output("systemctl show --property=ExecStart,ExecReload,ExecStop nftables.service")
        assert "nftables.conf" not in does
        assert "flush" not in does
        host.check_output("systemctl start nftables.service")
        assert host.run(TABLE).rc != 0
        for verb in ("reload", "restart"):
            # it returns before what it has brought along
            host.check_output(f"systemctl {verb} nftables.service")
            wait(lambda: host.run(TABLE).stdout.strip() == table, f"the table is back after a {verb}", 120)
    finally:
        host.run("systemctl stop nftables.service")
        host.check_output(f"rm -r {drop_in} && systemctl daemon-reload && systemctl start {UNIT}")
    assert host.check_output(TABLE) == table


def test_what_somebody_did_to_the_table_is_undone_by_the_next_run(node, converge):
    worker1, worker2 = node("worker1"), node("worker2")
    before = worker1.check_output(TABLE), worker2.check_output(TABLE)
    worker1.check_output(DELETE)
    worker2.check_output("nft insert rule inet dask_hostnet input accept")
    assert converge("--limit", "worker1,worker2").changed == {"worker1": 1, "worker2": 1}
    assert (worker1.check_output(TABLE), worker2.check_output(TABLE)) == before


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"dask_cluster_client_networks": ["10.0.0.1/8"], "dask_firewall_monitoring_networks": ["office"]},
            "worker1: dask_cluster_client_networks: '10.0.0.1/8' (10.0.0.1/8 has host bits set): "
            "write it as in 192.0.2.0/24; dask_firewall_monitoring_networks: 'office' (",
        ),
        (
            {"dask_cluster_registry_port": 22},
            "worker1: dask_cluster_registry_port: 22 takes port 22, by which SSH reaches this host: plan another",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(node, play, variables, line):
    host = node("worker1")
    before = host.check_output(TABLE)
    run = play("--limit", "worker1", **variables)
    assert run.status == 2
    run.says(line)
    assert run.changed == {"worker1": 0}
    assert host.check_output(TABLE) == before


def test_it_goes_and_comes_on_a_host_without_nft(node, converge):
    host = node("worker1")
    table, nat = host.check_output(TABLE), host.run("nft --stateless list table ip nat").stdout
    assert converge("--limit", "worker1", dask_firewall_enabled=False).changed["worker1"] > 0
    assert host.run(TABLE).rc != 0
    assert host.run("nft --stateless list table ip nat").stdout == nat
    assert host.check_output(f"systemctl show --property=LoadState --value {UNIT}") == "not-found"
    assert not any(host.file(path).exists for path in FILES)
    assert converge("--limit", "worker1", "--check", dask_firewall_enabled=False).changed == {"worker1": 0}

    host.check_output("dpkg --purge nftables")
    foreseen = converge("--limit", "worker1", "--check", "--diff")
    # the package, the table's file, the unit
    assert foreseen.changed == {"worker1": 3}
    foreseen.says("policy accept;", f"ExecReload=/usr/sbin/nft --file {FILES[0]}")
    assert not any(host.file(path).exists for path in FILES)
    converge("--limit", "worker1")
    assert host.check_output(TABLE) == table
    assert host.check_output(f"systemctl is-enabled {UNIT}") == "enabled"
    assert set(host.check_output(NFTABLES).splitlines()) == {
        "UnitFileState=disabled",
        "ActiveState=inactive",
        "DropInPaths=",
    }


# These come last: the networks stay told apart until the end of the file.


@pytest.mark.usefixtures("networks")
def test_from_each_network_the_open_ports_are_its_own(listeners, wire, addresses):
    found = scan(wire, addresses["worker1"], addresses["worker2"], STRANGER, CLIENT, PAGES)
    local = [line.split()[3].rpartition(":") for line in listeners.check_output("ss -Htln").splitlines()]
    held = {int(port) for address, _, port in local if not address.startswith(("127.", "[::1]"))}
    assert held >= LISTENING | {22}
    for source, allowed in (
        (addresses["worker2"], OF_CLUSTER),
        (STRANGER, set()),
        (CLIENT, {8786, 8443}),
        (PAGES, {8787, 8443} | WORKER_PAGES),
    ):
        opened, silent = found[source]
        assert silent == PLAN - allowed, source
        assert opened == {port for port in held if port <= 12000} - silent, source


@pytest.mark.usefixtures("networks")
def test_the_host_itself_reaches_all_of_its_ports(listeners, addresses):
    for address in ("127.0.0.1", addresses["worker1"]):
        opened, silent = scan(listeners, address)[""]
        assert silent == set(), address
        assert opened >= LISTENING | {22}, address


@pytest.mark.usefixtures("networks", "listeners")
def test_ipv6_is_closed_alike(outside_6):
    found = scan(outside_6, HERE_6, CLUSTER_6, STRANGER_6, ports="4990-10400", prefix=NETNS)
    for source, allowed in ((CLUSTER_6, OF_CLUSTER), (STRANGER_6, set())):
        opened, silent = found[source]
        assert silent == PLAN - allowed, source
        assert opened & LISTENING == LISTENING - silent, source
