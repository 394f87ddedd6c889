"""The cluster's CA stays on the control machine; each host has a key of its own and a certificate that verifies."""

import stat
from pathlib import Path

testinfra_hosts = ["ansible://all"]
PKI = Path(__file__).parents[2] / "inventory" / "pki"
TLS = "/etc/dask-hostnet/tls"


def mode(path):
    return stat.filemode(path.stat().st_mode)


def test_the_ca_is_on_the_control_machine():
    assert mode(PKI) == "drwx------"
    assert mode(PKI / "ca.key") == "-rw-------"
    # a host's key never leaves it
    assert [path.name for path in PKI.rglob("*.key")] == ["ca.key"]


def test_the_key_is_this_hosts_alone(host, node, addresses):
    folder, key = host.file(TLS), host.file(f"{TLS}/host.key")
    assert (folder.user, folder.gid, oct(folder.mode)) == ("root", 10786, "0o750")
    assert (key.user, key.gid, oct(key.mode)) == ("root", 10786, "0o640")
    assert len({node(name).file(f"{TLS}/host.key").sha256sum for name in addresses}) == len(addresses)
    # nor does the CA's leave the control machine
    secret = "".join((PKI / "ca.key").read_text().splitlines()[1:-1])[:40]
    assert (
        host.run(
            f"grep --recursive --files-with-matches --fixed-strings {secret[:40]} /etc /var/lib/dask-hostnet"
        ).stdout
        == ""
    )


def test_the_certificate_verifies(host, addresses):
    name = host.check_output("hostname")
    address = addresses[name]
    verify = f"openssl verify -x509_strict -purpose sslserver -CAfile {TLS}/ca.crt"
    for option in (
        f"-verify_ip {address}",
        "-verify_ip 127.0.0.1",
        f"-verify_hostname {name}",
        "-verify_hostname localhost",
    ):
        assert host.run(f"{verify} {option} {TLS}/host.crt").rc == 0, option
    for option in ("-verify_ip 192.0.2.1", "-verify_hostname elsewhere"):
        assert host.run(f"{verify} {option} {TLS}/host.crt").rc != 0, option
    assert host.check_output(f"cat {TLS}/ca.crt") == (PKI / "ca.crt").read_text().rstrip("\n")
    of_key = host.check_output(f"openssl pkey -in {TLS}/host.key -pubout")
    assert of_key == host.check_output(f"openssl x509 -in {TLS}/host.crt -noout -pubkey")
    # 397 days, of which the test run took none
    assert host.run(f"openssl x509 -in {TLS}/host.crt -noout -checkend {396 * 86400}").rc == 0
    assert host.run(f"openssl x509 -in {TLS}/host.crt -noout -checkend {398 * 86400}").rc == 1


def test_another_name_makes_another_certificate_for_the_same_key(converge, node, addresses):
    worker1, worker2 = node("worker1"), node("worker2")
    key, other = worker1.file(f"{TLS}/host.key").sha256sum, worker2.file(f"{TLS}/host.crt").sha256sum
    names = [f"IP:{addresses['worker1']}", "DNS:worker1", "DNS:localhost", "IP:127.0.0.1", "DNS:dask.example"]
    verify = f"openssl verify -CAfile {TLS}/ca.crt -verify_hostname dask.example {TLS}/host.crt"
    try:
        run = converge("--limit", "worker1", dask_tls_subject_alt_names=names)
        assert set(run.changed) == {"worker1"}
        assert worker1.run(verify).rc == 0
        assert worker1.file(f"{TLS}/host.key").sha256sum == key
        assert worker2.file(f"{TLS}/host.crt").sha256sum == other
    finally:
        converge("--limit", "worker1")
    assert worker1.run(verify).rc != 0
