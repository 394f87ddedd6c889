"""The image: one digest on every host, what is in it, who may pull it, and when another one is built."""

import http.client
import json
import re
import ssl
from base64 import b64encode
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
INVENTORY = ROOT / "molecule" / "inventory"
PIN = INVENTORY / "group_vars" / "all" / "image.yml"


@pytest.fixture
def builder(node):
    return node("scheduler1")


def tags(address):
    """The tags that the registry has of the image."""
    login = b64encode(f"dask:{(INVENTORY / 'pki/registry-password').read_text()}".encode()).decode()
    context = ssl.create_default_context(cafile=INVENTORY / "pki/ca.crt")
    connection = http.client.HTTPSConnection(address, 5000, context=context, timeout=10)
    connection.request("GET", "/v2/dask/tags/list", headers={"Authorization": f"Basic {login}"})
    return set(json.load(connection.getresponse())["tags"])


def test_every_host_holds_the_very_digest(node, addresses, inspect, image):
    assert re.fullmatch(rf"{addresses['scheduler1']}:5000/dask@sha256:[0-9a-f]{{64}}", image)
    held = {name: inspect(node(name), image) for name in addresses}
    for name, found in held.items():
        assert image in found.get("RepoDigests", ()), name
    assert len({found["Id"] for found in held.values()}) == 1


def test_it_is_small_and_needs_no_root(builder, inspect, image):
    found = inspect(builder, image)
    assert found["Size"] < 800_000_000
    assert found["Config"]["User"] == "10786:10786"
    assert found["Config"]["Entrypoint"] is None


def test_it_holds_the_lock_and_nothing_to_spare(builder, image):
    code = Path(__file__).with_name("contents.py").read_text()
    run = "docker run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL"
    found = json.loads(builder.check_output(f"{run} %s python -c %s", image, code))
    lock = (ROOT / "roles/dask_image/files/requirements.txt").read_text()
    locked = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", lock.replace("_", "-"), re.MULTILINE))
    assert found["versions"] == locked
    assert found["ids"] == [10786, 10786]
    assert found["release"] == "bookworm"
    for nothing in ("tests", "installers", "uncompiled"):
        assert found[nothing] == [], nothing


# also in folders that only root may enter: what could raise a process, compilers, installers and what they leave behind
UNWANTED = r"""find / -xdev -regextype egrep '(' -type f -perm /6000
-o -type s
-o -regex '.*/bin/([a-z0-9_]+-)*(cc|c[+][+]|cpp|gcc|g[+][+]|clang|clang[+][+]|tcc|as|ld|go|rustc)(-[0-9.]+)?'
-o -regex '.*/(pip[0-9.]*|ensurepip|(pip|setuptools)-[^/]*[.]whl)'
')'"""


def test_nothing_in_it_raises_compiles_or_installs(builder, image):
    run = "docker run --rm --network none --read-only --user 0:0 --cap-drop ALL --cap-add DAC_READ_SEARCH %s sh -c %s"
    assert builder.check_output(run, image, UNWANTED.replace("\n", " ")) == ""


def test_its_bill_lists_what_runs(builder, image):
    """Counted by other means than those that wrote it."""
    digest = image.partition("@")[2]
    bill = json.loads((INVENTORY / "sbom" / f"{digest.replace(':', '-')}.cdx.json").read_text())
    assert bill["metadata"]["component"]["version"] == digest
    code = "import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata['Name'], d.version, sep='\\t')"
    asked = 'dpkg-query --show; echo --; python -c "$CODE"'
    run = builder.check_output("docker run --rm --network none --env CODE=%s %s sh -c %s", code, image, asked)
    debian, python = (
        # a library's name has its architecture behind it
        sorted(re.sub(r":\w+(?=\t)", "", line).split("\t") for line in part.split("\n") if line)
        for part in run.split("--\n")
    )
    listed = {"deb": [], "pypi": []}
    for each in bill["components"]:
        listed[each["purl"][4:].partition("/")[0]].append([each["name"], each["version"]])
    assert (len(debian), len(python)) == (len(listed["deb"]), len(listed["pypi"]))
    assert debian == sorted(listed["deb"])
    assert python == sorted(listed["pypi"])


def test_a_host_may_pull_and_a_stranger_may_not(node, addresses, image):
    host = node("worker1")
    secret = host.file("/etc/dask-hostnet/docker/config.json")
    assert (secret.user, oct(secret.mode)) == ("root", "0o600")
    trusted = host.file(f"/etc/docker/certs.d/{addresses['scheduler1']}:5000/ca.crt")
    assert trusted.content_string == (INVENTORY / "pki/ca.crt").read_text()
    assert (trusted.user, trusted.group, oct(trusted.mode)) == ("root", "root", "0o644")
    # a tag that is not there: who may ask is told so
    nothing = f"{image.split('@')[0]}:nothing"
    for login, answer in (
        ("/etc/dask-hostnet/docker", "manifest unknown"),
        ("/var/empty", "no basic auth credentials"),
    ):
        assert answer in host.run("docker --config %s pull %s", login, nothing).stderr


def test_the_build_leaves_nothing_behind(builder):
    assert not builder.file("/var/lib/dask-hostnet/build").exists
    images = builder.check_output("docker images --format '{{.Repository}}'").split()
    assert all(name.endswith(":5000/dask") for name in images), images


def test_a_digest_that_is_nowhere_fails_the_run_by_host(play, addresses):
    nowhere = f"{addresses['scheduler1']}:5000/dask@sha256:{'0' * 64}"
    run = play("--limit", "dask_workers", dask_cluster_image=nowhere)
    assert run.status != 0
    run.says("fatal: [worker1]: FAILED!", "fatal: [worker2]: FAILED!", nowhere)
    assert run.changed == {"worker1": 0, "worker2": 0}


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_another_revision_is_another_digest_and_the_old_one_comes_back(converge, node, addresses, inspect, image):
    pin = PIN.read_text()
    converge(dask_image_revision="molecule")
    later = yaml.safe_load(PIN.read_text())["dask_cluster_image"]
    assert later != image
    for name in addresses:
        assert later in inspect(node(name), later)["RepoDigests"]
    built = tags(addresses["scheduler1"])
    assert len(built) == 2

    # the inputs of the first build: found in the registry, not built
    back = converge()
    assert PIN.read_text() == pin
    assert tags(addresses["scheduler1"]) == built
    assert back.changed == {"scheduler1": 1, "worker1": 0, "worker2": 0}
