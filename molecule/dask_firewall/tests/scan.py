"""Scan TCP ports of an address, from one or more of this host's own: which are open and which silent, as JSON.

`python3 scan.py TARGET [--source ADDRESS]... [--ports 1-65535]`. Open: the connection was made. Silent: nothing came
back, as where a firewall drops. Any other port refused. Standard library only: nodes run it as it stands, with -c.
"""

from __future__ import annotations

import argparse
import errno
import json
import resource
import selectors
import socket
import time
from collections.abc import Sequence
from itertools import islice, product

# a lost SYN is sent again after 1 s
PATIENCE = 2.5
AT_ONCE = 1500


def scan(target: str, ports: Sequence[int], sources: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """Return the open and the silent ones of a target's ports by source, an empty one being what the kernel chooses."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    found: dict[str, dict[str, list[int]]] = {source: {"open": [], "silent": []} for source in sources}
    waiting: dict[socket.socket, tuple[str, int, float]] = {}
    rest = product(ports, sources)
    with selectors.DefaultSelector() as selector:
        while True:
            for port, source in islice(rest, AT_ONCE - len(waiting)):
                attempt = socket.socket(family, socket.SOCK_STREAM)
                attempt.setblocking(False)
                if source:
                    attempt.bind((source, 0))
                attempt.connect_ex((target, port))
                selector.register(attempt, selectors.EVENT_WRITE)
                waiting[attempt] = source, port, time.monotonic() + PATIENCE
            if not waiting:
                return found
            # what came before the deadline is read, however late this is
            now = time.monotonic()
            ended = {
                key.fileobj: key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                for key, _ in selector.select(0.1)
            }
            for attempt, (_, _, deadline) in waiting.items():
                if deadline < now:
                    ended.setdefault(attempt, errno.ETIMEDOUT)
            for attempt, error in ended.items():
                source, port, _ = waiting.pop(attempt)
                if error == 0:
                    found[source]["open"].append(port)
                elif error != errno.ECONNREFUSED:
                    found[source]["silent"].append(port)
                selector.unregister(attempt)
                attempt.close()


def main() -> None:
    """Scan, and print what was found by source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument(
        "--source", action="append", help="an address of this host; the kernel chooses where none is given"
    )
    parser.add_argument("--ports", default="1-65535")
    options = parser.parse_args()
    first, _, last = options.ports.partition("-")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * AT_ONCE), hard))
    found = scan(options.target, range(int(first), int(last or first) + 1), options.source or [""])
    print(
        json.dumps({source: {state: sorted(ports) for state, ports in seen.items()} for source, seen in found.items()})
    )


if __name__ == "__main__":
    main()
