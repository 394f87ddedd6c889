"""The Docker engine of a host as modules ask it: over its socket, with neither its client nor a library."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
from typing import Any

SOCKET = "/run/docker.sock"
DEADLINE = 20
# those of root, whatever the user who logs in has
PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"


def installed() -> bool:
    """Whether this host has an engine, which may not answer."""
    return shutil.which("dockerd", path=PATH) is not None


class Engine(http.client.HTTPConnection):
    """A connection to the engine; each answer is due within `timeout` seconds, at first DEADLINE."""

    def __init__(self) -> None:
        """Connect later."""
        super().__init__("localhost", timeout=DEADLINE)

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)

    def ask(self, path: str) -> Any:
        """Return the answer to GET; None for what is not there.

        Raises:
            OSError: it does not answer, or with an error.
        """
        self.request("GET", path)
        answer = self.getresponse()
        body = answer.read()
        if answer.status == http.client.NOT_FOUND:
            return None
        if answer.status != http.client.OK:
            raise OSError(f"{answer.status} {body.decode(errors='replace')}")
        return json.loads(body)

    def remove(self, path: str) -> None:
        """Have what DELETE names gone; one that is gone already is.

        Raises:
            OSError: it does not answer, or with an error.
        """
        self.request("DELETE", path)
        answer = self.getresponse()
        body = answer.read()
        if answer.status >= http.client.BAD_REQUEST and answer.status != http.client.NOT_FOUND:
            raise OSError(f"{answer.status} {body.decode(errors='replace').strip()}")
