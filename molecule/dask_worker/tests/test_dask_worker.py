"""The workers on their hosts: addresses, sizes, counts, and that no change takes a client's data unasked."""

import ipaddress
import json
import shutil
from pathlib import Path

import pytest
import yaml

INVENTORY = Path(__file__).parents[2] / "inventory"
SIZES = Path(__file__).parents[1] / "sizes.yml"
SCHEDULER = Path(__file__).parents[2] / "dask_scheduler" / "converge.yml"
CERTIFICATES = Path(__file__).parents[2] / "dask_tls" / "converge.yml"
MIB = 2**20
ONE = ("--limit", "worker1")
HOLD = """
import os, sys
from distributed import Client
client = Client(os.environ["WHERE"])
kept = client.scatter({"kept": 1}, broadcast=True)
print("held", flush=True)
sys.stdin.read()
"""
COUNTS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8787/json/counts.json", timeout=9).read().decode())
"""
FROM_A_TASK = """
print(json.dumps(client.submit(lambda: distributed.get_client().id, workers=["worker1-0"], pure=False).result(60)))
"""
WORKERS = """
workers = client.scheduler_info(n_workers=-1)["workers"].values()
print(json.dumps({w["name"]: [w["host"], w["nthreads"], w["memory_limit"], w["resources"]] for w in workers}))
"""


def listening(host):
    """Where the node's processes listen, less what every host has (Docker's own resolver shows no process)."""
    known = ("sshd", "containerd", "docker-registr")
    lines = host.check_output("ss -Htlnp").splitlines()
    return {line.split()[3] for line in lines if "users:" in line and not any(name in line for name in known)}


def planned(address, *numbers):
    return {
        socket
        for i in numbers
        for socket in (
            f"{address}:{10000 + i}",
            f"{address}:{10100 + i}",
            *(f"{at}:{10200 + i}" for at in ("127.0.0.1", address)),
        )
    }


@pytest.fixture
def identity(node, inspect):
    """Tells a worker's container on worker1 from its successor; None when there is none."""

    def of(name):
        found = inspect(node("worker1"), name)
        return found and (found["Id"], found["State"]["StartedAt"])

    return of


@pytest.fixture
def holder(node, addresses, image, wait):
    """A client in a process of its own that keeps one key in the cluster until the test ends."""
    host = node("scheduler1")

    def idle():
        found = json.loads(host.check_output("python3 -c %s", COUNTS))
        return (found["tasks"], found["clients"]) == (0, 1)

    where = f"tls://{addresses['scheduler1']}:8786"
    certificate = "--user 10786:10786 --volume /etc/dask-hostnet/tls:/etc/dask-tls:ro"
    config = "--volume /etc/dask-hostnet/scheduler:/etc/dask:ro --env DASK_CONFIG=/etc/dask"
    run = f"docker run --detach --interactive --network host --name test-holder {certificate} {config}"
    host.check_output(f"{run} --env WHERE=%s %s python -c %s", where, image, HOLD)
    try:
        wait(lambda: "held" in host.check_output("docker logs test-holder"), "a client holds a key", 60)
        yield
    finally:
        host.check_output("docker rm --force test-holder")
        wait(idle, "the scheduler has let go of the client's key", 60)


@pytest.mark.parametrize("name", ["worker1", "worker2"])
def test_a_worker_listens_as_planned_and_nowhere_else(node, addresses, name):
    assert listening(node(name)) == planned(addresses[name], 0)


def test_the_scheduler_knows_them_by_name_with_their_sizes(client, addresses):
    size = [2, 1024 * MIB, {}]
    assert client(WORKERS) == {f"{name}-0": [addresses[name], *size] for name in ("worker1", "worker2")}


def test_a_worker_runs_within_its_limits_and_spills_to_disk(node, inspect, image):
    host = node("worker1")
    container = inspect(host, "dask-worker-0")
    assert container["Config"]["Image"] == image
    assert container["State"]["Health"]["Status"] == "healthy"
    # the worker's limit and what its nanny needs
    assert container["HostConfig"]["Memory"] == (1024 + 256) * MIB
    folder = host.file("/var/lib/dask-hostnet/spill/0")
    assert (folder.uid, folder.gid, oct(folder.mode)) == (10786, 10786, "0o700")
    assert host.check_output("stat --file-system --format %%T %s", folder.path) != "tmpfs"
    assert host.check_output("ls %s/dask-scratch-space", folder.path) != ""


