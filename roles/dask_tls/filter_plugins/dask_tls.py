"""What the certificates on the hosts and on the control machine come to: refusals, warnings, names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# a rotation keeps the CA that comes or goes beside the one that signs
KNOWN = ("ca.crt", "trust.crt", "ca.next.crt", "ca.previous.crt")


def certificates(text: str) -> list[x509.Certificate]:
    """Return the certificates in a PEM text, without those that cannot be read."""
    found = []
    for pem in CERTIFICATE.findall(text):
        try:
            found.append(x509.load_pem_x509_certificate(pem.encode()))
        except ValueError:
            continue
    return found


def read(path: Path) -> str:
    """Return a file's text, "" where it is not there."""
    return path.read_text(encoding="ascii", errors="replace") if path.is_file() else ""


def fingerprints(text: str) -> list[str]:
    """Return the SHA-256 fingerprints of the certificates in a PEM text, as openssl writes them."""
    return [found.fingerprint(hashes.SHA256()).hex(":").upper() for found in certificates(text)]


def remaining(text: str) -> timedelta | None:
    """Return how long the first certificate in a PEM text is valid yet, None where there is none."""
    found = certificates(text)
    return found[0].not_valid_after_utc - datetime.now(UTC) if found else None


def dask_tls_due(path: str, days: float) -> bool:
    """Return whether a certificate is to be made: the file holds none, or it is valid for fewer than `days`."""
    left = remaining(read(Path(path)))
    return left is None or left < timedelta(days=float(days))


def dask_tls_warning(text: str, days: float, where: str) -> str:
    """Return a line that says when a certificate expires, "" where that is `days` away or more.

    Args:
        text: the certificate in PEM; one that cannot be read has no warning.
        days: from how many days before its end the line is due.
        where: whose it is and which file, the line's beginning.
    """
    left = remaining(text)
    if left is None or left >= timedelta(days=float(days)):
        return ""
    count = abs(left).days
    span = f"{count} day{'' if count == 1 else 's'}"
    end = f"{datetime.now(UTC) + left:%Y-%m-%d}"
    return f"{where} {f'expired {span} ago' if left < timedelta(0) else f'expires in {span}'}, on {end}"


def dask_tls_names(names: Iterable[str]) -> list[str]:
    """Return host names and addresses as a certificate's names, each once; a port and an address's brackets go."""
    found: dict[str, None] = {}
    for given in names:
        match = re.fullmatch(r"\[(.+)\](?::\d+)?|([^:]+):\d+", str(given))
        name = (match[1] or match[2]) if match else str(given)
        try:
            found[f"IP:{ipaddress.ip_address(name)}"] = None
        except ValueError:
            found[f"DNS:{name}"] = None
    return list(found)


def dask_tls_ca_refusals(pki: str, passphrase: str) -> list[str]:
    """Return, a line each, why the CA in the folder `pki` of the control machine cannot sign."""
    key, certificate = Path(pki) / "ca.key", Path(pki) / "ca.crt"
    if not key.is_file():
        lost = f"{certificate} has no ca.key beside it: bring that back from where it is kept"
        return [lost] if certificate.is_file() else []
    content, given = key.read_bytes(), str(passphrase).encode()
    encrypted = b"ENCRYPTED" in content
    if encrypted and not given:
        return [f"{key} is encrypted, and dask_tls_ca_passphrase is not set: set it, in a vaulted file"]
    try:
        loaded = load_pem_private_key(content, given if encrypted else None)
    except (TypeError, ValueError):
        wrong = f"dask_tls_ca_passphrase is not the passphrase of {key}"
        return [wrong if encrypted else f"{key} cannot be read as a key: bring it back from where it is kept"]
    if any(found.public_key() != loaded.public_key() for found in certificates(read(certificate))):
        if all((Path(pki) / name).is_file() for name in ("ca.next.crt", "ca.previous.key")):
            return [
                f"{key} is not the key of {certificate}: a switch of the CA was cut off; run "
                "playbooks/rotate.yml -e hostnet_rotate=switch, which ends it"
            ]
        # the modules would take it for a reason to make another CA
        return [f"{key} is not the key of {certificate}: bring back the two that belong together"]
    return []


def dask_tls_host_refusals(pki: str, held: Mapping[str, Mapping[str, str]], folder: str) -> list[str]:
    """Return, a line each, which hosts belong to a CA that the folder `pki` of the control machine does not know.

    Args:
        pki: the control machine's folder.
        held: of each host the files in `folder`, by name, with their text.
        folder: where a host keeps its certificates.
    """
    own = fingerprints(read(Path(pki) / "ca.crt"))
    known = {mark for name in KNOWN for mark in fingerprints(read(Path(pki) / name))}
    lines = []
    for host, files in held.items():
        marks = fingerprints(files.get("ca.crt", ""))
        over = f"if the cluster that {host} was of is no more, remove {folder} there"
        if own and marks and not known & set(marks):
            lines.append(
                f"{host}: {folder}/ca.crt is another CA's than {pki}/ca.crt: SHA-256 {' and '.join(marks)} there, "
                f"{own[0]} here. Use the inventory with that CA's pki/; {over}"
            )
        elif not own and ("ca.crt" in files or "host.crt" in files):
            which = f"the SHA-256 of its ca.crt is {' or '.join(marks)}" if marks else f"{folder}/ca.crt cannot be read"
            lines.append(
                f"{host}: it has a certificate of a CA that is not in {pki}, and a new CA would shut out its cluster's "
                f"hosts. Bring pki/ from whoever made the cluster: {which}; {over}"
            )
    return lines


class FilterModule:
    """Ansible's entry to the functions above."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "dask_tls_ca_refusals": dask_tls_ca_refusals,
            "dask_tls_due": dask_tls_due,
            "dask_tls_host_refusals": dask_tls_host_refusals,
            "dask_tls_names": dask_tls_names,
            "dask_tls_warning": dask_tls_warning,
        }
