"""What stands in a client's bundle, and the list of the bundles."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

NAME = "client.crt"
LEAVING = "ok until the old CA is dropped"


def dask_tls_days_left(path: str) -> float:
    """Return for how many days the certificate in a file is valid yet; -1 where there is none."""
    try:
        found = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except (OSError, ValueError):
        return -1
    return (found.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400


def issued(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> bool:
    """Return whether one of the CAs signed the certificate."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def authorities(*files: Path) -> list[x509.Certificate]:
    """Return the certificates of the first of the files that is there."""
    found = [file for file in files if file.is_file()]
    return x509.load_pem_x509_certificates(found[0].read_bytes()) if found else []


def bundles(pki: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield of each bundle in a pki folder's clients/ its name, last day, days left and state."""
    folder = Path(pki)
    # in a rotation two are trusted, of which one will go
    trusted = authorities(folder / "trust.crt", folder / "ca.crt")
    staying = authorities(folder / "ca.next.crt", folder / "ca.crt")
    for file in sorted(folder.glob(f"clients/*/{NAME}")):
        name, left = file.parent.name, dask_tls_days_left(str(file))
        try:
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
        except ValueError:
            yield name, "", "", "no certificate"
            continue
        if left < 0:
            state = "expired"
        elif issued(certificate, staying):
            state = "ok"
        else:
            state = LEAVING if issued(certificate, trusted) else "refused: of a CA that is gone"
        yield name, f"{certificate.not_valid_after_utc:%Y-%m-%d}", f"{max(left, 0):.0f}", state


def dask_tls_leaving_clients(pki: str) -> list[str]:
    """Return the names of the bundles that the drop of the old CA shuts out."""
    return [name for name, _, _, state in bundles(pki) if state == LEAVING]


def dask_tls_client_lines(pki: str) -> list[str]:
    """Return a table of the bundles in a pki folder's clients/: a row a client."""
    rows = [("client", "expires", "days left", "state"), *bundles(pki)]
    if len(rows) == 1:
        return ["no client has a bundle; -e hostnet_client=NAME makes one"]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def dask_tls_client_lock(packages: Mapping[str, str], lock: str) -> str:
    """Return requirements for what the image holds: the lock, or without hashes what was found in the image.

    Args:
        packages: name to version, as the image said.
        lock: the text of the lock that image.yml builds from; an image from elsewhere was made from another.
    """
    locked = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock, re.MULTILINE)
    }
    if locked and all(packages.get(name) == version for name, version in locked.items()):
        return lock
    # an installer is no part of what tasks see
    found = {name: version for name, version in packages.items() if name not in {"pip", "setuptools", "wheel"}}
    lines = [f"{name}=={version}" for name, version in sorted(found.items())]
    return "\n".join(["# what the image holds, which is not of the inventory's lock: no hashes", *lines, ""])


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Return them by name."""
        return {
            "dask_tls_days_left": dask_tls_days_left,
            "dask_tls_client_lines": dask_tls_client_lines,
            "dask_tls_leaving_clients": dask_tls_leaving_clients,
            "dask_tls_client_lock": dask_tls_client_lock,
        }
