"""The pages of this process (dashboard, /health, /metrics) for whoever shows a certificate of the cluster.

The pages ask nobody who they are, and therefore listen on loopback. This preload of a worker (or of the scheduler) has
them listen at the same port of the address at which the process itself is reached too, with the TLS of its comm: who
has no certificate of the cluster's CA gets no page. Without TLS, or when anything else is amiss, nothing listens there.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

from distributed.comm.addressing import get_address_host
from tornado.httpserver import HTTPServer

logger = logging.getLogger("distributed.hostnet_pages")
_open: dict[Any, HTTPServer] = {}


class Pages(HTTPServer):
    """Serves with the TLS that the comm has now, which hostnet_tls renews; tornado asks for it at each connection."""

    comm: Any = None

    @property
    def ssl_options(self) -> ssl.SSLContext | None:
        """Return the comm's context; raises RuntimeError unless it asks a caller for a certificate."""
        if self.comm is None:
            # tornado asks while it makes this; it listens once it has a comm
            return None
        context = getattr(self.comm, "ssl_options", None)
        if not isinstance(context, ssl.SSLContext) or context.verify_mode != ssl.CERT_REQUIRED:
            raise RuntimeError("the comm does not ask for certificates")
        return context

    @ssl_options.setter
    def ssl_options(self, given: object) -> None:
        """Tornado's own, always None: there is one truth."""


async def dask_setup(server: Any) -> None:
    """Listen beside the pages that `server` has on loopback."""
    pages = Pages(server.http_application)
    pages.comm = server.listener.tcp_server
    host, port = get_address_host(server.address), server.http_server.port
    # raises where there is no TLS
    if pages.ssl_options and host != server.http_server.address:
        pages.listen(port, host)
        _open[server] = pages
        logger.info("pages for holders of a certificate at: https://%s:%s", host, port)


async def dask_teardown(server: Any) -> None:
    """Listen no more."""
    pages = _open.pop(server, None)
    if pages:
        pages.stop()
