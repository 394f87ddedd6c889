"""What the certificates come to: who is refused, when a line warns, which names a certificate has."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loading import load

ROOT = Path(__file__).parent.parent
ROLE = ROOT / "roles" / "dask_tls"
PLAIN, ENCRYPTED = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"secret")
FOLDER = "/etc/dask-hostnet/tls"


tls = load(ROLE / "filter_plugins" / "dask_tls.py")
looking = load(ROLE / "library" / "dask_tls_look.py")


def made(days: float = 3650, cipher: serialization.KeySerializationEncryption = PLAIN) -> tuple[str, str]:
    """Return a new key and its self-signed certificate, which ends in `days`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days, seconds=30))
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, form, cipher).decode(), certificate.public_bytes(pem).decode()


def stored(folder: Path, key: str, certificate: str) -> str:
    """Write a CA as the control machine keeps it; return its folder as the filters take it."""
    (folder / "ca.key").write_text(key)
    (folder / "ca.crt").write_text(certificate)
    return str(folder)


def mark(certificate: str) -> str:
    (found,) = tls.fingerprints(certificate)
    return str(found)


def test_a_fingerprint_is_what_openssl_prints() -> None:
    _, certificate = made()
    expected = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256())
    assert mark(certificate) == ":".join(f"{byte:02X}" for byte in expected)
    assert tls.fingerprints("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") == []


@pytest.mark.parametrize(
    ("days", "left"),
    [(12, "expires in 12 days"), (1, "expires in 1 day,"), (0, "expires in 0 days"), (-3, "expired 2 days ago")],
)
def test_a_warning_says_how_long_is_left(days: int, left: str) -> None:
    line = tls.dask_tls_warning(made(days)[1], 30, f"worker1: {FOLDER}/host.crt")
    assert line.startswith(f"worker1: {FOLDER}/host.crt {left}")
    assert line.endswith(f", on {datetime.now(UTC) + timedelta(days=days, seconds=30):%Y-%m-%d}")


def test_the_warning_begins_on_the_day_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "host.crt"
    for days, due in ((30, False), (29.9, True)):
        certificate = made(days)[1]
        file.write_text(certificate)
        assert bool(tls.dask_tls_warning(certificate, 30, "")) is due
        assert tls.dask_tls_due(str(file), 30) is due


def test_what_cannot_be_read_is_made_anew_and_not_warned_of(tmp_path: Path) -> None:
    (tmp_path / "host.crt").write_text("cut sho")
    assert tls.dask_tls_warning("cut sho", 30, "") == ""
    assert tls.dask_tls_due(str(tmp_path / "host.crt"), 30)
    assert tls.dask_tls_due(str(tmp_path / "nowhere.crt"), 30)


def test_names() -> None:
    given = ["192.0.2.1", "worker1", "192.0.2.1:5000", "2001:DB8::1", "[2001:db8:0::1]:5000", "registry.example:5000"]
    assert tls.dask_tls_names(given) == ["IP:192.0.2.1", "DNS:worker1", "IP:2001:db8::1", "DNS:registry.example"]


def test_a_ca_that_can_sign_is_not_refused(tmp_path: Path) -> None:
    assert tls.dask_tls_ca_refusals(str(tmp_path), "") == []
    pki = stored(tmp_path, *made())
    assert tls.dask_tls_ca_refusals(pki, "") == []
    # which encrypts it
    assert tls.dask_tls_ca_refusals(pki, "secret") == []
    pki = stored(tmp_path, *made(cipher=ENCRYPTED))
    assert tls.dask_tls_ca_refusals(pki, "secret") == []


def test_a_ca_that_cannot_sign_is_refused_in_a_line(tmp_path: Path) -> None:
    pki = stored(tmp_path, *made(cipher=ENCRYPTED))
    for passphrase, words in (
        ("", "is encrypted, and dask_tls_ca_passphrase is not set"),
        ("wrong", "is not the pass"),
    ):
        (line,) = tls.dask_tls_ca_refusals(pki, passphrase)
        assert words in line
        assert f"{pki}/ca.key" in line
    (tmp_path / "ca.key").write_text(made()[0])
    assert "ca.key is not the key of" in tls.dask_tls_ca_refusals(pki, "")[0]
    (tmp_path / "ca.key").write_text("cut sho")
    assert "cannot be read as a key" in tls.dask_tls_ca_refusals(pki, "")[0]
    (tmp_path / "ca.key").unlink()
    assert "has no ca.key beside it" in tls.dask_tls_ca_refusals(pki, "")[0]


