"""Workers leave and lose nothing, by drain.yml and by stops with notice, while one load runs; the last one stays."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DRAIN, UNDRAIN, STATUS, VERIFY = (
    ROOT / "playbooks" / f"{verb}.yml" for verb in ("drain", "undrain", "status", "verify")
)
ONE = ("--limit", "worker1")
MARK = "/etc/dask-hostnet/drained/worker1-0"
# sole copies on the worker that leaves, a task that is running then, and chains until it is told to end; the scheduler
# is told of each execution
LOAD = """
import json, os, time
from collections import Counter
from distributed import Client, get_worker, wait
client = Client(os.environ["WHERE"])
def count(name, seconds, *needs):
    get_worker().log_event("test-runs", name)
    time.sleep(seconds)
    return 1 + sum(needs)
here = {"workers": ["worker1-0"], "allow_other_workers": True, "pure": False}
kept = client.scatter(list(range(20)), workers=["worker1-0"], hash=False)
sole = [client.submit(count, f"sole {n}", 0, **here) for n in range(20)]
wait(sole)
slow = client.submit(count, "slow", 15, **here)
chains = []
print("held", flush=True)
while not os.path.exists("/tmp/end"):
    link = None
    for n in range(4):
        needs = [] if link is None else [link]
        link = client.submit(count, f"link {len(chains)} {n}", 0.1, *needs, pure=False)
    chains.append(link)
    while sum(not chain.done() for chain in chains) > 8:
        time.sleep(0.1)
results = [*client.gather(kept), *client.gather(sole), slow.result(), *client.gather(chains)]
runs = Counter(name for _, name in client.get_events("test-runs"))
print(json.dumps({
    "right": results == [*range(20), *[1] * 21, *[4] * len(chains)],
    "chains": len(chains),
    "lost": 21 + 4 * len(chains) - len(runs),
    "twice": sorted(name for name, times in runs.items() if times > 1),
}), flush=True)
"""
NAMES = """
print(json.dumps(sorted(w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values())))
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
TASKS = """
import urllib.request, json
print(json.load(urllib.request.urlopen("http://127.0.0.1:8787/json/counts.json", timeout=9))["tasks"])
"""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def container(node, inspect):
    """What Docker says of worker1's container: state, restart policy, and when it was started."""

    def ask():
        found = inspect(node("worker1"), "dask-worker-0")
        return found["State"]["Status"], found["HostConfig"]["RestartPolicy"]["Name"], found["State"]["StartedAt"]

    return ask


@pytest.fixture
def back(client, wait):
    """Wait until the scheduler has both workers."""
    return lambda: wait(lambda: client(NAMES) == ["worker1-0", "worker2-0"], "both workers are there", 90)


@pytest.fixture(scope="module")
def load(node, addresses, wait):
    """A client at work; calling it ends the work and returns what came of it."""
    host = node("scheduler1")
    image = host.check_output("docker inspect --format '{{.Config.Image}}' dask-scheduler")
    certificate = "--user 10786:10786 --volume /etc/dask-hostnet/tls:/etc/dask-tls:ro"
    config = "--volume /etc/dask-hostnet/scheduler:/etc/dask:ro --env DASK_CONFIG=/etc/dask"
    where = f"tls://{addresses['scheduler1']}:8786"
    run = f"docker run --detach --network host --name test-load {certificate} {config}"
    host.check_output(f"{run} --env WHERE=%s %s python -c %s", where, image, LOAD)

    def end():
        host.check_output("docker exec test-load touch /tmp/end")
        assert host.check_output("timeout 90 docker wait test-load") == "0", host.run("docker logs test-load").stderr
        return json.loads(host.check_output("docker logs test-load").splitlines()[-1])

    try:
        wait(lambda: "held" in host.check_output("docker logs test-load"), "the work is begun", 60)
        yield end
    finally:
        host.check_output("docker rm --force test-load")
        wait(lambda: host.check_output("python3 -c %s", TASKS) == "0", "the scheduler has let go of its keys", 60)


