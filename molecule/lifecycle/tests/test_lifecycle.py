"""A cluster changes while one load runs: nothing of it is lost, and no task runs twice.

Each test goes on where the one before ended.
"""

import re
from contextlib import suppress

import pytest
import yaml
from conftest import INVENTORY, ROOT
from killing import killed
from packages import offer, withdraw

SITE = ROOT / "site.yml"
DRAIN, UNDRAIN, PATCH, STATUS, VERIFY = (
    ROOT / "playbooks" / f"{verb}.yml" for verb in ("drain", "undrain", "patch", "status", "verify")
)
ONE, TWO = ("--limit", "worker1"), ("--limit", "worker2")
MARK = "/etc/dask-hostnet/drained/worker1-0"
FIRST, MORE = ["worker1-0", "worker2-0"], ["worker1-0", "worker2-0", "worker2-1", "worker2-2"]
HANDED = r"{}: handed over in \S+ s: (\d+) keys moved \((\d+) bytes\), \d+ tasks waited for, 0 tasks re-run"
RETIRED = """
print(json.dumps(client.run_on_scheduler(lambda dask_scheduler: [
    worker.name for worker in dask_scheduler.workers.values() if worker.status.name == "closing_gracefully"])))
"""
THREADS = """
print(json.dumps({w["name"]: w["nthreads"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}))
"""
# nobody waits for its result; it ends when it is let go
HELD = """
def held():
    import pathlib, time
    pathlib.Path("/tmp/held").touch()
    while not pathlib.Path("/tmp/let-go").exists():
        # nobody tells a task that a file has come
        time.sleep(0.1)

distributed.fire_and_forget(client.submit(held, pure=False, priority=10, workers=["worker1-0"]))
print(json.dumps("submitted"))
"""
STORE = """
client.publish_dataset(kept=client.scatter(b"x" * 5_000_000, workers=["worker1-0"], hash=False))
print(json.dumps("stored"))
"""
FETCH = """
size = len(client.get_dataset("kept").result(30))
client.unpublish_dataset("kept")
print(json.dumps(size))
"""

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def edit(node, play):
    """Write variables of a host into the inventory, as an operator does; they are gone at the end, and their effect."""
    folder = INVENTORY / "host_vars"
    written = []

    def write(host, **variables):
        folder.mkdir(exist_ok=True)
        written.append(folder / f"{host}.yml")
        written[-1].write_text(yaml.safe_dump(variables), encoding="utf-8")

    yield write
    for path in written:
        path.unlink(missing_ok=True)
    # of a test that failed
    if any(node(host).run("ls /etc/dask-hostnet/drained").stdout for host in ("worker1", "worker2")):
        play("--limit", "dask_workers", playbook=UNDRAIN)
    run = play("--limit", "dask_workers", playbook=SITE)
    assert run.status == 0, run.text


@pytest.fixture
def container(node, inspect):
    """What Docker says of a worker's container: state, restart policy, and when it was started."""

    def ask(host="worker1", name="dask-worker-0"):
        found = inspect(node(host), name)
        return found["State"]["Status"], found["HostConfig"]["RestartPolicy"]["Name"], found["State"]["StartedAt"]

    return ask


def booted(host):
    """Return when the host's systemd began; nothing while it does not answer."""
    with suppress(RuntimeError, AssertionError, ValueError):
        return host.check_output("systemctl show --property=UserspaceTimestampMonotonic --value")
    return ""


def reboot(host, wait):
    """Reboot a host, whose workers wait for what they run, one after another."""
    before = booted(host)
    with suppress(RuntimeError):
        host.run("systemctl reboot")
    wait(lambda: booted(host) not in ("", before), "the host is up again", 240)


