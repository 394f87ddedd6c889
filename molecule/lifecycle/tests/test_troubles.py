"""A host that fails a verb or is dead, tasks that do not end, and what the inventory says of workers."""

import shutil

import pytest
import yaml
from conftest import INVENTORY, ROOT
from packages import offer, withdraw

SITE = ROOT / "site.yml"
DRAIN, UNDRAIN, PATCH, REMOVE = (ROOT / "playbooks" / f"{verb}.yml" for verb in ("drain", "undrain", "patch", "remove"))
ONE, TWO = ("--limit", "worker1"), ("--limit", "worker2")
BOTH = ["worker1-0", "worker2-0"]
# nobody waits for its result
LONG = """
import time
long = client.submit(time.sleep, 60, pure=False, workers=["worker1-0"], allow_other_workers=True)
distributed.fire_and_forget(long)
# until it runs: Dask has no wait for that
end = time.monotonic() + 30
while not any(client.processing().values()) and time.monotonic() < end:
    time.sleep(0.1)
print(json.dumps(any(client.processing().values())))
"""
COUNT = """
print(json.dumps(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))))
"""

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]


@pytest.fixture
def container(node, inspect):
    """State and restart policy of a host's worker."""

    def ask(host):
        found = inspect(node(host), "dask-worker-0")
        return found["State"]["Status"], found["HostConfig"]["RestartPolicy"]["Name"]

    return ask


def test_a_patch_stops_at_the_host_that_fails_and_goes_on_from_there(node, play, load, there, container):
    one, two = node("worker1"), node("worker2")
    offer(one, "exit 1")
    offer(two, "true")
    try:
        run = play(playbook=PATCH)
        assert run.status != 0
        run.says("worker1-0 stays drained, and no further host was begun. Run patch.yml again to go on")
        assert container("worker1") == ("exited", "no")
        assert two.check_output("dpkg-query --show test-patch").split()[1] == "1"
        there(["worker2-0"])
        # whoever drains it meanwhile has the say; here they change their mind
        mark = "/etc/dask-hostnet/drained/worker1-0"
        assert play(*ONE, playbook=DRAIN, dask_worker_drain_reason="its disk").status == 0
        assert one.file(mark).content_string.strip().endswith("why: its disk")
        one.check_output(f"sed --in-place 's/^why: .*/why: patch.yml/' {mark}")
        one.check_output("sed --in-place 's/exit 1/true/' /var/lib/dpkg/info/test-patch.postinst")
        run = play(playbook=PATCH)
        assert run.status == 0, run.text
        for host in (one, two):
            said = host.check_output("dpkg-query --show --showformat '${db:Status-Status} ${Version}' test-patch")
            assert said == "installed 2"
        there(BOTH)
        assert container("worker1") == ("running", "unless-stopped")
    finally:
        for host in (one, two):
            withdraw(host)


def test_what_the_inventory_says_of_a_workers_state_wins(node, play, load, there, container):
    off = {"dask_worker_state": "drained"}
    run = play(*ONE, playbook=SITE, **off)
    assert run.status == 0, run.text
    assert container("worker1")[0] == "exited"
    there(["worker2-0"])
    refused = play(*ONE, playbook=UNDRAIN, **off)
    assert refused.status != 0
    refused.says("worker1: dask_worker_state is drained in the inventory; take that out, and run again")
    run = play(*ONE, playbook=SITE)
    assert run.status == 0, run.text
    there(BOTH)
    for playbook in (DRAIN, PATCH):
        refused = play(*ONE, playbook=playbook, dask_worker_state="running")
        assert refused.status != 0
        refused.says("worker1: dask_worker_state is running in the inventory")
    there(BOTH)
    came = load()
    assert (came["right"], came["lost"], came["twice"], came["errors"]) == (True, [], [], []), came


def test_a_drain_that_takes_too_long_is_given_up_or_its_tasks_run_again_elsewhere(play, client, there, container, wait):
    assert client(LONG)
    soon = {"dask_worker_drain_timeout": 1}
    run = play(*ONE, playbook=DRAIN, dask_worker_drain_outcome="undo", **soon)
    assert run.status != 0
    run.says("tasks still run after 1 s", "put back into service")
    assert container("worker1") == ("running", "unless-stopped")
    there(BOTH)
    run = play(*ONE, playbook=DRAIN, dask_worker_drain_outcome="reschedule", **soon)
    assert run.status == 0, run.text
    run.says("1 tasks re-run")
    assert container("worker1") == ("exited", "no")
    wait(lambda: client(COUNT) == 0, "it has run elsewhere", 180)
    run = play(*ONE, playbook=UNDRAIN)
    assert run.status == 0, run.text
    there(BOTH)


def test_a_host_that_is_dead_is_removed_unasked(node, play, names, there, tmp_path):
    host, inventory = node("worker2"), tmp_path / "inventory"
    shutil.copytree(INVENTORY, inventory)
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())
    # nobody listens there
    hosts["dask_workers"]["hosts"]["worker2"]["ansible_port"] = 1
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    # its connections stay open, as those of a host without power do
    host.check_output("docker pause dask-worker-0")
    try:
        run = play(*TWO, playbook=REMOVE, inventory=inventory)
        assert run.status != 0
        run.says("worker2 does not answer. Start it; where it is gone for good, -e dask_worker_host_is_dead=true")
        run = play(*TWO, playbook=REMOVE, inventory=inventory, dask_worker_host_is_dead=True)
        assert run.status == 0, run.text
        run.says("worker2-0: let go of", "worker2: nothing was asked of it", "hosts.yml:")
        assert names() == ["worker1-0"]
    finally:
        host.check_output("docker unpause dask-worker-0")
    run = play(*TWO, playbook=SITE)
    assert run.status == 0, run.text
    there(BOTH)
