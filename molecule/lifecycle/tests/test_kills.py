"""A verb that is killed at any of its tasks is made good by running it again.

Kills that are no long matter are in test_lifecycle.py.
"""

from pathlib import Path

import pytest
import yaml
from killing import killed

ROOT = Path(__file__).parents[3]
PLAYBOOKS = ROOT / "playbooks"
HOST_VARS = ROOT / "molecule" / "inventory" / "host_vars" / "worker1.yml"
ONE = ("--limit", "worker1")
MOMENTS = 20
MARK = "/etc/dask-hostnet/drained/worker1-0"
# a verb's runs, each with its arguments; the later ones undo what the first did
VERBS = {
    "drain": [("drain", *ONE), ("undrain", *ONE)],
    "patch": [("patch", *ONE, "-e", "dask_patch_reboot=always")],
    "site": [("site", *ONE)],
}
NAMES = """
print(json.dumps(sorted(w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values())))
"""

pytestmark = [pytest.mark.timeout(1200), pytest.mark.thorough]


@pytest.fixture(scope="module")
def lengths(play):
    """Return how many tasks a playbook begins when nobody kills it; asked once of each."""
    known = {}

    def of(name, *arguments):
        if name not in known:
            prepare(name, len(known))
            run = play(*arguments, playbook=PLAYBOOKS / f"{name}.yml")
            assert run.status == 0, run.text
            known[name] = run.text.count("TASK [")
        return known[name]

    yield of
    HOST_VARS.unlink(missing_ok=True)
    assert play(playbook=PLAYBOOKS / "site.yml").status == 0


@pytest.fixture
def made_good(node, play, client, wait, inspect, lengths):
    """Kill a playbook at a moment, run it again, and see that all is as it should be."""

    def of(moment, name, *arguments):
        playbook = PLAYBOOKS / f"{name}.yml"
        at = 1 + lengths(name, *arguments) * moment // MOMENTS
        prepare(name, moment)
        # where the run was about to end it may have ended
        killed(playbook, *arguments, at=at)
        run = play(*arguments, playbook=playbook)
        assert run.status == 0, run.text
        off = name == "drain"
        wait(lambda: client(NAMES) == ["worker1-0", "worker2-0"][off:], "those are there that should be", 120)
        found = inspect(node("worker1"), "dask-worker-0")
        assert found["HostConfig"]["RestartPolicy"]["Name"] == ("no" if off else "unless-stopped")
        assert node("worker1").file(MARK).exists == off

    return of


def prepare(name, number):
    """Have something to do: site.yml has another number of threads each time."""
    if name == "site":
        HOST_VARS.parent.mkdir(exist_ok=True)
        HOST_VARS.write_text(yaml.safe_dump({"dask_worker_nthreads": 1 + number % 2}), encoding="utf-8")


@pytest.mark.parametrize("moment", range(MOMENTS))
@pytest.mark.parametrize("verb", VERBS)
def test_what_was_killed_is_made_good_by_the_next_run(play, lengths, load, made_good, verb, moment):
    for name, *arguments in VERBS[verb]:
        made_good(moment, name, *arguments)
    verified = play(playbook=PLAYBOOKS / "verify.yml")
    assert verified.status == 0, verified.text


def test_of_the_load_nothing_was_lost(load):
    came = load()
    assert came.pop("tasks") > 200
    assert came == {"right": True, "wrong": [], "lost": [], "twice": [], "errors": []}


# after the load, which it would be refused for
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_an_upgrade_that_was_killed_is_made_good_by_the_next_run(made_good, moment):
    made_good(moment, "upgrade")
