"""The archive, as it is sent: secrets that were put into every place that it is made of are not in it; the rest is."""

import base64
import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml

INVENTORY = Path(__file__).resolve().parents[2] / "inventory"
# what the run must leave as it is, as far as no boot, login or timer writes to it
KEPT = "/etc /usr /opt /srv /root /home /tmp /var/tmp /var/lib/dpkg /var/lib/dask-hostnet /var/lib/docker-registry"
CANARIES = {
    "environment": "canary/Environment+1",
    "inventory": "canary-Inventory'2",
    "printed": "canary-Printed-3",
    "login": "canary-Login-4",
    "header": "canary-Header-5",
    "option": "canary-Option-6",
    "file": "canary-File-7",
}
# of the form of a key, and none
KEY_BODY = [f"MIIEcanary{i}" + "Kq7Zt" * 10 for i in range(6)]
KEY = "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *KEY_BODY, "-----END RSA PRIVATE KEY-----"])


def coded(text):
    return base64.b64encode(text.encode()).decode()


def decoded(text):
    """Return what every word of base64 in a text stands for, wherever in the word it begins."""
    words = re.findall(r"[\w+/-]{12,}", text)
    shifted = (word[start:] for word in words for start in range(4))
    cut = (word[: len(word) // 4 * 4].replace("-", "+").replace("_", "/") for word in shifted)
    return b"\n".join(base64.b64decode(word) for word in cut).decode(errors="replace")


def unpack(path):
    """Return the archive's texts by their path below its one folder."""
    with tarfile.open(path) as archive:
        names = [member.name for member in archive]
        assert {name.partition("/")[0] for name in names} == {path.name.removesuffix(".tar.gz")}
        return {name.partition("/")[2]: archive.extractfile(name).read().decode() for name in names}


@pytest.fixture(scope="module")
def password():
    """The registry's password, as the inventory gives it or its pki/ holds it."""
    return (INVENTORY / "pki" / "registry-password").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="module")
def planted(node, addresses, password):
    """Secrets and what is none: in a container's settings and log and a file on worker1, in two hosts' journals."""
    secret = CANARIES["environment"]
    log = "\n".join(
        [
            "canary says hello",
            f"connecting with password={CANARIES['printed']} as me",
            f"trying postgres://me:{CANARIES['login']}@db/x",
            f"Authorization: Bearer {CANARIES['header']}",
            f"{secret} and {coded(secret)} and {coded('me:' + secret)}",
            json.dumps({"inner": json.dumps(["it", CANARIES["inventory"], KEY])}),
            f"registry {password} {coded('dask:' + password)}",
            f"from a file {CANARIES['file']}",
            KEY,
            "canary says goodbye",
        ]
    )
    pin = INVENTORY / "group_vars" / "all" / "image.yml"
    image = yaml.safe_load(pin.read_text(encoding="utf-8"))["dask_cluster_image"]
    host = node("worker1")
    run = "docker run --name test-canary --label io.dask-hostnet.kind=canary"
    run += " --env CANARY_PASSWORD=%s --env PLAIN=canary-plain"
    say = 'printf "%%s\\n" "$0"'
    try:
        host.check_output(f"{run} %s sh -c '{say}' %s --token %s", secret, image, log, CANARIES["option"])
        for name, text in (("worker1", KEY), ("worker2", f"canary-journal {CANARIES['inventory']} end")):
            node(name).check_output("logger --priority user.err --tag canary -- %s", text)
        file = "/etc/dask-hostnet/test-canary"
        host.check_output(f"install -m 0600 /dev/null {file} && echo %s > {file}", CANARIES["file"])
        for name in addresses:
            node(name).check_output("touch /run/before-collecting")
        yield
    finally:
        host.check_output("docker rm --force test-canary; rm -f /etc/dask-hostnet/test-canary")


@pytest.fixture(scope="module")
def collected(planted, converge, tmp_path_factory):
    """The run and its archive's path."""
    path = tmp_path_factory.mktemp("collect") / "report.tar.gz"
    words = {"TOKEN": CANARIES["inventory"], "EMPTY": "", "SHORT": "x"}
    return converge(dask_collect_file=str(path), dask_worker_secrets=words), path


@pytest.fixture(scope="module")
def texts(collected):
    """The archive's texts by path."""
    return unpack(collected[1])


def test_the_archive_is_private_and_the_last_word_names_it(collected, addresses):
    run, path = collected
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    run.says(f"{path}: {path.stat().st_size} bytes, {len(addresses)} of {len(addresses)} hosts")


def test_no_secret_is_in_it(texts, password):
    everything = "\n".join(f"{path}\n{text}" for path, text in texts.items())
    for text in (everything, decoded(everything)):
        found = [name for name, secret in (CANARIES | {"registry": password}).items() if secret in text]
        # any part of a key is too much
        found += [line for line in KEY_BODY if line[:24] in text or line[-24:] in text]
        assert found == []
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY", everything)
    for secret in [*CANARIES.values(), password]:
        assert coded(secret) not in everything
        assert json.dumps(secret)[1:-1] not in everything


def test_what_a_helper_needs_is_in_it(texts, addresses, image):
    for name, address in addresses.items():
        container = "dask-scheduler" if name == "scheduler1" else "dask-worker-0"
        kind = container.removeprefix("dask-").removesuffix("-0")
        settings = json.loads(texts[f"{name}/containers/{container}.json"])
        assert settings["Config"]["Image"] == image
        assert settings["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert "distributed." in texts[f"{name}/containers/{container}.log"]
        assert f"{name}/configuration/{kind}/dask.yaml" in texts
        assert "/etc/dask-hostnet/docker/config.json" in texts[f"{name}/configuration/FILES.txt"]
        assert f"{name}/configuration/docker/config.json" not in texts
        assert json.loads(texts[f"{name}/docker/daemon.json"])["live-restore"] is True
        assert "dockerd" in texts[f"{name}/journal/docker.txt"]
        assert container in texts[f"{name}/docker/containers.txt"]
        assert "Storage Driver" in texts[f"{name}/docker/info.txt"]
        assert "docker.io" in texts[f"{name}/host/packages.txt"]
        assert address in texts[f"{name}/host/addresses.txt"]
        assert ":10000" in texts[f"{name}/host/sockets.txt"] or kind == "scheduler"
        variables = json.loads(texts[f"{name}/variables.json"])
        assert (variables["ansible_host"], variables["dask_cluster_image"]) == (address, image)
        assert variables["dask_worker_secrets"] == "***"
        assert f"{name}: " in texts["README.txt"]
    assert "docker-registry" in texts["scheduler1/journal/docker-registry.txt"]


def test_only_the_secrets_are_missing(texts):
    lines = [line.partition(" ")[2] for line in texts["worker1/containers/test-canary.log"].splitlines()]
    assert lines[0] == "canary says hello"
    assert lines[-1] == "canary says goodbye"
    assert "connecting with password=*** as me" in lines
    assert "trying postgres://me:***@db/x" in lines
    assert "Authorization: Bearer ***" in lines
    settings = json.loads(texts["worker1/containers/test-canary.json"])
    assert "PLAIN=canary-plain" in settings["Config"]["Env"]
    assert "CANARY_PASSWORD=***" in settings["Config"]["Env"]
    assert "canary-journal *** end" in texts["worker2/journal/warnings.txt"]
    assert "canary" in texts["worker1/journal/warnings.txt"]


def test_the_hosts_are_as_they_were(collected, node, addresses):
    assert collected[0].changed == dict.fromkeys(addresses, 0)
    for name in addresses:
        # an engine's health check has a file of its own in /tmp for a moment
        new = "-mindepth 1 -xdev -newer /run/before-collecting -not -path '/tmp/runc-process*'"
        found = node(name).run(f"find {KEPT} {new} 2>/dev/null").stdout
        assert found == "", name


def test_a_check_writes_nothing_and_says_what_it_would(converge, tmp_path):
    path = tmp_path / "report.tar.gz"
    converge("--check", dask_collect_file=str(path)).says(f"would write {path}: ", " files, ")
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_answer_is_named_and_the_others_are_collected(play, scratch, addresses, tmp_path):
    groups = yaml.safe_load((scratch / "hosts.yml").read_text())
    groups["dask_workers"]["hosts"]["worker9"] = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    (scratch / "hosts.yml").write_text(yaml.safe_dump(groups))
    path = tmp_path / "report.tar.gz"
    run = play(inventory=scratch, dask_collect_file=str(path), dask_cluster_pki_dir=str(INVENTORY / "pki"))
    assert run.status != 0
    run.says("worker9: nothing was collected: ", f"{len(addresses)} of {len(addresses) + 1} hosts")
    texts = unpack(path)
    assert "worker9: nothing, " in texts["README.txt"]
    assert {name.partition("/")[0] for name in texts} == {*addresses, "worker9", "README.txt"}
    assert "worker9/variables.json" in texts
