"""Wait until what listens on this host's ports uses the certificates in its folder; exit status 0 or 1.

Runs on a managed host with its own python3 (`python3 -I - ARGUMENT`) and needs the standard library alone. The one
argument is JSON:

- `folder`: of host.key, host.crt and ca.crt; `address`, and `ports`: name to port number.
- `pages`: names of those ports that ask for no client certificate; of them only what they present is looked at.
- `probe` and `expect`: a further certificate for host.key in PEM, and whether Dask must have it `accepted` or
  `refused`; where `probe` is "", none is asked.
- `seconds`: how long to wait in all, and `absent`: how long something that does not listen is waited for.

Every port must present host.crt and, where Dask listens, answer a peer that shows host.crt. What does not listen takes
its certificates from the folder when it starts: it is named and holds up nothing. Dask writes first, so that the first
byte tells: with TLS 1.3 a refusal comes after the client's side of the handshake.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ACCEPTED, REFUSED, SILENT, ABSENT = "accepted", "refused", "does not answer", "nothing listens"
POLL_SECONDS = 0.5
CONNECT_SECONDS = 5.0


def connect(address: str, port: int, context: ssl.SSLContext) -> tuple[str, bytes]:
    """Return what came of it, and the peer's certificate in DER (b"" where it is not known)."""
    presented = b""
    try:
        raw = socket.create_connection((address, port), CONNECT_SECONDS)
    except ConnectionRefusedError:
        return ABSENT, presented
    except OSError:
        return SILENT, presented
    try:
        with raw, context.wrap_socket(raw) as wrapped:
            presented = wrapped.getpeercert(True) or b""
            return (ACCEPTED if wrapped.recv(1) else REFUSED), presented
    except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
        return REFUSED, presented
    except OSError:
        return SILENT, presented


def client_context(folder: Path, certificate: Path) -> ssl.SSLContext:
    """Return a context that trusts the folder's CAs and shows the certificate; names are not what Dask checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "ca.crt")
    context.load_cert_chain(certificate, folder / "host.key")
    return context


def first_certificate(file: Path) -> bytes:
    """Return the file's first certificate in DER."""
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(file.read_text(encoding="ascii").partition(end)[0] + end)


def judge(asked: dict[str, Any], name: str, own: ssl.SSLContext, probe: ssl.SSLContext | None) -> str:
    """Return "" if the port is as it should be, else why not."""
    address, port = asked["address"], asked["ports"][name]
    folder = Path(asked["folder"])
    if name in asked["pages"]:
        return page(address, port, own, folder)
    outcome, presented = connect(address, port, own)
    if outcome in (ABSENT, SILENT):
        return outcome
    if presented != first_certificate(folder / "host.crt"):
        return "presents another certificate than host.crt"
    if outcome != ACCEPTED:
        return "refuses host.crt"
    if probe is not None and connect(address, port, probe)[0] != asked["expect"]:
        # of the CA that comes, or of the one that goes
        return "does not trust the new CA yet" if asked["expect"] == ACCEPTED else "trusts the old CA yet"
    return ""


def page(address: str, port: int, context: ssl.SSLContext, folder: Path) -> str:
    """Judge a port that asks for no client certificate and waits for a request."""
    try:
        raw = socket.create_connection((address, port), CONNECT_SECONDS)
        with raw, context.wrap_socket(raw) as wrapped:
            presented = wrapped.getpeercert(True)
    except ConnectionRefusedError:
        return ABSENT
    except ssl.SSLError as error:
        return f"presents what ca.crt does not verify ({error.reason})"
    except OSError:
        return SILENT
    return "" if presented == first_certificate(folder / "host.crt") else "presents another certificate than host.crt"


def wait(asked: dict[str, Any]) -> dict[str, str]:
    """Return what is not as it should be at the end, by the port's name; {} when all is."""
    folder, start = Path(asked["folder"]), time.monotonic()
    own, probe = client_context(folder, folder / "host.crt"), None
    if asked["probe"]:
        with tempfile.NamedTemporaryFile("w", suffix=".crt") as file:
            file.write(asked["probe"])
            file.flush()
            probe = client_context(folder, Path(file.name))
    open_names = list(asked["ports"])
    while True:
        said = {name: judge(asked, name, own, probe) for name in open_names}
        open_names = [name for name, why in said.items() if why]
        spent = time.monotonic() - start
        only_absent = all(said[name] == ABSENT for name in open_names)
        if not open_names or spent > asked["seconds"] or (only_absent and spent > asked["absent"]):
            return {name: said[name] for name in open_names}
        time.sleep(POLL_SECONDS)


def main(argv: list[str]) -> int:
    """Print a line a port that is not as it should be; return 1 if one of them listens, else 0."""
    asked = json.loads(argv[0])
    left = wait(asked)
    for name, why in left.items():
        print(f"{name} on port {asked['ports'][name]}: {why}")
    return 1 if any(why != ABSENT for why in left.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
