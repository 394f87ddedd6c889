"""An edit of a worker's host while a client computes on it: replaced without a loss, or refused by its bytes."""

import json
from pathlib import Path

import pytest

PLAYBOOK = Path(__file__).parents[1] / "reconfigure.yml"
# -e is for all hosts
THREADS = "{{ 3 if inventory_hostname == 'worker1' else 2 }}"
# data and results that are on worker1 alone, and tasks until it is told to end; the scheduler is told of each run.
# In the end, what nobody else has room for.
LOAD = """
import json, os, time
from collections import Counter
from distributed import Client, get_worker, wait
client = Client(os.environ["WHERE"])
def count(name, seconds):
    get_worker().log_event("test-edits", name)
    time.sleep(seconds)
    return name
def until(name):
    while not os.path.exists("/tmp/" + name):
        time.sleep(0.1)
here = {"workers": ["worker1-0"], "allow_other_workers": True, "pure": False}
kept = client.scatter(list(range(20)), workers=["worker1-0"], hash=False)
sole = [client.submit(count, f"sole {n}", 0, **here) for n in range(20)]
wait(sole)
work = []
print("held", flush=True)
while not os.path.exists("/tmp/end"):
    n = len(work)
    # every twentieth is long, and on worker1
    long = n % 20 == 0
    work.append(client.submit(count, f"work {n}", 10 if long else 0.3, **(here if long else {"pure": False})))
    # no faster, as the scheduler remembers a thousand events
    time.sleep(1)
results = [client.gather(kept), client.gather(sole), client.gather(work)]
runs = Counter(name for _, name in client.get_events("test-edits"))
print(json.dumps({
    "right": [
        results[0] == list(range(20)),
        results[1] == [f"sole {n}" for n in range(20)],
        results[2] == [f"work {n}" for n in range(len(work))],
    ],
    "lost": 20 + len(work) - len(runs),
    "twice": sorted(name for name, times in runs.items() if times > 1),
}), flush=True)
del kept, sole, work
# a worker has 80% of a GiB, less what it needs itself; zeros would be no memory
big = [
    client.map(lambda n: os.urandom(100_000_000), range(5), workers=[name], pure=False)
    for name in ("worker1-0", "worker2-0")
]
wait(big)
# the workers say every second how much that is, and five times 100 MB has to be in it
def used():
    return [w["metrics"]["memory"] for w in client.scheduler_info(n_workers=-1)["workers"].values()]
while min(used()) < 500_000_000:
    time.sleep(0.1)
print("full", flush=True)
until("over")
"""
TASKS = """
import urllib.request, json
print(json.load(urllib.request.urlopen("http://127.0.0.1:8787/json/counts.json", timeout=9))["tasks"])
"""
THREADS_OF = """
workers = client.scheduler_info(n_workers=-1)["workers"].values()
print(json.dumps({worker["name"]: worker["nthreads"] for worker in workers}))
"""

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def load(node, addresses, wait):
    """A client at work; `load(name)` tells it to go on, and returns its last line once it has said `word`."""
    host = node("scheduler1")
    image = host.check_output("docker inspect --format '{{.Config.Image}}' dask-scheduler")
    certificate = "--user 10786:10786 --volume /etc/dask-hostnet/tls:/etc/dask-tls:ro"
    config = "--volume /etc/dask-hostnet/scheduler:/etc/dask:ro --env DASK_CONFIG=/etc/dask"
    where = f"tls://{addresses['scheduler1']}:8786"
    run = f"docker run --detach --network host --name test-edits {certificate} {config}"
    host.check_output(f"{run} --env WHERE=%s %s python -c %s", where, image, LOAD)

    def said():
        return host.run("docker logs test-edits").stdout.splitlines()

    def go_on(name, word):
        host.check_output("docker exec test-edits touch /tmp/%s", name)
        wait(lambda: word in said(), f"the client says {word}", 240)
        return said()

    try:
        wait(lambda: "held" in said(), "the work is begun", 60)
        yield go_on
    finally:
        host.check_output("docker rm --force test-edits")
        wait(lambda: host.check_output("python3 -c %s", TASKS) == "0", "the scheduler has let go of its keys", 60)


@pytest.fixture
def container(node, inspect):
    """Tells a container from its successor, and from itself after a restart."""

    def of(host, name):
        found = inspect(node(host), name)
        return found["Id"], found["State"]["StartedAt"]

    return of


def test_an_edited_worker_is_replaced_while_a_client_computes(play, client, load, container):
    before = [container("scheduler1", "dask-scheduler"), container("worker2", "dask-worker-0")]
    first = container("worker1", "dask-worker-0")
    run = play(playbook=PLAYBOOK, dask_worker_nthreads=THREADS)
    assert run.status == 0, run.text
    run.says("worker1-0: handed over in", "0 tasks re-run", "2 present: worker1-0, worker2-0")
    assert run.changed["worker2"] == 0
    assert container("worker1", "dask-worker-0") != first
    assert [container("scheduler1", "dask-scheduler"), container("worker2", "dask-worker-0")] == before
    assert client(THREADS_OF) == {"worker1-0": 3, "worker2-0": 2}


def test_an_edit_that_the_others_cannot_hold_is_refused_by_its_bytes(play, node, load, container):
    said = load("end", "full")
    assert json.loads(said[-2]) == {"right": [True, True, True], "lost": 0, "twice": []}
    first = container("worker1", "dask-worker-0")
    configuration = node("worker1").file("/etc/dask-hostnet/worker/dask.yaml").content_string
    # Dask's configuration too, which must not wait there for the next restart
    probe = "{{ {'probe': 1} if inventory_hostname == 'worker1' else {} }}"
    run = play(playbook=PLAYBOOK, dask_worker_nthreads=THREADS, dask_worker_resources=probe)
    assert run.status != 0
    run.says("bytes) are nowhere else", "have room for", "Nothing of this host was changed")
    assert set(run.changed.values()) == {0}
    assert container("worker1", "dask-worker-0") == first
    assert node("worker1").file("/etc/dask-hostnet/worker/dask.yaml").content_string == configuration


def test_an_idle_one_goes_back_at_once(node, converge, client, load, wait):
    load("over", "full")
    wait(lambda: node("scheduler1").check_output("python3 -c %s", TASKS) == "0", "what the client held is gone", 120)
    run = converge()
    assert run.changed["worker1"] > 0
    assert client(THREADS_OF) == {"worker1-0": 2, "worker2-0": 2}
