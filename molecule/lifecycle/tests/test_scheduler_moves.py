"""The scheduler moves to another host while the old one is off; the old one, back again, is taken down."""

import shutil
from pathlib import Path

import pytest
import yaml
from leftovers import leftovers

ROOT = Path(__file__).parents[3]
INVENTORY = ROOT / "molecule" / "inventory"
CARRIED = ROOT / ".hostnet" / "carried" / "dask.tar"
IMAGE, REMOVE, RESET = (ROOT / "playbooks" / f"{verb}.yml" for verb in ("image", "remove", "reset"))
SITE = ROOT / "site.yml"
OLD, NEW = "scheduler1", "worker1"
UNITS = "docker.socket docker docker-registry dask-hostnet-dashboard"
CONTAINERS = "docker ps --format '{{.Names}}'"

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def carried():
    """What stands in for the old registry; without it the image is built again."""
    return {"dask_image_load_from": str(CARRIED)} if CARRIED.exists() else {}


@pytest.fixture(scope="module")
def moved(tmp_path_factory, addresses, play, carried):
    """The inventory as the operator edits it: the old host is gone from it. At the end the cluster is where it was."""
    folder = tmp_path_factory.mktemp("moved") / "inventory"
    shutil.copytree(INVENTORY, folder)
    hosts = {name: {"ansible_host": address} for name, address in addresses.items()}
    groups = {
        "dask_scheduler": {"hosts": {NEW: hosts[NEW]}},
        "dask_workers": {"hosts": {NEW: hosts[NEW], "worker2": hosts["worker2"]}},
        "dask_registry": {"children": {"dask_scheduler": None}},
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump(groups))
    general = folder / "group_vars" / "all" / "lab.yml"
    general.write_text(general.read_text() + f"\ndask_cluster_scheduler_host: {addresses[NEW]}\n")
    yield folder
    for inventory in (folder, INVENTORY):
        assert play(playbook=RESET, inventory=inventory, hostnet_reset_confirm="test").status == 0
    for playbook, variables in ((IMAGE, carried), (SITE, {})):
        run = play(playbook=playbook, **variables)
        assert run.status == 0, run.text


@pytest.fixture(scope="module")
def off(node):
    """Nothing of the old host answers."""
    host = node(OLD)
    host.check_output(f"docker stop dask-scheduler && systemctl stop {UNITS}")
    yield
    host.run(f"systemctl start {UNITS} && docker start dask-scheduler")


def test_it_comes_up_on_the_new_host_while_the_old_one_is_off(node, inspect, play, moved, off, carried, addresses):
    run = play(playbook=IMAGE, inventory=moved, **carried)
    assert run.status == 0, run.text
    run = play(playbook=SITE, inventory=moved)
    assert run.status == 0, run.text
    run.says("333283335000")
    pin = yaml.safe_load((moved / "group_vars" / "all" / "image.yml").read_text())["dask_cluster_image"]
    assert pin.startswith(f"{addresses[NEW]}:5000/dask@")
    assert "dask-scheduler" in node(NEW).check_output(CONTAINERS).split()
    for name in (NEW, "worker2"):
        config = inspect(node(name), "dask-worker-0")["Config"]
        assert config["Image"] == pin
        assert f"tls://{addresses[NEW]}:8786" in config["Cmd"]
    assert set(play(playbook=SITE, inventory=moved).changed.values()) == {0}


def test_the_old_host_is_taken_down_when_it_is_back(node, play, moved, addresses, off):
    node(OLD).check_output(f"systemctl start {UNITS}")
    hosts = yaml.safe_load((moved / "hosts.yml").read_text())
    (moved / "hosts.yml").write_text(
        yaml.safe_dump(hosts | {"ungrouped": {"hosts": {OLD: {"ansible_host": addresses[OLD]}}}})
    )
    run = play("--limit", OLD, playbook=REMOVE, inventory=moved)
    assert run.status == 0, run.text
    assert leftovers(node(OLD)) == {}