def test_a_drain_that_was_killed_goes_on_when_it_is_run_again(node, play, client, names, edit, wait, load, container):
    try:
        # a task that does not end before the kill
        client(HELD)
        wait(lambda: node("worker1").run("docker exec dask-worker-0 test -e /tmp/held").rc == 0, "it runs", 60)
        # while what the worker has is moved, and while it is marked
        moving = killed(
            DRAIN, *ONE, at="dask_worker : Drain | Ensure others", when=lambda: client(RETIRED) == ["worker1-0"]
        )
    finally:
        node("worker1").run("docker exec dask-worker-0 touch /tmp/let-go")
    assert moving
    play(playbook=STATUS).says("take no tasks: worker1-0: a drain is under way or was cut off")
    assert killed(DRAIN, *ONE, at="dask_worker : Drain | Ensure each is marked")
    run = play(*ONE, playbook=DRAIN, dask_worker_drain_reason="a test")
    assert run.status == 0, run.text
    # the first had moved what there was
    assert re.search(HANDED.format("worker1-0"), run.text), run.text
    assert container()[:2] == ("exited", "no")
    assert names() == ["worker2-0"]
    assert re.fullmatch(r"who: \S+@\S+\nwhen: \S+Z\nwhy: a test", node("worker1").file(MARK).content_string.strip())


def test_the_last_worker_is_refused_by_its_bytes(play, names, load):
    # else it would be drained
    assert names() == ["worker2-0"]
    run = play(*TWO, playbook=DRAIN)
    assert run.status != 0
    assert re.search(r"worker2-0: \d+ keys \(\d+ bytes\) are nowhere else, \d+ tasks are there, and no other", run.text)
    run.says("Nothing was changed. Add a worker or wait until the results are gone")
    assert set(run.changed.values()) == {0}
    assert names() == ["worker2-0"]


def test_it_stays_off_whatever_comes(node, play, converge, wait, load, container):
    host = node("worker1")
    reboot(host, wait)
    wait(lambda: host.run("docker info").rc == 0, "the engine answers", 120)
    # its verification too
    run = converge()
    assert set(run.changed.values()) == {0}
    run.says("absent as expected: worker1-0")
    assert container()[:2] == ("exited", "no")
    assert play(*ONE, playbook=DRAIN).changed["worker1"] == 0
    status = play(*ONE, playbook=STATUS)
    assert re.search(r"worker1 dask-worker-0 drained - \S+ .* none", status.text), status.text


def test_undrain_brings_it_back(node, play, load, container, there):
    run = play("-e", "dask_worker_only=worker1-0", playbook=UNDRAIN)
    assert run.status == 0, run.text
    assert run.changed["worker2"] == 0
    assert container()[:2] == ("running", "unless-stopped")
    assert not node("worker1").file(MARK).exists
    there(FIRST)


def test_a_stop_of_the_engine_leaves_workers_alone_or_has_them_hand_over(
    node, client, names, wait, load, container, there
):
    host = node("worker1")
    before = container()
    # with live-restore
    host.check_output("systemctl stop docker.socket docker && systemctl start docker")
    wait(lambda: host.run("docker info").rc == 0, "the engine answers", 120)
    assert container() == before
    assert names() == FIRST
    assert client(STORE) == "stored"
    host.check_output("cp --archive /etc/docker/daemon.json /root/daemon.json")
    host.check_output("sed --in-place '/live-restore/s/true/false/' /etc/docker/daemon.json && systemctl reload docker")
    try:
        wait(lambda: host.check_output("docker info --format '{{.LiveRestoreEnabled}}'") == "false", "it is off")
        host.check_output("systemctl stop docker.socket docker")
        assert names() == ["worker2-0"]
        assert client(FETCH) == 5_000_000
    finally:
        host.check_output("systemctl start docker")
        host.check_output("mv /root/daemon.json /etc/docker/daemon.json && systemctl reload docker")
    there(FIRST)
    assert container()[0] == "running"
    assert container()[2] != before[2]


def test_docker_stop_hands_over_and_a_start_brings_it_back(node, client, load, there):
    host = node("worker1")
    assert client(STORE) == "stored"
    host.check_output("docker stop dask-worker-0")
    assert client(FETCH) == 5_000_000
    assert "all is handed over" in host.run("docker logs --tail 40 dask-worker-0").stderr
    host.check_output("docker start dask-worker-0")
    there(FIRST)


