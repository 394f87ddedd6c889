"""A worker's host leaves the cluster under load, with nothing of ours left there, and comes again as a new one."""

import json

import pytest
from conftest import ROOT
from leftovers import leftovers

REMOVE, SITE, VERIFY = ROOT / "playbooks/remove.yml", ROOT / "site.yml", ROOT / "playbooks/verify.yml"
ONE = ("--limit", "worker2")

pytestmark = pytest.mark.timeout(1200)


def test_what_the_cluster_needs_is_refused(play):
    run = play("--limit", "scheduler1", playbook=REMOVE)
    assert run.status != 0
    run.says("scheduler1 is in dask_scheduler or dask_registry: write another host there")
    run = play(*ONE, playbook=REMOVE, dask_worker_host_is_dead=True)
    assert run.status != 0
    run.says("worker2 answers: run it without dask_worker_host_is_dead")
    assert set(run.changed.values()) == {0}


def test_a_rehearsal_says_what_would_go_and_takes_nothing(node, play, names, load):
    before = leftovers(node("worker2"))
    run = play(*ONE, "--check", playbook=REMOVE)
    assert run.status == 0, run.text
    run.says("would hand over and stop dask-worker-0", "worker2: would go: container dask-worker-0")
    assert leftovers(node("worker2")) == before
    assert names() == ["worker1-0", "worker2-0"]


def test_a_host_leaves_under_load_and_nothing_is_left_there(node, play, names, load, image):
    run = play(*ONE, playbook=REMOVE)
    assert run.status == 0, run.text
    run.says("worker2-0: handed over in", "0 tasks re-run", "worker2: gone: container dask-worker-0", "hosts.yml:")
    host = node("worker2")
    assert leftovers(host) == {}
    # the engine was there before us
    assert json.loads(host.check_output("docker info --format '{{json .LiveRestoreEnabled}}'")) is False
    assert not host.file("/etc/docker/daemon.json").exists
    assert image in host.check_output("docker images --digests --format '{{.Repository}}@{{.Digest}}'")
    assert names() == ["worker1-0"]


def test_a_second_run_finds_nothing_but_the_image_when_that_is_asked_for(node, play, image):
    asked = {"playbook": REMOVE, "hostnet_remove_image": True}
    rehearsed = play(*ONE, "--check", **asked)
    assert rehearsed.status == 0, rehearsed.text
    rehearsed.says(f"worker2: would go: image {image}")
    run = play(*ONE, **asked)
    assert run.status == 0, run.text
    run.says(f"worker2: gone: image {image}")
    assert image not in node("worker2").check_output("docker images --digests --format '{{.Repository}}@{{.Digest}}'")
    run = play(*ONE, **asked)
    assert run.status == 0, run.text
    run.says("worker2: nothing of dask-hostnet is there")
    assert run.changed == {"worker2": 0}


def test_the_cluster_verifies_without_it(play):
    run = play("--limit", "scheduler1,worker1", playbook=VERIFY)
    assert run.status == 0, run.text


def test_it_comes_back_as_a_new_host_does_and_nothing_was_lost(play, names, load):
    run = play(*ONE, playbook=SITE)
    assert run.status == 0, run.text
    assert set(run.changed) == {"worker2"}
    assert names() == ["worker1-0", "worker2-0"]
    assert play(*ONE, playbook=SITE).changed == {"worker2": 0}
    came = load()
    assert (came["right"], came["lost"], came["twice"], came["errors"]) == (True, [], [], []), came
