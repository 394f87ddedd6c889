"""The scheduler on its host: where it listens, what it was told, and that an edit of its configuration reaches it."""

import pytest

testinfra_hosts = ["ansible://dask_scheduler"]
NAME = "dask-scheduler"
SEEN = """
def seen(dask_scheduler):
    saturation = dask.config.get("distributed.scheduler.worker-saturation")
    return [saturation, os.environ["PROBE"], dask_scheduler.idle_timeout]

print(json.dumps(client.run_on_scheduler(seen)))
"""


def test_it_listens_as_planned_and_nowhere_else(host, addresses):
    address = addresses["scheduler1"]
    lines = host.check_output("ss -Htlnp").splitlines()
    # less those that the host had before, and Docker's own resolver, which has no process
    known = ("sshd", "containerd", "docker-registr", "nginx")
    listening = {line.split()[3] for line in lines if "users:" in line and not any(name in line for name in known)}
    assert listening == {f"{address}:8786", "127.0.0.1:8787"}
    # as a neighbour sees it
    dial = "python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)' %s %s"
    host.check_output(dial, address, "8786")
    assert "ConnectionRefusedError" in host.run(dial, address, "8787").stderr


def test_it_is_healthy_with_the_limits_of_the_inventory(host, inspect, image):
    container = inspect(host, NAME)
    assert container["State"]["Health"]["Status"] == "healthy"
    assert container["Config"]["Image"] == image
    assert container["HostConfig"]["Memory"] == 2**30
    assert container["Config"]["Labels"]["io.dask-hostnet.kind"] == NAME
    file = host.file("/etc/dask-hostnet/scheduler/dask.yaml")
    assert (file.user, file.group, oct(file.mode)) == ("root", "root", "0o644")


def test_its_pages_answer_on_its_host(host):
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8787/health', timeout=9).read().decode())"
    assert host.check_output("python3 -c %s", code) == "ok"


@pytest.mark.timeout(1200)
def test_an_edit_reaches_the_running_scheduler(host, inspect, converge, client):
    before = inspect(host, NAME)["Id"]
    converge(
        dask_scheduler_config={"distributed": {"scheduler": {"worker-saturation": 3.5}}},
        dask_scheduler_environment={"PROBE": 7},
        dask_scheduler_arguments=["--idle-timeout", "9 hours"],
        dask_scheduler_memory_limit="768MiB",
    )
    container = inspect(host, NAME)
    assert container["Id"] != before
    assert container["HostConfig"]["Memory"] == 768 * 2**20
    assert client(SEEN) == [3.5, "7", 9 * 3600]
    converge()
    assert inspect(host, NAME)["HostConfig"]["Memory"] == 2**30