def test_two_workers_are_added_by_the_run_after_one_that_was_killed(play, load, edit, container, there):
    before = container(), container("worker2")
    # two threads each on a node of two cores
    edit("worker2", dask_worker_count=3, dask_preflight_ignore=["sizes"])
    assert killed(SITE, *TWO, at="dask_docker : Ensure the engine runs and starts at boot")
    run = play(*TWO, playbook=SITE)
    assert run.status == 0, run.text
    there(MORE)
    # those that were there have not noticed
    assert (container(), container("worker2")) == before


def test_a_worker_with_other_settings_is_drained_and_replaced(play, client, load, edit, there):
    edit("worker1", dask_worker_nthreads=1)
    run = play(*ONE, playbook=SITE)
    assert run.status == 0, run.text
    there(MORE)
    assert client(THREADS) == {"worker1-0": 1, "worker2-0": 2, "worker2-1": 2, "worker2-2": 2}


def test_workers_hand_over_when_their_host_is_rebooted_and_come_back_with_it(node, wait, load, container, there):
    host = node("worker2")
    started = container("worker2")[2]
    reboot(host, wait)
    there(MORE)
    assert container("worker2")[2] > started
    assert "all is handed over" in host.run("docker logs --since %s dask-worker-0", started).stderr


def test_a_patch_is_rehearsed_and_done_with_the_reboot_that_it_needs(node, play, load, there):
    host, other = node("worker1"), node("worker2")
    held = host.check_output("apt-mark showhold")
    offer(host, "touch /run/reboot-required")
    offer(other)
    try:
        rehearsal = play("--check", *ONE, playbook=PATCH)
        assert rehearsal.status == 0, rehearsal.text
        due = "no reboot is due yet, what is upgraded may ask for one"
        rehearsal.says(f"worker1: 1 packages to upgrade: test-patch; {due}", "would hand over and stop")
        assert host.check_output("dpkg-query --show test-patch").split()[1] == "1"
        assert not host.file(MARK).exists
        # the reboot would end one that runs though it is drained
        host.check_output("mkdir -p $(dirname %s) && echo 'why: by hand' > %s", MARK, MARK)
        refused = play(*ONE, playbook=PATCH)
        host.check_output("rm %s", MARK)
        assert refused.status != 0
        refused.says("worker1: worker1-0 runs, which the inventory has not in service: run site.yml first")
        there(MORE)
        before = booted(host), booted(other)
        run = play(playbook=PATCH)
        assert run.status == 0, run.text
        run.says("worker1: upgraded test-patch 2", "worker2: 0 packages to upgrade; no reboot is due")
        keys, size = map(int, re.search(HANDED.format("worker1-0"), run.text).groups())
        # what was scattered and what was computed; whether anything ran at that moment is the load's luck
        assert keys > 5
        assert size > 10_000_000
        assert booted(host) not in ("", before[0])
        # where there is nothing to do nobody is drained
        assert booted(other) == before[1]
        assert run.changed["worker2"] == 0
        there(MORE)
        assert not host.file(MARK).exists
        assert host.check_output("apt-mark showhold") == held
    finally:
        for each in (host, other):
            withdraw(each)


def test_a_change_of_the_scheduler_is_refused_while_the_load_holds(play, names, load):
    ttl = {"distributed": {"scheduler": {"worker-ttl": "301s"}}}
    run = play("--limit", "scheduler1", playbook=SITE, dask_scheduler_config=ttl)
    assert run.status != 0
    assert re.search(
        r"scheduler1: dask-scheduler would be replaced or removed while the cluster has \d+ tasks or stored keys"
        r" \(\d+ bytes\), of which \d+ processing, and [1-9]\d* clients",
        run.text,
    ), run.text
    assert names() == MORE


def test_nothing_was_lost_and_no_task_ran_twice(load):
    came = load()
    assert came.pop("tasks") > 200
    assert came == {"right": True, "wrong": [], "lost": [], "twice": [], "errors": []}