@pytest.mark.timeout(1200)
def test_a_higher_count_adds_and_a_lower_one_removes_only_that(node, addresses, identity, converge, client, request):
    host, first = node("worker1"), identity("dask-worker-0")
    run = converge(*ONE, dask_worker_count=2)
    assert set(run.changed) == {"worker1"}
    assert identity("dask-worker-0") == first
    assert listening(host) == planned(addresses["worker1"], 0, 1)
    assert sorted(client(WORKERS)) == ["worker1-0", "worker1-1", "worker2-0"]
    second = identity("dask-worker-1")

    request.getfixturevalue("holder")
    foreseen = converge(*ONE, "--check", dask_worker_count=1)
    foreseen.says("worker1: would hand over and replace or remove dask-worker-1")
    assert (identity("dask-worker-0"), identity("dask-worker-1")) == (first, second)

    removed = converge(*ONE, dask_worker_count=1)
    removed.says("worker1-1: handed over in")
    assert removed.changed == foreseen.changed
    assert (identity("dask-worker-0"), identity("dask-worker-1")) == (first, {})
    assert listening(host) == planned(addresses["worker1"], 0)


@pytest.mark.timeout(1200)
def test_a_change_of_the_scheduler_is_refused_and_one_of_a_worker_is_made_while_a_client_holds_data(
    node, inspect, identity, converge, play, client, holder
):
    scheduler = inspect(node("scheduler1"), "dask-scheduler")["Id"]
    refused = play(playbook=SCHEDULER, dask_scheduler_config={"distributed": {"scheduler": {"probe": 1}}})
    assert refused.status != 0
    refused.says(
        "scheduler1: dask-scheduler would be replaced or removed while the cluster has 1 tasks or stored keys (",
        " bytes), of which 0 processing, and 1 clients.",
        "Wait until it is idle and run again, or lose that work with -e dask_cluster_allow_interrupt=true",
    )
    assert refused.changed == {"scheduler1": 0}
    # the refused configuration must not wait there for the next restart
    assert "probe" not in node("scheduler1").file("/etc/dask-hostnet/scheduler/dask.yaml").content_string

    first = identity("dask-worker-0")
    change = {
        "dask_worker_memory_limit": "768MiB",
        "dask_worker_resources": {"probe": 3},
        "dask_worker_environment": {"PROBE": 7},
    }
    converge(*ONE, **change).says("worker1-0: handed over in")
    assert inspect(node("scheduler1"), "dask-scheduler")["Id"] == scheduler
    assert identity("dask-worker-0") != first
    changed = inspect(node("worker1"), "dask-worker-0")
    assert changed["HostConfig"]["Memory"] == (768 + 256) * MIB
    assert "PROBE=7" in changed["Config"]["Env"]
    assert client(WORKERS)["worker1-0"][2:] == [768 * MIB, {"probe": 3}]


@pytest.mark.timeout(1200)
def test_an_idle_cluster_takes_the_change(node, identity, converge, client):
    """What the test before left is put back, without a word about interruption, also when a task used a client."""
    assert client(FROM_A_TASK).startswith("Client-worker-")
    # the worker keeps that client; the other one is dask's own
    assert json.loads(node("scheduler1").check_output("python3 -c %s", COUNTS))["clients"] == 2
    changed = identity("dask-worker-0")
    converge(*ONE)
    assert identity("dask-worker-0") != changed
    assert client(WORKERS)["worker1-0"][1:] == [2, 1024 * MIB, {}]


CANARY = "s3cr3t-canary"
READ = """
def read():
    path = os.environ["DB_PASSWORD_FILE"]
    return [path, open(path).read(), os.stat(path).st_mode & 0o777, "canary" in str(os.environ)]
print(json.dumps(client.submit(read, workers=["worker1-0"], pure=False).result(60)))
"""


@pytest.mark.timeout(1200)
def test_a_secret_is_a_file_that_tasks_read_and_nobody_else_is_shown(node, identity, inspect, converge, client):
    host, folder = node("worker1"), "/etc/dask-hostnet/secrets"
    run = converge(*ONE, "--diff", "-v", dask_worker_secrets={"DB_PASSWORD": CANARY, "OTHER": 1})
    # the command line's own -e is the operator's
    assert CANARY not in run.text.replace(f'"DB_PASSWORD": "{CANARY}"', "")
    assert client(READ) == ["/run/secrets/DB_PASSWORD", CANARY, 0o400, False]
    assert CANARY not in json.dumps(inspect(host, "dask-worker-0"))
    file = host.file(f"{folder}/DB_PASSWORD")
    assert (file.uid, file.gid, oct(file.mode)) == (10786, 10786, "0o400")
    assert oct(host.file(folder).mode) == "0o750"

    worker = identity("dask-worker-0")
    assert converge(*ONE, dask_worker_secrets={"DB_PASSWORD": "another", "OTHER": 1}).changed == {"worker1": 1}
    assert identity("dask-worker-0") == worker
    assert client(READ)[1] == "another"

    converge(*ONE)
    assert host.check_output("find %s -type f", folder) == ""
    assert "_FILE" not in json.dumps(inspect(host, "dask-worker-0")["Config"]["Env"])


