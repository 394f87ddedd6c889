"""Images that are not built from our lock alone: with an operator's packages, from elsewhere, from one file."""

import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml

INVENTORY = Path(__file__).parents[2] / "inventory"
CARRIED = Path(__file__).parents[3] / ".hostnet" / "carried" / "dask.tar"
PIN = INVENTORY / "group_vars" / "all" / "image.yml"
HERE = ("--limit", "scheduler1")
# what a label, a missing part, and an entrypoint that installs make of our image
EAGER = """d=$(echo /opt/dask/lib/python3*/site-packages)/late-1.dist-info
mkdir -p $d; printf 'Name: late' > $d/METADATA; exec "$@"
"""
KINDS = {
    "good": "LABEL kind=good",
    "silent": "USER root\nRUN rm -r /opt/dask/lib/python3*/site-packages/prometheus_client*",
    "eager": f"USER root\nENTRYPOINT {json.dumps(['sh', '-c', EAGER, 'sh'])}",
}


def pinned():
    reference: str = yaml.safe_load(PIN.read_text())["dask_cluster_image"]
    return reference


@pytest.fixture(autouse=True)
def kept():
    """The pin as it was, for whoever comes after."""
    before = PIN.read_text()
    yield
    PIN.write_text(before)


@pytest.fixture
def builder(node):
    return node("scheduler1")


@pytest.fixture(scope="module")
def elsewhere(node, addresses):
    """Images in another repository, made of ours; root on the registry's host is logged in there."""
    host, registry = node("scheduler1"), f"{addresses['scheduler1']}:5000"
    host.check_output("install -d -m 0700 /root/.docker && cp /etc/dask-hostnet/docker/config.json /root/.docker/")
    references = {}
    for kind, lines in KINDS.items():
        references[kind] = f"{registry}/elsewhere/dask:{kind}"
        recipe = f"FROM {pinned()}\n{lines}\n"
        host.check_output("printf %%s %s | docker build --quiet --tag %s -", recipe, references[kind])
        host.check_output("docker push --quiet %s && docker rmi %s", references[kind], references[kind])
    yield references
    host.check_output("rm -r /root/.docker")
    # also their repository: the other tests count what the registry has
    host.check_output("rm -r /var/lib/docker-registry/docker/registry/v2/repositories/elsewhere")


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_packages_of_ones_own_are_locked_and_in_the_image(converge, builder, tmp_path, image):
    (tmp_path / "requirements.in").write_text("tabulate\n")
    run = {"dask_image_requirements_in": str(tmp_path / "requirements.in")}
    converge(*HERE, **run)
    lock = (tmp_path / "requirements.txt").read_text()
    assert re.search(r"^tabulate==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE)
    ours = (Path(__file__).parents[3] / "roles/dask_image/files/requirements.txt").read_text()
    versions = [dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE)) for text in (lock, ours)]
    assert {name: versions[0][name] for name in versions[1]} == versions[1]
    assert not re.search("https?://", lock)

    built = pinned()
    assert built != image
    code = "import tabulate, dask; print(tabulate.__version__)"
    assert builder.check_output("docker run --rm %s python -c %s", built, code) == versions[0]["tabulate"]
    assert converge(*HERE, **run).changed == {"scheduler1": 0}
    assert pinned() == built


def test_packages_that_do_not_exist_are_refused_by_the_file(play, tmp_path, image):
    (tmp_path / "requirements.in").write_text("dask-hostnet-no-such-package==9\n")
    run = play(*HERE, dask_image_requirements_in=str(tmp_path / "requirements.in"))
    assert run.status != 0
    run.says(f"{tmp_path}/requirements.in:", "dask-hostnet-no-such-package")
    assert [path.name for path in tmp_path.iterdir()] == ["requirements.in"]
    assert pinned() == image


