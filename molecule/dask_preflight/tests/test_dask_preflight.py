"""The refusals, as an operator meets them: ansible-playbook with a bad value, on real hosts, which stay as they are."""

from pathlib import Path

import pytest
import yaml

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
PREFLIGHT = PLAYBOOKS / "preflight.yml"
IMAGE = "192.0.2.11:5000/dask@sha256:" + "0" * 64
# what no boot, login or timer writes to
KEPT = "/etc /usr /opt /srv /var/lib/dpkg /var/lib/dask-hostnet /var/lib/docker-registry"


@pytest.fixture(autouse=True, scope="module")
def unchanged(node, addresses):
    """Whatever is refused here, nothing on any node is newer than the first refusal."""
    for name in addresses:
        node(name).check_output("touch /run/before-refusals")
    yield
    for name in addresses:
        host = node(name)
        assert host.run(f"find {KEPT} -xdev -newer /run/before-refusals 2>/dev/null").stdout == "", name
        host.check_output("rm /run/before-refusals")


def refused(run, *lines):
    assert run.status != 0
    run.says(*lines)
    assert set(run.changed.values()) <= {0}
    assert "TASK [dask_docker" not in run.text


@pytest.mark.parametrize("playbook", [PREFLIGHT, PLAYBOOKS / "site.yml"], ids=["preflight", "site"])
def test_a_tag_is_refused_on_every_host(play, addresses, playbook):
    run = play(playbook=playbook, dask_cluster_image="192.0.2.11:5000/dask:latest")
    remedy = "it must be registry/name@sha256:<64 hex digits>, never a tag: run playbooks/image.yml"
    refused(run, *(f"{host}: dask_cluster_image is '192.0.2.11:5000/dask:latest'; {remedy}" for host in addresses))


def test_every_bad_setting_is_named_at_once(play, scratch):
    settings = yaml.safe_load((scratch / "group_vars/all/lab.yml").read_text())
    del settings["dask_cluster_networks"], settings["dask_cluster_scheduler_host"]
    settings["dask_cluster_client_networks"] = ["172.30.300.0/24"]
    (scratch / "group_vars/all/lab.yml").write_text(yaml.safe_dump(settings))
    refused(
        play(playbook=PREFLIGHT, inventory=scratch),
        "worker1: dask_cluster_image is not set; run playbooks/image.yml, which writes it",
        "worker1: dask_cluster_scheduler_host is not set; write the address that workers dial",
        "worker1: dask_cluster_networks is not set; write a list of networks, for example [192.0.2.0/24]",
        "worker1: dask_cluster_client_networks holds '172.30.300.0/24'",
        "write it as in 192.0.2.0/24",
    )


def test_networks_that_are_no_list_are_refused(play):
    refused(
        play("--limit", "worker1", playbook=PREFLIGHT, dask_cluster_image=IMAGE, dask_cluster_networks="172.30.0.0/16"),
        "worker1: dask_cluster_networks is '172.30.0.0/16'; write a list of networks, for example [192.0.2.0/24]",
    )


def test_an_empty_worker_group_is_refused(play, scratch):
    groups = yaml.safe_load((scratch / "hosts.yml").read_text())
    groups["dask_workers"] = {"hosts": {}}
    (scratch / "hosts.yml").write_text(yaml.safe_dump(groups))
    refused(
        play(playbook=PREFLIGHT, inventory=scratch, dask_cluster_image=IMAGE),
        "inventory: group dask_workers is empty or missing; write at least one host into it",
    )


def test_two_schedulers_are_refused(play, scratch):
    groups = yaml.safe_load((scratch / "hosts.yml").read_text())
    groups["dask_scheduler"]["hosts"]["worker1"] = {}
    (scratch / "hosts.yml").write_text(yaml.safe_dump(groups))
    refused(
        play(playbook=PREFLIGHT, inventory=scratch, dask_cluster_image=IMAGE),
        "inventory: group dask_scheduler has 2 hosts (scheduler1, worker1); write exactly one host into it",
        "inventory: group dask_registry has 2 hosts",
    )


def test_a_good_inventory_passes_and_changes_nothing(play, addresses):
    run = play(playbook=PREFLIGHT, dask_cluster_image=IMAGE)
    assert run.status == 0, run.text
    assert run.changed == dict.fromkeys(addresses, 0)