def test_a_drained_worker_hands_over_and_its_tasks_end(node, play, client, load, container):
    run = play(*ONE, playbook=DRAIN, dask_worker_drain_reason="a test")
    assert run.status == 0, run.text
    said = r"worker1-0: handed over in \S+ s: (\d+) keys moved \((\d+) bytes\), (\d+) tasks waited for, 0 tasks re-run"
    keys, size, waited = map(int, re.search(said, run.text).groups())
    # what was scattered, what was computed, and what ran meanwhile
    assert keys > 40
    assert size > 0
    assert waited >= 1
    assert container()[:2] == ("exited", "no")
    assert client(NAMES) == ["worker2-0"]
    assert re.fullmatch(r"who: \S+@\S+\nwhen: \S+Z\nwhy: a test", node("worker1").file(MARK).content_string.strip())


def test_the_last_worker_is_refused_by_its_bytes(play, client, load):
    run = play("--limit", "worker2", playbook=DRAIN)
    assert run.status != 0
    assert re.search(
        r"worker2-0: \d\d+ keys \(\d+ bytes\) are nowhere else, \d+ tasks are there, and no other", run.text
    )
    run.says("Nothing was changed. Add a worker or wait until the results are gone")
    assert set(run.changed.values()) == {0}
    assert client(NAMES) == ["worker2-0"]


def test_it_stays_off_whatever_comes(node, play, converge, wait, load, container):
    assert converge(*ONE).changed == {"worker1": 0}
    host = node("worker1")
    host.check_output("systemctl restart docker")
    wait(lambda: host.run("docker info").rc == 0, "the engine answers")
    assert container()[:2] == ("exited", "no")
    assert play(*ONE, playbook=DRAIN).changed["worker1"] == 0
    status = play(*ONE, playbook=STATUS)
    assert re.search(r"worker1 dask-worker-0 drained - \S+ .* none", status.text), status.text
    verified = play(playbook=VERIFY)
    assert verified.status == 0, verified.text
    verified.says("absent as expected: worker1-0")


def test_undrain_brings_it_back(node, play, load, container, back):
    run = play("-e", "dask_worker_only=worker1-0", playbook=UNDRAIN)
    assert run.status == 0, run.text
    assert run.changed["worker2"] == 0
    assert container()[:2] == ("running", "unless-stopped")
    assert not node("worker1").file(MARK).exists
    back()


def test_a_stop_of_the_engine_leaves_workers_alone_or_has_them_hand_over(node, client, wait, load, container, back):
    host = node("worker1")
    before = container()
    # with live-restore
    host.check_output("systemctl stop docker.socket docker && systemctl start docker")
    wait(lambda: host.run("docker info").rc == 0, "the engine answers")
    assert container() == before
    assert client(NAMES) == ["worker1-0", "worker2-0"]
    assert client(STORE) == "stored"
    host.check_output("cp --archive /etc/docker/daemon.json /root/daemon.json")
    host.check_output("sed --in-place '/live-restore/s/true/false/' /etc/docker/daemon.json && systemctl reload docker")
    try:
        wait(lambda: host.check_output("docker info --format '{{.LiveRestoreEnabled}}'") == "false", "it is off")
        host.check_output("systemctl stop docker.socket docker")
        assert client(NAMES) == ["worker2-0"]
        assert client(FETCH) == 5_000_000
    finally:
        host.check_output("systemctl start docker")
        host.check_output("mv /root/daemon.json /etc/docker/daemon.json && systemctl reload docker")
    back()
    assert container()[0] == "running"
    assert container()[2] != before[2]


def test_docker_stop_hands_over_and_a_start_brings_it_back(node, client, load, back):
    host = node("worker1")
    assert client(STORE) == "stored"
    host.check_output("docker stop dask-worker-0")
    assert client(FETCH) == 5_000_000
    assert "all is handed over" in host.run("docker logs --tail 40 dask-worker-0").stderr
    host.check_output("docker start dask-worker-0")
    back()


def test_nothing_was_lost_and_no_task_ran_twice(load):
    came = load()
    assert came.pop("chains") > 20
    assert came == {"right": True, "lost": 0, "twice": []}