@pytest.mark.timeout(1200)
def test_an_image_from_elsewhere_is_copied_as_it_is(converge, builder, elsewhere):
    run = {"dask_image_source_ref": elsewhere["good"]}
    converge(*HERE, **run)
    raw = builder.check_output("skopeo inspect --raw docker://%s | sha256sum", elsewhere["good"]).split()[0]
    assert pinned().endswith(f":5000/dask@sha256:{raw}")
    found = json.loads(builder.check_output("docker inspect %s", pinned()))[0]
    assert found["Config"]["Labels"]["kind"] == "good"
    assert converge(*HERE, **run).changed == {"scheduler1": 0}
    assert "trial" not in builder.check_output("docker images")
    assert not builder.file("/var/lib/dask-hostnet/build").exists


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("silent", "metrics: the scheduler's /metrics tells nothing; it needs prometheus_client"),
        ("eager", "its entrypoint installs packages at the start"),
    ],
)
def test_an_image_that_cannot_be_run_is_refused(play, builder, elsewhere, image, kind, fault):
    run = play(*HERE, dask_image_source_ref=elsewhere[kind])
    assert run.status != 0
    run.says(f"dask_image_source_ref '{elsewhere[kind]}' is refused, and nothing was pinned: {fault}")
    assert pinned() == image
    assert "trial" not in builder.check_output("docker images")
    raw = builder.check_output("skopeo inspect --raw docker://%s | sha256sum", elsewhere[kind]).split()[0]
    held = "/var/lib/docker-registry/docker/registry/v2/repositories/dask/_manifests/revisions/sha256/"
    assert raw not in builder.check_output("ls %s", held)


def test_a_reference_that_is_nowhere_and_two_images_at_once_are_refused(play, addresses, image):
    nowhere = f"{addresses['scheduler1']}:5000/elsewhere/dask:nowhere"
    run = play(*HERE, dask_image_source_ref=nowhere)
    assert run.status != 0
    run.says(f"scheduler1: dask_image_source_ref '{nowhere}':")
    both = play(*HERE, dask_image_source_ref=nowhere, dask_image_load_from="/some/file")
    assert both.status != 0
    both.says("and dask_image_load_from is '/some/file': give one of them")
    missing = play(*HERE, dask_image_load_from="/some/file")
    assert missing.status != 0
    missing.says("dask_image_load_from '/some/file' is no file that image.yml wrote")
    assert pinned() == image


@pytest.mark.timeout(1200)
def test_one_file_carries_the_image_to_a_fleet_without_any_other_network(converge, builder, addresses):
    # kept: the scenario `cluster` deploys from it
    archive = CARRIED
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.unlink(missing_ok=True)
    converge(*HERE, dask_image_save_to=str(archive))
    image = pinned()
    with tarfile.open(archive) as held:
        assert hashlib.sha256(held.extractfile("manifest.json").read()).hexdigest() == image.rpartition(":")[2]
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]
    assert converge(*HERE, dask_image_save_to=str(archive)).changed == {"scheduler1": 0}

    network = addresses["scheduler1"].rpartition(".")[0] + ".0/24"
    cut = (
        "add table inet cut; add chain inet cut output { type filter hook output priority 0; };"
        f"add rule inet cut output ip daddr != {{ 127.0.0.0/8, {network} }} drop"
    )
    repository = "/var/lib/docker-registry/docker/registry/v2/repositories/dask"
    builder.check_output("mv %s /var/tmp/repository && systemctl restart docker-registry", repository)
    try:
        builder.check_output("nft %s", cut)
        PIN.unlink()
        converge(*HERE, dask_image_load_from=str(archive))
        assert pinned() == image
        assert (
            builder.run("skopeo inspect --raw --authfile /etc/dask-hostnet/docker/config.json docker://%s", image).rc
            == 0
        )
        assert converge(*HERE, dask_image_load_from=str(archive)).changed == {"scheduler1": 0}
    finally:
        builder.run("nft delete table inet cut")
        builder.check_output(
            "rm -rf %s && mv /var/tmp/repository %s && systemctl restart docker-registry", repository, repository
        )
