"""The whole cluster goes, by its name alone, also while its scheduler's host does not answer, and can be made again."""

import pytest
import yaml
from conftest import ROOT
from killing import MOMENTS, killed, task_at
from leftovers import leftovers
from making import SITE, made

RESET = ROOT / "playbooks/reset.yml"
CLUSTER = "lifecycle"
HOSTS = ("scheduler1", "worker1", "worker2")

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(1200)]


def test_it_is_refused_without_the_clusters_name(node, play):
    before = {name: leftovers(node(name)) for name in HOSTS}
    for variables in ({}, {"hostnet_reset_confirm": "prod"}):
        run = play(playbook=RESET, **variables)
        assert run.status != 0
        run.says(f"this ends the cluster {CLUSTER} and all that it holds: -e hostnet_reset_confirm={CLUSTER}")
    assert {name: leftovers(node(name)) for name in HOSTS} == before


def test_the_others_are_finished_while_the_schedulers_host_does_not_answer(node, play, scratch):
    file = scratch / "hosts.yml"
    hosts = yaml.safe_load(file.read_text())
    # nobody listens there
    hosts["dask_scheduler"]["hosts"]["scheduler1"]["ansible_port"] = 1
    file.write_text(yaml.safe_dump(hosts))
    run = play(playbook=RESET, inventory=scratch, hostnet_reset_confirm=CLUSTER)
    assert run.status == 4
    run.says("scheduler1: not finished, see above; run the same again")
    assert [leftovers(node(name)) for name in ("worker1", "worker2")] == [{}, {}]
    assert "containers" in leftovers(node("scheduler1"))


def test_nothing_is_left_and_a_second_run_finds_nothing(node, play):
    run = play(playbook=RESET, hostnet_reset_confirm=CLUSTER)
    assert run.status == 0, run.text
    assert [leftovers(node(name)) for name in HOSTS] == [{}, {}, {}]
    run = play(playbook=RESET, hostnet_reset_confirm=CLUSTER)
    assert run.status == 0, run.text
    assert set(run.changed.values()) == {0}


def test_it_can_be_made_again(play):
    made(play)
    assert set(play(playbook=SITE).changed.values()) == {0}


@pytest.fixture(scope="module")
def length(play):
    """How many tasks a reset of the cluster begins."""
    run = play(playbook=RESET, hostnet_reset_confirm=CLUSTER)
    made(play)
    return run.text.count("TASK [")


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_what_was_killed_at_any_moment_is_made_good_by_the_next_run(node, play, length, moment):
    killed(RESET, "-e", f"hostnet_reset_confirm={CLUSTER}", at=task_at(moment, length))
    run = play(playbook=RESET, hostnet_reset_confirm=CLUSTER)
    assert run.status == 0, run.text
    assert [leftovers(node(name)) for name in HOSTS] == [{}, {}, {}]
    made(play)
