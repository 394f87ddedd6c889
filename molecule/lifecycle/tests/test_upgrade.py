"""upgrade.yml on a cluster that runs: to a second image, to a broken one, killed half way; which images are kept."""

import json
import re
from base64 import b64encode

import pytest
import yaml
from conftest import INVENTORY, ROOT
from killing import MOMENTS, killed, task_at

PIN = INVENTORY / "group_vars" / "all" / "image.yml"
UPGRADE = ROOT / "playbooks" / "upgrade.yml"
IMAGE = ROOT / "playbooks" / "image.yml"
CONTAINERS = {"scheduler1": "dask-scheduler", "worker1": "dask-worker-0", "worker2": "dask-worker-0"}
REPOSITORIES = "/var/lib/docker-registry/docker/registry/v2/repositories"
# only in a worker's container is there a spill folder; only the verification's sum is wrong
WRONG = b"""import builtins, os
if os.path.isdir("/var/spill"):
    right = builtins.sum
    builtins.sum = lambda *a, **k: 1 if (found := right(*a, **k)) == 333283335000 else found
"""
KINDS = {
    "second": "LABEL kind=second",
    "third": "LABEL kind=third",
    "wrong": "USER root\nRUN cd /opt/dask/lib/python3*/site-packages && echo 'import wrong' > wrong.pth"
    f" && echo {b64encode(WRONG).decode()} | base64 -d > wrong.py\nUSER 10786:10786",
}

pytestmark = pytest.mark.timeout(3000)
# ten minutes and more, which make test has not
thorough = pytest.mark.thorough


def pinned():
    reference: str = yaml.safe_load(PIN.read_text())["dask_cluster_image"]
    return reference


@pytest.fixture(scope="module")
def first():
    """The image that the cluster ran before these tests."""
    return pinned()


@pytest.fixture(scope="module")
def elsewhere(node, addresses, first):
    """Images in another repository, made of ours; root on the registry's host is logged in there."""
    host, registry = node("scheduler1"), f"{addresses['scheduler1']}:5000"
    host.check_output("install -d -m 0700 /root/.docker && cp /etc/dask-hostnet/docker/config.json /root/.docker/")
    references = {kind: f"{registry}/elsewhere/{kind}:1" for kind in KINDS}
    for kind, lines in KINDS.items():
        host.check_output(
            "printf %%s %s | docker build --quiet --tag %s -", f"FROM {first}\n{lines}\n", references[kind]
        )
        host.check_output("docker push --quiet %s && docker rmi %s", references[kind], references[kind])
    yield references
    host.check_output("rm -r /root/.docker")
    host.check_output(f"rm -r {REPOSITORIES}/elsewhere")


@pytest.fixture
def running(node, inspect):
    """By container, the image that it runs."""

    def ask():
        return {inspect(node(name), container)["Config"]["Image"] for name, container in CONTAINERS.items()}

    return ask


def pin(play, reference):
    done = play(playbook=IMAGE, dask_image_source_ref=reference, dask_image_audit="none")
    assert done.status == 0, done.text
    return pinned()


def seconds(run):
    return int(re.findall(r"(\d+) s without a verified cluster", run.text)[-1])


@thorough
def test_a_rehearsal_names_what_would_be_replaced_and_a_run_replaces_it(play, elsewhere, first, running, names, node):
    second = pin(play, elsewhere["second"])
    assert second != first
    rehearsed = play("--check", playbook=UPGRADE)
    assert rehearsed.status == 0, rehearsed.text
    rehearsed.says(*(f"{host}: {name} would be replaced: {first} -> {second}" for host, name in CONTAINERS.items()))
    assert running() == {first}

    done = play(playbook=UPGRADE)
    assert done.status == 0, done.text
    done.says(f"upgraded: {first} -> {second}, verified;")
    assert seconds(done) < 240
    assert running() == {second}
    # every process of Dask that the host has is in a container of that digest
    assert names() == ["worker1-0", "worker2-0"]
    for name in CONTAINERS:
        assert "dask-hostnet-trial" not in node(name).check_output("docker ps --all")
        assert not node(name).file("/etc/dask-hostnet/upgrade.json").exists

    again = play(playbook=UPGRADE)
    assert again.status == 0, again.text
    again.says(f"every container was made from {second} already: nothing to do")
    assert set(again.changed.values()) == {0}