KINDS = """
def kind():
    return [os.getuid(), os.getgid(), os.environ.get("KIND"), os.path.exists("/data/here"), os.access("/data", os.W_OK)]
workers = client.scheduler_info(n_workers=-1)["workers"].values()
kinds = {w["name"]: client.submit(kind, workers=[w["name"]], pure=False) for w in workers}
print(json.dumps({name: answer.result(60) for name, answer in kinds.items()}))
"""


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_hosts_of_several_kinds_are_one_cluster(node, addresses, converge, play, client, tmp_path):
    """One shares the scheduler's host, one is a file server's user, one has a second address for data."""
    spoilt = tmp_path / "inventory"
    shutil.copytree(INVENTORY, spoilt)
    groups = yaml.safe_load((spoilt / "hosts.yml").read_text(encoding="utf-8"))
    other = str(ipaddress.ip_address(addresses["worker2"]) + 100)
    workers = groups["dask_workers"]["hosts"]
    workers["scheduler1"] = {"dask_worker_memory_limit": "512MiB", "dask_worker_environment": {"KIND": "small"}}
    workers["worker1"] |= {
        "dask_cluster_uid": 12345,
        "dask_cluster_gid": 12346,
        "dask_worker_mounts": ["/srv/data:/data:ro"],
        "dask_worker_resources": {"GPU": 1},
    }
    workers["worker2"] |= {"dask_cluster_address": other, "dask_worker_count": 2, "dask_worker_nthreads": 1}
    (spoilt / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    node("worker1").check_output("install -d /srv/data && touch /srv/data/here")
    device = node("worker2").check_output("ip -o -4 address show scope global").split()[1]
    node("worker2").check_output("ip address add %s/24 dev %s", other, device)
    try:
        # its containers must be able to read the host's key
        assert play(inventory=spoilt, playbook=CERTIFICATES).status == 0
        run = play(inventory=spoilt)
        assert run.status == 0, run.text
        sizes = client(WORKERS)
        assert sizes == {
            "scheduler1-0": [addresses["scheduler1"], 2, 512 * MIB, {}],
            "worker1-0": [addresses["worker1"], 2, 1024 * MIB, {"GPU": 1}],
            "worker2-0": [other, 1, 1024 * MIB, {}],
            "worker2-1": [other, 1, 1024 * MIB, {}],
        }
        assert client(KINDS) == {
            "scheduler1-0": [10786, 10786, "small", False, False],
            "worker1-0": [12345, 12346, None, True, False],
            "worker2-0": [10786, 10786, None, False, False],
            "worker2-1": [10786, 10786, None, False, False],
        }
        assert set(play(inventory=spoilt).changed.values()) == {0}
    finally:
        play(playbook=CERTIFICATES)
        gone = play("--limit", "scheduler1", inventory=spoilt, dask_worker_count=0, dask_cluster_allow_interrupt=True)
        back = play(dask_cluster_allow_interrupt=True)
        node("worker2").check_output("ip address delete %s/24 dev %s", other, device)
    assert (gone.status, back.status) == (0, 0), back.text
    assert sorted(client(WORKERS)) == ["worker1-0", "worker2-0"]


def test_a_share_too_small_is_refused_before_a_change(play, identity):
    first = identity("dask-worker-0")
    run = play(*ONE, dask_worker_memory_limit="100MiB")
    assert run.status != 0
    run.says("worker1: dask_worker_memory_limit comes to 100 MiB for each of 1 workers", "it must be at least 256 MiB")
    assert identity("dask-worker-0") == first


def test_sizes_are_derived_as_documented(play, tmp_path):
    """docs/architecture.md, "A worker's size"; memory in MiB here."""
    big = {"sizes_memtotal_mb": 65530, "sizes_vcpus": 16}
    small = {"sizes_memtotal_mb": 8192, "sizes_vcpus": 2}
    workers = {
        "big": big,
        "four": big | {"dask_worker_count": 4},
        "small": small | {"dask_worker_count": 3},
        "given": small | {"dask_worker_nthreads": 3, "dask_worker_memory_limit": "5GiB"},
        "shared": big,
    }
    everything = {
        "dask_cluster_scheduler_host": "192.0.2.1",
        "dask_cluster_networks": [],
        "dask_cluster_client_networks": [],
    }
    inventory = {
        "all": {"vars": everything},
        "dask_workers": {"hosts": workers},
        "dask_scheduler": {"hosts": {"shared": {}}},
        "dask_registry": {"children": {"dask_scheduler": {}}},
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    run = play(playbook=SIZES, inventory=tmp_path)
    assert run.status == 0, run.text
    expected = {
        "big dask-worker-0": (16, 65530 - 6553 - 256),
        "four dask-worker-3": (4, (65530 - 6553) / 4 - 256),
        "small dask-worker-2": (1, (8192 - 2048) / 3 - 256),
        "given dask-worker-0": (3, 5120),
        "shared dask-worker-0": (16, 65530 - 6553 - 4096 - 512 - 256),
    }
    run.says(
        *(
            f"{name} {threads} {int(size * MIB)} {int((size + 256) * MIB)} end"
            for name, (threads, size) in expected.items()
        )
    )
