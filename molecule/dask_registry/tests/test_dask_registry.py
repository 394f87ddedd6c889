"""The registry as its callers meet it: on one address, with TLS and a password, back after a crash."""

import http.client
import ssl
import stat
from base64 import b64encode
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://dask_registry"]
CHOSEN = "by-the-operator"
ELSEWHERE = "/etc/docker/elsewhere"
SETTINGS = "/etc/systemd/system/docker-registry.service.d/dask-hostnet.conf"
PKI = Path(__file__).parents[2] / "inventory" / "pki"


def status(address, password=None, trust=PKI / "ca.crt", newest=None):
    """What the registry answers to GET /v2/, from this machine, through no proxy."""
    context = ssl.create_default_context(cafile=trust)
    if newest:
        context.maximum_version = newest
    connection = http.client.HTTPSConnection(address, 5000, context=context, timeout=10)
    login = b64encode(f"dask:{password}".encode()).decode()
    connection.request("GET", "/v2/", headers={"Authorization": f"Basic {login}"} if password else {})
    return connection.getresponse().status


@pytest.fixture(scope="module")
def address(addresses):
    return addresses["scheduler1"]


def generated():
    return (PKI / "registry-password").read_text()


def test_it_listens_on_the_planned_address_alone(host, address):
    listening = [line.split()[3] for line in host.check_output("ss -Htln sport = :5000").splitlines()]
    assert listening == [f"{address}:5000"]
    service = host.service("docker-registry")
    assert service.is_running
    assert service.is_enabled


def test_without_the_password_it_shows_nothing(address):
    assert status(address) == 401
    assert status(address, "guess") == 401
    assert status(address, generated()) == 200


def test_it_speaks_tls_alone(address):
    plain = http.client.HTTPConnection(address, 5000, timeout=10)
    plain.request("GET", "/v2/")
    assert plain.getresponse().status == 400
    with pytest.raises(ssl.SSLCertVerificationError):
        status(address, generated(), trust=None)


def test_the_secrets_are_kept(host):
    assert len(generated()) == 32
    for path in (PKI / "registry-password", PKI / "registry.htpasswd"):
        assert stat.filemode(path.stat().st_mode) == "-rw-------"
    for name, owner in (("htpasswd", "root"), ("config.yml", "root"), ("tls/host.key", "root")):
        file = host.file(f"/etc/docker/registry/{name}")
        assert (file.user, file.group, oct(file.mode)) == (owner, "docker-registry", "0o640"), name
    # the hash beside the password is the one in use, and the password itself is nowhere on the host
    assert host.file("/etc/docker/registry/htpasswd").content_string == (PKI / "registry.htpasswd").read_text()
    assert host.run(f"grep --recursive --files-with-matches {generated()} /etc/docker").stdout == ""


def test_no_engine_is_told_to_trust_without_tls(node, addresses):
    for name in addresses:
        assert "insecure" not in node(name).file("/etc/docker/daemon.json").content_string


def test_it_comes_back_after_a_crash(host, address, wait):
    before = host.check_output("systemctl show --property=MainPID --value docker-registry")
    host.check_output(f"kill -KILL {before}")

    def back():
        now = host.check_output("systemctl show --property=MainPID --value docker-registry")
        return now not in ("0", before) and host.run("ss -Htln sport = :5000").stdout != ""

    wait(back, "the registry listens again", 120)
    assert status(address, generated()) == 200


def test_somebody_elses_is_refused(host, play):
    host.check_output(f"mv {SETTINGS} /root/registry.conf")
    try:
        run = play()
    finally:
        host.check_output(f"mv /root/registry.conf {SETTINGS}")
    assert run.status != 0
    assert run.changed == {"scheduler1": 0}
    run.says(
        "scheduler1: docker-registry.service is switched on and is not ours (ActiveState=active, UnitFileState=enabled)"
    )


def test_a_password_that_bcrypt_would_cut_is_refused(play):
    run = play(dask_cluster_registry_password=37 * "é")
    assert run.status != 0
    assert run.changed == {"scheduler1": 0}
    run.says("scheduler1: dask_cluster_registry_password has more than 72 bytes; it must have at most 72")
    assert "é" not in run.text


def test_a_password_and_a_folder_of_the_operators_win(host, address, converge):
    try:
        # the folder that it had still has the generated one
        converge(dask_cluster_registry_password=CHOSEN, dask_registry_config_dir=ELSEWHERE)
        assert status(address, CHOSEN) == 200
        assert status(address, generated()) == 401
    finally:
        converge()
        host.check_output(f"rm -rf {ELSEWHERE}")
    assert status(address, generated()) == 200
    assert status(address, CHOSEN) == 401
