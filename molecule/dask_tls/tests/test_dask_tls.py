"""The cluster's CA stays on the control machine; each host has a key of its own and a certificate that verifies."""

import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

testinfra_hosts = ["ansible://all"]
PKI = Path(__file__).parents[2] / "inventory" / "pki"
TLS = "/etc/dask-hostnet/tls"


HELD = f"cd {TLS} && sha256sum * && stat --format '%n %y' *"


def mark(certificate):
    """Return the SHA-256 fingerprint as openssl prints it."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex(":").upper()


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
        "-verify_ip ::1",
        f"-verify_hostname {name}",
        "-verify_hostname localhost",
    ):
        assert host.run(f"{verify} {option} {TLS}/host.crt").rc == 0, option
    others = [f"-verify_ip {other}" for other in addresses.values() if other != address]
    for option in ("-verify_ip 192.0.2.1", "-verify_hostname elsewhere", *others):
        assert host.run(f"{verify} {option} {TLS}/host.crt").rc != 0, option
    assert host.check_output(f"cat {TLS}/ca.crt") == (PKI / "ca.crt").read_text().rstrip("\n")
    of_key = host.check_output(f"openssl pkey -in {TLS}/host.key -pubout")
    assert of_key == host.check_output(f"openssl x509 -in {TLS}/host.crt -noout -pubkey")
    # of which the test run took none
    for file, days in (("host.crt", 397), ("ca.crt", 3650)):
        assert host.run(f"openssl x509 -in {TLS}/{file} -noout -checkend {(days - 1) * 86400}").rc == 0
        assert host.run(f"openssl x509 -in {TLS}/{file} -noout -checkend {(days + 1) * 86400}").rc == 1


def test_a_certificate_is_made_anew_for_another_name_and_before_its_end(converge, node, addresses):
    worker1, worker2, ca = node("worker1"), node("worker2"), (PKI / "ca.crt").read_bytes()
    key, other = worker1.file(f"{TLS}/host.key").sha256sum, worker2.check_output(HELD)
    names = [f"IP:{addresses['worker1']}", "DNS:worker1", "DNS:localhost", "IP:127.0.0.1", "DNS:dask.example"]
    verify = f"openssl verify -CAfile {TLS}/ca.crt -verify_hostname dask.example {TLS}/host.crt"

    def more_than(days):
        return worker1.run(f"openssl x509 -in {TLS}/host.crt -noout -checkend {days * 86400}").rc == 0

    limit = ("--limit", "worker1")
    try:
        short = {"dask_tls_host_days": 12, "dask_tls_renew_days": 1}
        run = converge(*limit, dask_tls_subject_alt_names=names, dask_cluster_name="renamed", **short)
        assert set(run.changed) == {"worker1"}
        assert worker1.run(verify).rc == 0
        assert (more_than(11), more_than(13)) == (True, False)
        # the cluster's name is in the CA's, which is no reason for another CA
        assert (PKI / "ca.crt").read_bytes() == ca

        held = worker1.check_output(HELD)
        foreseen = converge(*limit, "--check", "--diff", dask_tls_subject_alt_names=names)
        foreseen.says(f"worker1: {TLS}/host.crt expires in 11 days, on ", "changed: [worker1] => (item=host.crt)")
        assert "ca.crt expires in" not in foreseen.text
        assert worker1.check_output(HELD) == held

        # for its days alone: the names are the same
        renewal = converge(*limit, dask_tls_subject_alt_names=names, dask_tls_warn_days=4000)
        renewal.says(
            f"worker1: {TLS}/host.crt expires in 11 days, on ",
            "site.yml renews it when fewer than 30 days are left",
            f"the control machine: {PKI}/ca.crt expires in 3649 days, on ",
            "run playbooks/rotate.yml for a new one",
        )
        assert (more_than(396), more_than(398)) == (True, False)
        assert worker1.run(verify).rc == 0
    finally:
        last = converge(*limit)
    assert "expires in" not in last.text
    assert worker1.run(verify).rc != 0
    assert worker1.file(f"{TLS}/host.key").sha256sum == key
    assert worker2.check_output(HELD) == other


def test_a_second_operator_is_refused_with_the_fingerprint_to_look_for(play, node, addresses, scratch):
    held = {name: node(name).check_output(HELD) for name in addresses}
    fingerprint = mark((PKI / "ca.crt").read_bytes())
    new = node("worker2")
    new.check_output(f"mv {TLS} {TLS}.away")
    try:
        # a host that has nothing yet must not get a CA beside the others'
        run = play(inventory=scratch)
        assert run.status != 0
        assert set(run.changed.values()) == {0}
        run.says(
            f"scheduler1: it has a certificate of a CA that is not in {scratch}/pki",
            f"worker1: it has a certificate of a CA that is not in {scratch}/pki",
            f"Bring pki/ from whoever made the cluster: the SHA-256 of its ca.crt is {fingerprint};",
        )
        assert "worker2: it has" not in run.text

        # nor where --limit leaves the others out
        run = play("--limit", "worker2", inventory=scratch, dask_tls_hosts=["scheduler1", "worker1", "worker2"])
        assert run.status != 0
        assert run.changed == {"worker2": 0}
        run.says("worker1: it has a certificate of a CA that is not in", fingerprint)

        assert not new.file(TLS).exists
        assert not (scratch / "pki").exists()
    finally:
        new.check_output(f"rm -rf {TLS} && mv {TLS}.away {TLS}")
    assert {name: node(name).check_output(HELD) for name in addresses} == held


@pytest.fixture
def foreign(scratch):
    """The inventory with another CA, and that CA's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string("CN=another CA")
    start = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(start).not_valid_after(start + timedelta(days=99))
    certificate = made.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (scratch / "pki").mkdir()
    (scratch / "pki" / "ca.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (scratch / "pki" / "ca.crt").write_bytes(certificate.public_bytes(pem))
    return certificate.public_bytes(pem)


def test_another_ca_is_refused_with_both_fingerprints(play, node, addresses, scratch, foreign):
    held = {name: node(name).check_output(HELD) for name in addresses}
    run = play(inventory=scratch)
    assert run.status != 0
    assert set(run.changed.values()) == {0}
    ours = mark((PKI / "ca.crt").read_bytes())
    run.says(*(f"{name}: {TLS}/ca.crt is another CA's" for name in addresses))
    run.says(f"SHA-256 {ours} there, {mark(foreign)} here")
    assert {path.name for path in (scratch / "pki").iterdir()} == {"ca.key", "ca.crt"}
    assert {name: node(name).check_output(HELD) for name in addresses} == held


def test_a_passphrase_encrypts_the_key_of_the_ca(play, converge, node, scratch):
    shutil.copytree(PKI, scratch / "pki")
    key, worker1 = scratch / "pki" / "ca.key", node("worker1")
    held, passphrase = worker1.check_output(HELD), "a canary of a passphrase"
    plain = serialization.load_pem_private_key(key.read_bytes(), None)

    run = converge("--limit", "worker1", "-vvv", "--diff", inventory=scratch, dask_tls_ca_passphrase=passphrase)
    assert passphrase not in run.text
    assert "PRIVATE KEY" not in run.text
    content = key.read_bytes()
    assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    opened = serialization.load_pem_private_key(content, passphrase.encode())
    assert opened.private_numbers() == plain.private_numbers()
    assert mode(key) == "-rw-------"

    wrong = play("--limit", "worker1", inventory=scratch, dask_tls_ca_passphrase=passphrase.upper())
    assert wrong.status != 0
    assert wrong.changed == {"worker1": 0}
    wrong.says(f"dask_tls_ca_passphrase is not the passphrase of {key}")

    again = converge("--limit", "worker1", inventory=scratch, dask_tls_ca_passphrase=passphrase)
    assert again.changed == {"worker1": 0}
    assert key.read_bytes() == content
    assert worker1.check_output(HELD) == held