@thorough
def test_work_in_flight_is_not_lost_unasked(play, elsewhere, client, running):
    before = running()
    pin(play, elsewhere["third"])
    client("client.publish_dataset(kept=client.submit(int, 7)); print(1)")
    try:
        run = play(playbook=UPGRADE, hostnet_upgrade_wait=0)
        assert run.status != 0
        run.says("tasks or stored keys", "after 0 s. Nothing was replaced.")
        assert running() == before
        assert client("print(client.get_dataset('kept').result())") == 7
    finally:
        client("client.unpublish_dataset('kept'); print(1)")


@thorough
def test_a_broken_image_is_rolled_back(play, elsewhere, running, inspect, node):
    before = running()
    wrong = pin(play, elsewhere["wrong"])
    run = play(playbook=UPGRADE)
    assert run.status != 0
    run.says(f"the upgrade to {wrong} failed: scheduler1:", "which is pinned again and verified")
    assert running() == before == {pinned()}
    verified = play(playbook=ROOT / "playbooks" / "verify.yml")
    assert verified.status == 0, verified.text


def test_a_run_that_is_killed_is_gone_on_with(play, elsewhere, running, node):
    """Killed when the scheduler is replaced and the workers are not."""
    third = pin(play, elsewhere["third"])
    assert killed(UPGRADE, at="dask_worker : Look |")
    noted = json.loads(node("scheduler1").file("/etc/dask-hostnet/upgrade.json").content_string)
    assert noted["to"] == third != noted["from"]
    done = play(playbook=UPGRADE)
    assert done.status == 0, done.text
    done.says(f"upgraded: {noted['from']} -> {third}, verified;")
    assert running() == {third}


@thorough
def test_the_running_and_the_previous_image_are_kept_here_and_in_the_registry(
    play, node, addresses, elsewhere, first, image
):
    host = node("scheduler1")
    for name in CONTAINERS:
        held = node(name).check_output("docker images --digests --format '{{.Repository}}@{{.Digest}}'").split()
        ours = {each for each in held if each.startswith(f"{addresses['scheduler1']}:5000/dask@")}
        assert image in ours, name
        assert first not in ours, name
        assert len(ours) == 2, name
    # nobody else's any more: its layers go with its manifest
    host.check_output(f"rm -r {REPOSITORIES}/elsewhere/wrong")
    count = f"find {REPOSITORIES}/../blobs -name data | wc -l"
    before = int(host.check_output(count))
    assert pin(play, elsewhere["third"]) == image
    assert len(host.check_output(f"ls {REPOSITORIES}/dask/_manifests/tags").split()) == 2
    assert int(host.check_output(count)) < before
    assert not host.file("/var/lib/dask-hostnet/registry-garbage").exists
    # every layer of what is kept is still there
    login = "--src-authfile /etc/dask-hostnet/docker/config.json"
    host.check_output(f"skopeo copy --quiet {login} docker://%s dir:/var/tmp/whole && rm -r /var/tmp/whole", image)
    again = play(playbook=IMAGE, dask_image_source_ref=elsewhere["third"], dask_image_audit="none")
    assert again.changed["scheduler1"] == 0, again.text


@pytest.fixture(scope="module")
def two(play, elsewhere):
    """The inventory's file for each of two images that every host has, and how many tasks an upgrade begins."""
    texts = {}
    for kind in ("second", "third"):
        reference = pin(play, elsewhere[kind])
        texts[reference] = PIN.read_text()
        run = play(playbook=UPGRADE)
        assert run.status == 0, run.text
    return texts, run.text.count("TASK [")


@thorough
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_what_was_killed_at_any_moment_is_made_good_by_the_next_run(play, two, running, moment):
    texts, length = two
    # to the one that does not run
    (new,) = texts.keys() - running()
    PIN.write_text(texts[new])
    before = killed(UPGRADE, at=task_at(moment, length))
    run = play(playbook=UPGRADE)
    assert run.status == 0, run.text
    assert running() == {new}, f"{before}{run.text}"
