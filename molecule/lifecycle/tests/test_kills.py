"""A verb that is killed at any of its tasks is made good by running it again.

Kills that are no long matter are in test_lifecycle.py, those of an upgrade, a move and a reset in theirs.
"""

import pytest
import yaml
from conftest import INVENTORY, ROOT
from killing import MOMENTS, killed, task_at
from leftovers import leftovers

PLAYBOOKS = ROOT / "playbooks"
HOST_VARS = INVENTORY / "host_vars" / "worker1.yml"
ONE, TWO = ("--limit", "worker1"), ("--limit", "worker2")
MARK = "/etc/dask-hostnet/drained/{}-0"
# a verb's runs, each with its arguments; the later ones undo what the first did
VERBS = {
    "drain": [("drain", *ONE), ("undrain", *ONE)],
    "patch": [("patch", *ONE, "-e", "dask_patch_reboot=always")],
    "remove": [("remove", *TWO), ("site", *TWO)],
    "site": [("site", *ONE)],
    "rotate": [("rotate", "-e", "hostnet_rotate=hosts")],
}
# after which of them a worker is off, and what Docker says of its restarts then
OFF = {"drain": "no", "remove": None}

pytestmark = [pytest.mark.timeout(1200), pytest.mark.thorough]


@pytest.fixture(scope="module")
def lengths(play):
    """Return how many tasks each run of a verb begins when nobody kills it; run once, they leave all as it was."""
    known = {}

    def of(verb):
        for name, *arguments in [] if verb in known else VERBS[verb]:
            prepare(name, len(known))
            run = play(*arguments, playbook=PLAYBOOKS / f"{name}.yml")
            assert run.status == 0, run.text
            known.setdefault(verb, []).append(run.text.count("TASK ["))
        return known[verb]

    yield of
    HOST_VARS.unlink(missing_ok=True)
    assert play(playbook=PLAYBOOKS / "site.yml").status == 0


@pytest.fixture
def made_good(node, play, names, wait, inspect):
    """Kill a playbook at a moment, run it again, and see that all is as it should be."""

    def of(moment, length, name, *arguments):
        playbook = PLAYBOOKS / f"{name}.yml"
        prepare(name, moment)
        # where the run was about to end it may have ended
        killed(playbook, *arguments, at=task_at(moment, length))
        run = play(*arguments, playbook=playbook)
        assert run.status == 0, run.text
        host = "worker2" if TWO[1] in arguments else "worker1"
        there = [worker for worker in ("worker1-0", "worker2-0") if name not in OFF or not worker.startswith(host)]
        wait(lambda: names() == there, "those are there that should be", 120)
        found = inspect(node(host), "dask-worker-0")
        policy = found["HostConfig"]["RestartPolicy"]["Name"] if found else None
        assert policy == OFF.get(name, "unless-stopped")
        assert node(host).file(MARK.format(host)).exists == (name == "drain")
        if name == "remove":
            assert leftovers(node(host)) == {}

    return of


def prepare(name, number):
    """Have something to do: site.yml has another number of threads each time."""
    if name == "site":
        HOST_VARS.parent.mkdir(exist_ok=True)
        HOST_VARS.write_text(yaml.safe_dump({"dask_worker_nthreads": 1 + number % 2}), encoding="utf-8")


@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize("verb", VERBS)
def test_what_was_killed_is_made_good_by_the_next_run(lengths, load, made_good, verb, moment):
    for length, (name, *arguments) in zip(lengths(verb), VERBS[verb], strict=True):
        made_good(moment, length, name, *arguments)


def test_the_cluster_is_verified_and_nothing_was_lost(play, load):
    verified = play(playbook=PLAYBOOKS / "verify.yml")
    assert verified.status == 0, verified.text
    came = load()
    assert came.pop("tasks") > 200
    assert came == {"right": True, "wrong": [], "lost": [], "twice": [], "errors": []}
