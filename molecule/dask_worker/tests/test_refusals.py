"""Who gets in at the comm ports of scheduler, worker and nanny: whoever has a certificate of the cluster's CA."""

import datetime
import json
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[3]
PKI = ROOT / "molecule" / "inventory" / "pki"
PORTS = {"scheduler": ("scheduler1", 8786), "worker": ("worker1", 10000), "nanny": ("worker1", 10100)}
SECONDS = 20
DAY = datetime.timedelta(days=1)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(folder, kind):
    """Write `kind`.crt and .key: `good` and `expired` are signed by the cluster's CA, `foreign` by one of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    start, end = (now - 9 * DAY, now - DAY) if kind == "expired" else (now - DAY, now + DAY)
    if kind == "foreign":
        # named as the cluster's is
        issuer, signer = x509.load_pem_x509_certificate((PKI / "ca.crt").read_bytes()).subject, key
    else:
        issuer = x509.load_pem_x509_certificate((PKI / "ca.crt").read_bytes()).subject
        signer = serialization.load_pem_private_key((PKI / "ca.key").read_bytes(), None)
    made = (
        x509.CertificateBuilder()
        .subject_name(name(kind))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .sign(signer, hashes.SHA256())
    )
    (folder / f"{kind}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{kind}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Certificates for clients of every kind."""
    made = tmp_path_factory.mktemp("clients")
    for kind in ("good", "expired", "foreign"):
        certificate(made, kind)
    return made


def context(folder, kind, newest=ssl.TLSVersion.TLSv1_3):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.maximum_version = newest
    made.load_verify_locations(PKI / "ca.crt")
    if kind != "none":
        made.load_cert_chain(folder / f"{kind}.crt", folder / f"{kind}.key")
    return made


def heard(address, port, tls):
    """What Dask says first to whoever got in; what a listener that lets nobody in says or does instead."""
    with socket.create_connection((address, port), timeout=SECONDS) as bare:
        try:
            if tls is None:
                # the length of a Dask message, that never comes
                bare.sendall((8).to_bytes(8, "little"))
                return bare.recv(64)
            with tls.wrap_socket(bare) as inside:
                return inside.recv(64)
        except (ssl.SSLError, ConnectionError) as refusal:
            return getattr(refusal, "reason", None) or type(refusal).__name__


@pytest.mark.parametrize("role", PORTS)
def test_only_a_certificate_of_the_clusters_ca_gets_in(role, folder, addresses):
    host, port = PORTS[role]
    where = (addresses[host], port)
    assert isinstance(heard(*where, context(folder, "good")), bytes)
    assert heard(*where, context(folder, "good")) != b""
    assert heard(*where, context(folder, "none")) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert heard(*where, context(folder, "expired")) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"
    assert heard(*where, context(folder, "foreign")) in ("TLSV1_ALERT_UNKNOWN_CA", "TLSV1_ALERT_DECRYPT_ERROR")
    assert heard(*where, context(folder, "good", ssl.TLSVersion.TLSv1_2)) == "TLSV1_ALERT_PROTOCOL_VERSION"
    # without TLS
    assert heard(*where, None) in (b"", "ConnectionResetError")


def test_a_good_client_passes_the_verification(folder, addresses):
    pair = {"cert": str(folder / "good.crt"), "key": str(folder / "good.key")}
    settings = {"require-encryption": True, "tls": {"ca-file": str(PKI / "ca.crt"), "min-version": 1.3, "client": pair}}
    (folder / "dask.yaml").write_text(yaml.safe_dump({"distributed": {"comm": settings}}), encoding="utf-8")
    script, where = ROOT / "scripts" / "verify_cluster.py", f"tls://{addresses['scheduler1']}:8786"
    done = subprocess.run(
        [sys.executable, script, where, "--workers", "worker1-0,worker2-0", "--json", "--timeout", "600"],
        env={**os.environ, "DASK_CONFIG": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=700,
        check=False,
    )
    results = {check["check"]: check["result"] for check in json.loads(done.stdout)["checks"]}
    assert set(results.values()) == {"ok"}, done.stdout
    assert {"hello-world", "pinned", "transfers"} <= set(results)
