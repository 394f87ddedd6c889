"""The scheduler moves to another host while the old one is off; the old one, back again, is taken down."""

import json
import shutil

import pytest
import yaml
from conftest import INVENTORY, ROOT
from killing import MOMENTS, killed, task_at
from leftovers import leftovers
from making import CARRIED, IMAGE, SITE, made

DRAIN, REMOVE, RESET = (ROOT / "playbooks" / f"{verb}.yml" for verb in ("drain", "remove", "reset"))
OLD, NEW = "scheduler1", "worker1"
OTHER = {OLD: NEW, NEW: OLD}
UNITS = "docker.socket docker docker-registry dask-hostnet-dashboard"
CONTAINERS = "docker ps --format '{{.Names}}'"

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def edited(tmp_path_factory, addresses, play):
    """Edit an inventory as the operator does: the old host is gone from it, or is back to be taken down.

    At the end the cluster is where it was.
    """
    folder = tmp_path_factory.mktemp("moved") / "inventory"
    shutil.copytree(INVENTORY, folder)
    general = folder / "group_vars" / "all" / "lab.yml"
    text = general.read_text()

    def write(scheduler, back=()):
        hosts = {name: {"ansible_host": address} for name, address in addresses.items()}
        workers = {"worker1", "worker2"} - {OTHER[scheduler]}
        groups = {
            "dask_scheduler": {"hosts": {scheduler: hosts[scheduler]}},
            "dask_workers": {"hosts": {name: hosts[name] for name in sorted(workers)}},
            "dask_registry": {"children": {"dask_scheduler": None}},
            "ungrouped": {"hosts": {name: hosts[name] for name in back}},
        }
        (folder / "hosts.yml").write_text(yaml.safe_dump(groups))
        general.write_text(f"{text}\ndask_cluster_scheduler_host: {addresses[scheduler]}\n")
        return folder

    yield write
    for inventory in (folder, INVENTORY):
        assert play(playbook=RESET, inventory=inventory, hostnet_reset_confirm="lifecycle").status == 0
    made(play)


@pytest.fixture(scope="module")
def off(node, edited):
    """Have nothing of a host answer."""

    def end(name):
        node(name).check_output(f"{CONTAINERS} | xargs --no-run-if-empty docker stop && systemctl stop {UNITS}")

    yield end
    for name in OTHER:
        node(name).run("systemctl start docker")


@pytest.fixture(scope="module")
def runs(play, edited, off):
    """Of a move that nobody kills: the runs of image.yml and of site.yml."""
    off(OLD)
    return made(play, edited(NEW))


@pytest.fixture
def take_down(node, play, edited):
    """Take the old host down, once it is on again and in the inventory."""

    def of(old):
        node(old).check_output("systemctl start docker")
        run = play("--limit", old, playbook=REMOVE, inventory=edited(OTHER[old], back=[old]))
        assert run.status == 0, run.text
        assert leftovers(node(old)) == {}

    return of


def test_it_comes_up_on_the_new_host_while_the_old_one_is_off(node, inspect, play, edited, runs, addresses):
    runs[-1].says("333283335000")
    moved = edited(NEW)
    pin = yaml.safe_load((moved / "group_vars" / "all" / "image.yml").read_text())["dask_cluster_image"]
    assert pin.startswith(f"{addresses[NEW]}:5000/dask@")
    assert "dask-scheduler" in node(NEW).check_output(CONTAINERS).split()
    for name in (NEW, "worker2"):
        config = inspect(node(name), "dask-worker-0")["Config"]
        assert config["Image"] == pin
        assert f"tls://{addresses[NEW]}:8786" in config["Cmd"]
    assert set(play(playbook=SITE, inventory=moved).changed.values()) == {0}


def test_the_old_host_is_taken_down_when_it_is_back(take_down, runs):
    take_down(OLD)


def test_an_old_host_that_is_up_gives_its_image_and_is_asked_before_it_loses_its_workers(
    node, play, edited, take_down, runs, addresses
):
    """Back to where it was, from a host that has a worker too."""
    code = f"import distributed; client = distributed.Client('tls://{addresses[NEW]}:8786', timeout=30); "
    at_old = "docker exec dask-scheduler python -c %s"
    node(NEW).check_output(at_old, f"{code} client.publish_dataset(kept=client.submit(int, 7))")
    moved = edited(OLD, back=[NEW])
    run = play(playbook=IMAGE, inventory=moved)
    assert run.status == 0, run.text
    run.says("is copied from there as it is")
    run = play(playbook=SITE, inventory=moved)
    assert run.status != 0
    run.says(
        f"worker2: dask-worker-0 is a worker of tls://{addresses[NEW]}:8786, and would be tls://{addresses[OLD]}:8786's"
        " while the former has 1 tasks or stored keys"
    )
    drained = play("--limit", "worker2", playbook=DRAIN, inventory=moved)
    assert drained.status != 0
    drained.says(
        f"worker2: dask-worker-0 is worker2-0 of tls://{addresses[NEW]}:8786, and in the inventory worker2-0 of tls://"
    )
    taken = play("--limit", NEW, playbook=REMOVE, inventory=moved)
    assert taken.status != 0
    taken.says(f"{NEW}: dask-scheduler would be replaced or removed while the cluster has 1 tasks or stored keys")
    node(NEW).check_output(at_old, f"{code} client.unpublish_dataset('kept')")

    run = play(playbook=SITE, inventory=moved)
    assert run.status == 0, run.text
    run.says("333283335000")
    rehearsed = play("--check", "--limit", NEW, playbook=REMOVE, inventory=moved)
    assert rehearsed.status == 0, rehearsed.text
    rehearsed.says(f"{NEW}: would go: container", "container dask-scheduler", "container dask-worker-0")
    take_down(NEW)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_what_was_killed_at_any_moment_is_made_good_by_the_next_run(node, play, edited, off, runs, take_down, moment):
    """To the other host each time."""
    (old,) = (name for name in OTHER if "dask-scheduler" in node(name).run(CONTAINERS).stdout.split())
    new = OTHER[old]
    # what the move before has left
    take_down(new)
    off(old)
    inventory = edited(new)
    for playbook, variables, whole in ((IMAGE, CARRIED, runs[0]), (SITE, {}, runs[1])):
        at = task_at(moment, whole.text.count("TASK ["))
        killed(playbook, "-e", json.dumps(variables), at=at, inventory=inventory)
        run = play(playbook=playbook, inventory=inventory, **variables)
        assert run.status == 0, run.text
    run.says("333283335000")
    assert "dask-scheduler" in node(new).check_output(CONTAINERS).split()
