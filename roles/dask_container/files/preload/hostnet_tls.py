"""Take up renewed certificates without a restart: a preload of scheduler, worker and nanny.

Every two seconds the process looks at the files that its Dask configuration names (CAs, certificate, key). Once they
have changed, it builds one SSLContext for what it listens on and one for its connections to others, from both new
files or not at all, and then swaps them in:

- a listener reads its context at each accept; a fresh one also forgets a CA that was dropped, and with it the session
  tickets that were given out before;
- connections to scheduler, workers and nannies share one dict; clients that tasks keep (`get_client`) have their own.

Connections that are open live on, pooled idle ones among them: the change counts for the next handshake. A pair that
cannot be used, as one of which only half was written, is logged once and nothing is touched. What is given as PEM text
in the configuration, and plain TCP, is left alone.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from pathlib import Path
from typing import Any

from distributed.client import Client
from distributed.comm.tcp import TLSListener
from distributed.scheduler import Scheduler
from tornado.ioloop import PeriodicCallback

POLL_SECONDS = 2.0
NAME = "hostnet-tls"
BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

# below distributed's logger, which is the one that is shown
logger = logging.getLogger("distributed.hostnet_tls")

Signature = tuple[tuple[int, ...] | None, ...]


def signature(files: list[Path]) -> Signature:
    """Return what changes when a file does; None for one that is not there."""
    found: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            said = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns))
    return tuple(found)


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 of the file's first certificate as `openssl x509 -fingerprint -sha256` prints it.

    Raises:
        ValueError: there is no certificate in it.
    """
    text = certificate.read_text(encoding="ascii")
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        raise ValueError(f"no certificate in {certificate}")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[start : end + len(END)])).digest().hex(":").upper()


class Watch:
    """What one server (scheduler, worker or nanny) has taken up."""

    def __init__(self, server: Any) -> None:
        """Begin with nothing taken up, so that what was written since the server's own start is."""
        self.server = server
        self.role = "scheduler" if isinstance(server, Scheduler) else "worker"
        tls = server.security.get_tls_config_for_role(self.role)
        named = [tls["ca_file"], tls["cert"], tls["key"]]
        self.files = [Path(name) for name in named if name and "\n" not in name] if all(named[:2]) else []
        self.certificate = None if not named[1] or "\n" in named[1] else Path(named[1])
        self.taken: Signature | None = None
        self.refused: Signature | None = None

    def look(self) -> None:
        """Swap in fresh contexts if the files are others than those taken up and are whole."""
        seen = signature(self.files)
        if seen == self.taken:
            return
        try:
            security = self.server.security
            listen = security.get_listen_args(self.role)["ssl_context"]
            connect = security.get_connection_args(self.role)["ssl_context"]
            shown = fingerprint(self.certificate) if self.certificate else "of the configuration"
            clients = [(client, client.security.get_connection_args(role)) for client, role in self.clients()]
        except Exception as error:  # whatever is wrong with the files, what works must go on working
            if seen != self.refused:
                logger.warning("Certificates cannot be used, those before stay: %s: %s", type(error).__name__, error)
            self.refused = seen
            return
        if signature(self.files) != seen:
            # replaced while they were read: the next look finds them whole
            return
        for listener in self.server.listeners:
            if isinstance(listener, TLSListener) and listener.tcp_server is not None:
                listener.tcp_server.ssl_options = listen
        self.server.connection_args["ssl_context"] = connect
        for client, arguments in clients:
            client.connection_args["ssl_context"] = arguments["ssl_context"]
        self.taken, self.refused = seen, None
        trusted = connect.cert_store_stats()["x509_ca"]
        logger.info("Certificate in use: SHA256 %s, trusted CAs: %d", shown, trusted)

    def clients(self) -> list[tuple[Any, str]]:
        """Return this process's clients that use the same files, such as the one that tasks share, and their roles."""
        mine = self.server.security.tls_ca_file
        found = [client for client in list(Client._instances) if client.security.tls_ca_file == mine]
        # get_client() makes one that is called a worker
        return [(client, "worker" if client.id.startswith("Client-worker") else "client") for client in found]


def dask_setup(server: Any) -> None:
    """Begin to watch; Dask calls this once the server listens, and stops the callback when the server closes."""
    watch = Watch(server)
    if not watch.files:
        logger.info("No certificate files to watch")
        return
    watch.look()
    callback = PeriodicCallback(watch.look, POLL_SECONDS * 1000)
    server.periodic_callbacks[NAME] = callback
    callback.start()