def test_bare_hosts_and_our_own_are_not_refused(tmp_path: Path) -> None:
    assert tls.dask_tls_host_refusals(str(tmp_path), {"worker1": {}, "worker2": {"host.key": ""}}, FOLDER) == []
    _, ours = made()
    pki = stored(tmp_path, "", ours)
    held = {"bare": {}, "ours": {"ca.crt": ours}, "cut": {"ca.crt": "cut sho"}, "half": {"host.crt": made()[1]}}
    assert tls.dask_tls_host_refusals(pki, held, FOLDER) == []


def test_without_the_ca_a_host_names_the_one_to_look_for(tmp_path: Path) -> None:
    _, theirs = made()
    held = {"new": {}, "worker1": {"ca.crt": theirs, "host.crt": "x"}, "half": {"host.crt": "x"}}
    first, second = tls.dask_tls_host_refusals(str(tmp_path), held, FOLDER)
    assert first.startswith("worker1: it has a certificate of a CA that is not in ")
    assert f"the SHA-256 of its ca.crt is {mark(theirs)}" in first
    assert str(tmp_path) in first
    assert second.startswith("half: ")
    assert f"{FOLDER}/ca.crt cannot be read" in second
    # a key without its certificate has not made the CA known
    (tmp_path / "ca.key").write_text(made()[0])
    assert len(tls.dask_tls_host_refusals(str(tmp_path), held, FOLDER)) == 2


def test_another_ca_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    (_, ours), (_, theirs) = made(), made()
    (line,) = tls.dask_tls_host_refusals(stored(tmp_path, "", ours), {"worker1": {"ca.crt": theirs}}, FOLDER)
    assert line.startswith(f"worker1: {FOLDER}/ca.crt is another CA's")
    assert f"{mark(theirs)} there, {mark(ours)} here" in line


@pytest.mark.parametrize("file", ["ca.next.crt", "ca.previous.crt", "trust.crt"])
def test_a_rotation_is_no_other_ca(tmp_path: Path, file: str) -> None:
    (_, ours), (_, other) = made(), made()
    pki = stored(tmp_path, "", ours)
    # a host that was away meanwhile trusts one of the two, any other both
    held = {"away": {"ca.crt": other}, "both": {"ca.crt": other + ours}}
    assert len(tls.dask_tls_host_refusals(pki, held, FOLDER)) == 1
    (tmp_path / file).write_text(ours + other)
    assert tls.dask_tls_host_refusals(pki, held, FOLDER) == []


def test_a_look_reads_no_key(tmp_path: Path) -> None:
    assert looking.look(tmp_path / "nowhere") == {}
    for name in ("host.key", "host.crt", "other.txt"):
        (tmp_path / name).write_text(f"of {name}")
    assert looking.look(tmp_path) == {"host.key": "", "host.crt": "of host.crt"}


@pytest.mark.parametrize("playbook", ["status.yml", "verify.yml"])
def test_a_registry_on_a_host_of_its_own_is_warned_of(tmp_path: Path, playbook: str) -> None:
    (tmp_path / "host.crt").write_text(made(9.5)[1])
    groups = {"dask_scheduler": ["head"], "dask_workers": ["one"], "dask_registry": ["store"]}
    addresses = {"head": "192.0.2.11", "one": "192.0.2.21", "store": "192.0.2.31"}
    inventory = {
        group: {"hosts": {name: {"ansible_host": addresses[name]} for name in names}} for group, names in groups.items()
    } | {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "ansible_become": False,
                "ansible_python_interpreter": sys.executable,
                "dask_cluster_scheduler_host": addresses["head"],
                "dask_cluster_networks": ["192.0.2.0/24"],
                "dask_cluster_client_networks": ["192.0.2.0/24"],
                "dask_tls_dir": str(tmp_path),
            }
        }
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "hosts.yml", "--limit", "store"]
    done = subprocess.run(
        [*command, f"playbooks/{playbook}"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout
    assert f"store: {tmp_path}/host.crt expires in 9 days, on " in " ".join(done.stdout.split())
