"""The preload that opens a worker's pages to holders of a certificate: hostnet_pages of roles/dask_container."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Scheduler, Worker
from distributed.security import Security

pytest.importorskip("cryptography")
PRELOAD = Path(__file__).parents[1] / "roles/dask_container/files/preload"
# the pages on one loopback address, the comm on another: as on a host, where the comm is on the cluster's network
PAGES, COMM = "127.0.0.1", "127.0.0.2"


def with_worker(check: Callable[[Worker], Awaitable[None]], security: Security, protocol: str = "tls://") -> None:
    """Run `check` with a worker that has the preload."""

    async def run() -> None:
        # as in a container: on PYTHONPATH, given by its name
        settings = {"distributed.worker.preload": ["hostnet_pages"], "distributed.worker.use-file-locking": False}
        with dask.config.set(settings):
            async with (
                Scheduler(host=COMM, port=0, security=security, protocol=protocol, dashboard=False) as scheduler,
                Worker(
                    scheduler.address,
                    host=COMM,
                    security=security,
                    dashboard=False,
                    dashboard_address=f"{PAGES}:0",
                    nthreads=1,
                ) as worker,
            ):
                await check(worker)

    sys.path.insert(0, str(PRELOAD))
    try:
        asyncio.run(run())
    finally:
        sys.path.remove(str(PRELOAD))


async def ask(host: str, port: int, context: ssl.SSLContext | None = None) -> str:
    """Return what GET /health is answered; with TLS 1.3 a refusal is seen when reading."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.write(b"GET /health HTTP/1.0\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer.decode()


def shown_by(security: Security) -> ssl.SSLContext:
    context: ssl.SSLContext = security.get_connection_args("client")["ssl_context"]
    return context


def stranger(trusted: Security) -> ssl.SSLContext:
    """A caller that trusts the cluster, and has no certificate."""
    context = ssl.create_default_context(cadata=trusted.tls_ca_file)
    context.check_hostname = False
    return context


def files(security: Security, folder: Path) -> list[Path]:
    """Write certificate and key where ssl can read them."""
    written = [folder / "cert", folder / "key"]
    for path in written:
        path.write_text(getattr(security, f"tls_client_{path.name}"), encoding="ascii")
    return written


def test_only_a_certificate_of_the_cluster_opens_the_pages(tmp_path: Path) -> None:
    ours, foreign = Security.temporary(), Security.temporary()

    async def check(worker: Worker) -> None:
        port = worker.http_server.port
        assert worker.http_server.address == PAGES
        assert (await ask(COMM, port, shown_by(ours))).endswith("ok")
        context = stranger(ours)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(COMM, port, context)
        context.load_cert_chain(*files(foreign, tmp_path))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(COMM, port, context)
        with pytest.raises((AssertionError, ConnectionError)):
            assert "ok" in await ask(COMM, port)

    with_worker(check, ours)


def test_whom_the_comm_no_longer_trusts_gets_no_page() -> None:
    ours, successor = Security.temporary(), Security.temporary()

    async def check(worker: Worker) -> None:
        port = worker.http_server.port
        assert (await ask(COMM, port, shown_by(ours))).endswith("ok")
        # as hostnet_tls does
        worker.listener.tcp_server.ssl_options = successor.get_listen_args("worker")["ssl_context"]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(COMM, port, shown_by(ours))
        assert (await ask(COMM, port, shown_by(successor))).endswith("ok")

    with_worker(check, ours)


def test_without_tls_there_is_no_second_listener() -> None:
    async def check(worker: Worker) -> None:
        port = worker.http_server.port
        assert "ok" in await ask(PAGES, port)
        with pytest.raises(ConnectionError):
            await ask(COMM, port)

    plain: Any = Security()
    with_worker(check, plain, "tcp://")
