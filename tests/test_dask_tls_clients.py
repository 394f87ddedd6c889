"""What stands in a client's bundle, and the list of the bundles: roles/dask_tls/filter_plugins/dask_tls_clients.py."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loading import load

ROOT = Path(__file__).parents[1]
clients = load(ROOT / "roles/dask_tls/filter_plugins/dask_tls_clients.py")
LOCK = """dask[array]==2026.8.0 \\
    --hash=sha256:aa
    # via x
PyYAML==6.0.3 ; python_version > '3'
lazy_importer==0.1.0
"""
HELD = {"dask": "2026.8.0", "pyyaml": "6.0.3", "lazy-importer": "0.1.0", "pip": "26.1"}

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the CA")])
Key = ec.EllipticCurvePrivateKey


def signed(by: Key, key: Key, days: float) -> str:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(NAME, NAME, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=400))
    made = builder.not_valid_after(now + datetime.timedelta(days=days, hours=1)).sign(by, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def made_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    old, new, gone = made_key(), made_key(), made_key()
    (tmp_path / "ca.crt").write_text(signed(old, old, 3650))
    (tmp_path / "new.crt").write_text(signed(new, new, 3650))
    for name, text in {
        "laptop": signed(old, made_key(), 100),
        "gone": signed(gone, made_key(), 100),
        "late": signed(old, made_key(), -2),
        "new": signed(new, made_key(), 100),
        "cut": "-----BEGIN CERTIFICATE-----\nMII",
    }.items():
        (tmp_path / "clients" / name).mkdir(parents=True)
        (tmp_path / "clients" / name / "client.crt").write_text(text)
    (tmp_path / "clients/not-a-client").mkdir()
    return tmp_path


def states(pki: Path) -> dict[str, str]:
    lines = clients.dask_tls_client_lines(str(pki))
    return {line.split()[0]: line[lines[0].index("state") :] for line in lines[1:]}


def test_the_bundles_are_listed_with_their_expiry(pki: Path) -> None:
    lines = clients.dask_tls_client_lines(str(pki))
    day = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=100, hours=1)
    assert lines[0].split() == ["client", "expires", "days", "left", "state"]
    assert lines[3].split() == ["laptop", f"{day:%Y-%m-%d}", "100", "ok"]
    assert lines[4].split() == ["late", f"{day - datetime.timedelta(days=102):%Y-%m-%d}", "0", "expired"]
    assert all(len(line) <= 80 for line in lines)


def test_the_list_says_what_a_bundle_is_worth_in_each_stage_of_a_rotation(pki: Path) -> None:
    gone, passing = "refused: of a CA that is gone", "ok until the old CA is dropped"
    rest = {"cut": "no certificate", "gone": gone, "late": "expired"}
    assert states(pki) == {**rest, "laptop": "ok", "new": gone}
    # trust
    both = (pki / "ca.crt").read_text() + (pki / "new.crt").read_text()
    (pki / "trust.crt").write_text(both)
    (pki / "ca.next.crt").write_text((pki / "new.crt").read_text())
    assert states(pki) == {**rest, "laptop": passing, "new": "ok"}
    # switch
    (pki / "ca.next.crt").rename(pki / "ca.crt")
    assert states(pki) == {**rest, "laptop": passing, "new": "ok"}
    # drop
    (pki / "trust.crt").unlink()
    assert states(pki) == {**rest, "laptop": gone, "new": "ok"}


def test_a_list_of_none_says_what_makes_one(tmp_path: Path) -> None:
    assert clients.dask_tls_client_lines(str(tmp_path)) == ["no client has a bundle; -e hostnet_client=NAME makes one"]


def test_days_left_of_what_is_not_there_are_none(pki: Path) -> None:
    assert clients.dask_tls_days_left(str(pki / "nothing.crt")) == -1
    assert clients.dask_tls_days_left(str(pki / "clients/cut/client.crt")) == -1
    assert clients.dask_tls_days_left(str(pki / "clients/laptop/client.crt")) == pytest.approx(100, abs=0.1)


def test_a_client_gets_the_lock_that_the_image_was_made_from() -> None:
    assert clients.dask_tls_client_lock(HELD, LOCK) == LOCK


@pytest.mark.parametrize("lock", [LOCK.replace("6.0.3", "6.0.4"), LOCK + "scipy==1.17.1\n", ""])
def test_of_an_image_from_elsewhere_a_client_gets_what_it_holds(lock: str) -> None:
    text = clients.dask_tls_client_lock(HELD, lock)
    assert text.startswith("#")
    assert text.splitlines()[1:] == ["dask==2026.8.0", "lazy-importer==0.1.0", "pyyaml==6.0.3"]


def test_the_projects_lock_is_read_whole() -> None:
    text = (ROOT / "roles/dask_image/files/requirements.txt").read_text()
    names = [line.partition("==") for line in text.splitlines() if line[:1].isalpha()]
    held = {name: version.split()[0] for name, _, version in names}
    assert len(held) > 20
    assert clients.dask_tls_client_lock(held, text) == text
    assert clients.dask_tls_client_lock({**held, "dask": "1"}, text) != text
