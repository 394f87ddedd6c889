"""Processes take up changed certificates: roles/dask_container/files/preload/hostnet_tls.py in a real cluster with TLS.

One scheduler and two workers with their nannies on loopback. Each test writes the files that it begins with.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Client, get_client
from distributed.security import Security
from loading import load
from waiting import wait_for

PRELOADS = Path(__file__).parents[1] / "roles/dask_container/files/preload"
TAKEN_UP = Path(__file__).parents[1] / "roles/dask_tls/files/taken_up.py"
WORKERS = ("one", "two")
TAKEN, REFUSED = "Certificate in use: SHA256 ", "Certificates cannot be used"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key as PEM."""

    crt: str
    key: str

    def fingerprint(self) -> str:
        return x509.load_pem_x509_certificate(self.crt.encode()).fingerprint(hashes.SHA256()).hex(":").upper()


class Authority:
    """A CA; all of them have the same name, as those of one cluster have."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the CA")])
        self.ski = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.crt = self._sign(self.name, self.key, x509.BasicConstraints(ca=True, path_length=0))

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, constraints: x509.BasicConstraints) -> str:
        now = datetime.datetime.now(datetime.UTC)
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = (
            x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(constraints, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self.ski), critical=False)
            .add_extension(addresses, critical=False)
        )
        signed = builder.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    def certificate_for(self, key: ec.EllipticCurvePrivateKey) -> str:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "host")])
        return self._sign(name, key, x509.BasicConstraints(ca=False, path_length=None))

    def pair(self) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(self.certificate_for(key), text.decode())


@pytest.fixture(scope="session")
def old() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def new() -> Authority:
    return Authority()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """The processes, their files and their ports."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tls, self.scratch = folder, folder / "tls", folder / "scratch"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        names = ("scheduler", *(f"{kind} {name}" for name in WORKERS for kind in ("worker", "nanny")))
        self.ports = {name: free_port() for name in names}
        for made in (self.tls, folder / "config", self.scratch):
            made.mkdir()
        files = {"cert": str(self.tls / "host.crt"), "key": str(self.tls / "host.key")}
        settings = {
            "comm": {
                "require-encryption": True,
                "tls": {"ca-file": str(self.tls / "ca.crt"), "min-version": 1.3}
                | dict.fromkeys(("scheduler", "worker", "client"), files),
            },
            "worker": {"preload": ["hostnet_tls"]},
            "scheduler": {"preload": ["hostnet_tls"]},
        }
        (folder / "config/dask.yaml").write_text(yaml.safe_dump({"distributed": settings}))

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.ports['scheduler']}"

    def write(self, trusted: list[Authority], pair: Pair) -> None:
        """Replace the files as Ansible does, each atomically, the CAs first."""
        self.put("ca.crt", "".join(authority.crt for authority in trusted))
        self.put("host.key", pair.key)
        self.put("host.crt", pair.crt)

    def put(self, name: str, text: str) -> None:
        part = self.tls / f".{name}"
        part.write_text(text)
        part.rename(self.tls / name)

    def start(self, name: str, *arguments: str) -> None:
        environment = {
            **os.environ,
            "DASK_CONFIG": str(self.folder / "config"),
            "PYTHONPATH": str(PRELOADS),
            "PYTHONUNBUFFERED": "1",
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_all(self) -> None:
        port = self.ports["scheduler"]
        here = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
        self.start("scheduler", "scheduler", *here, "--port", str(port), "--no-show", "--protocol", "tls")
        for name in WORKERS:
            ports = (
                "--worker-port",
                str(self.ports[f"worker {name}"]),
                "--nanny-port",
                str(self.ports[f"nanny {name}"]),
            )
            # `dask worker` does not read distributed.nanny.preload
            shape = ("--preload-nanny", "hostnet_tls", "--nthreads", "1", "--nworkers", "1")
            shape += ("--local-directory", str(self.scratch))
            self.start(name, "worker", self.address, "--name", name, *here, *ports, *shape)

    def stop(self) -> None:
        # a nanny lets its worker go first; a scheduler that is gone would make it wait
        for names in (WORKERS, ("scheduler",)):
            ending = [self.processes[name] for name in names if name in self.processes]
            for process in ending:
                process.terminate()
            for process in ending:
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def client(self, authority: Authority, pair: Pair | None = None, timeout: float = 60) -> Client:
        pair = pair or authority.pair()
        security = Security(
            tls_ca_file=authority.crt, tls_client_cert=pair.crt, tls_client_key=pair.key, require_encryption=True
        )
        return Client(self.address, security=security, timeout=timeout, set_as_default=False)

    def presented(self, port: int) -> str:
        """Return the fingerprint of what listens there, or why there is none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw) as wrapped:
                found = x509.load_der_x509_certificate(wrapped.getpeercert(True) or b"")
        except OSError as error:
            return str(error)
        return found.fingerprint(hashes.SHA256()).hex(":").upper()

    def accepts(self, port: int, pair: Pair) -> bool:
        """Whether Dask answers: with TLS 1.3 a refusal comes after the client's side of the handshake."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        (self.folder / "probe.pem").write_text(pair.crt + pair.key)
        context.load_cert_chain(self.folder / "probe.pem")
        with socket.create_connection(("127.0.0.1", port), 30) as raw:
            try:
                with context.wrap_socket(raw) as wrapped:
                    return bool(wrapped.recv(1))
            except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
                return False

    def all_present(self, pair: Pair) -> bool:
        return all(self.presented(port) == pair.fingerprint() for port in self.ports.values())

    def settle(self, trusted: list[Authority], pair: Pair) -> None:
        """Write the files and wait until every process presents them."""
        self.write(trusted, pair)
        wait_for(lambda: self.all_present(pair), "every port presents the certificate")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, old: Authority) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.write([old], old.pair())
    made.start_all()
    try:
        # a machine with much to do takes its time to start Python
        wait_for(lambda: "Scheduler at" in made.log("scheduler"), "the scheduler listens", 90)
        with made.client(old) as client:
            client.wait_for_workers(len(WORKERS), timeout=90)
        yield made
    finally:
        made.stop()


def processes(client: Client) -> dict[str, Any]:
    """The ids of workers and nannies: they did not restart."""
    return {**client.run(os.getpid), **{f"nanny {a}": pid for a, pid in client.run(os.getpid, nanny=True).items()}}


def test_a_renewed_certificate_is_presented_without_a_restart(cluster: Cluster, old: Authority) -> None:
    cluster.settle([old], old.pair())
    renewed = old.pair()
    assert not cluster.all_present(renewed)
    with cluster.client(old) as client:
        before = processes(client)
        cluster.settle([old], renewed)
        assert processes(client) == before
    # one line each of scheduler, nanny and worker
    for name, lines in (("scheduler", 1), *((name, 2) for name in WORKERS)):
        assert cluster.log(name).count(f"{TAKEN}{renewed.fingerprint()}, trusted CAs: 1") == lines


def test_a_ca_is_replaced_while_a_computation_runs(
    cluster: Cluster, old: Authority, new: Authority, request: pytest.FixtureRequest
) -> None:
    def step(number: int, gate: Path | None = None) -> int:
        while gate and not gate.exists():
            time.sleep(0.05)
        return number + 1

    def through_a_client(numbers: list[int]) -> int:
        client = get_client()
        return int(client.submit(sum, numbers, pure=False).result(timeout=30))

    def trusted(dask_worker: Any) -> list[str]:
        contexts = [dask_worker.connection_args["ssl_context"]]
        if dask_worker._client is not None:
            contexts.append(dask_worker._client.connection_args["ssl_context"])
        return [ca["serialNumber"] for context in contexts for ca in context.get_ca_certs()]

    def serial(authority: Authority) -> str:
        text = f"{x509.load_pem_x509_certificate(authority.crt.encode()).serial_number:X}"
        return text.zfill(len(text) + len(text) % 2)

    cluster.settle([old], old.pair())
    of_old, of_new, ports = old.pair(), new.pair(), cluster.ports.values()
    with cluster.client(old, of_old) as client:
        before = processes(client)
        addresses = {
            worker["name"]: address for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()
        }
        # each of the two workers makes itself the client that its tasks share
        for name in WORKERS:
            assert client.submit(through_a_client, [1, 2], workers=[name], pure=False).result(timeout=30) == 3
        # a chain that goes on with each stage, each step on the other worker than the one before
        gates = [cluster.folder / f"gate {number}" for number in range(4)]
        # a task that waits for its gate would hold up the tests after one that failed
        request.addfinalizer(lambda: [gate.touch() for gate in gates])
        running: Any = 0
        for number, gate in enumerate(gates):
            running = client.submit(step, running, gate, workers=[WORKERS[number % 2]], pure=False)

        cluster.write([old, new], of_old)
        wait_for(lambda: all(cluster.accepts(port, of_new) for port in ports), "every port trusts the new CA")
        gates[0].touch()
        assert all(cluster.accepts(port, of_old) for port in ports)
        cluster.settle([old, new], new.pair())
        gates[1].touch()
        assert all(cluster.accepts(port, of_old) for port in ports)
        cluster.write([new], new.pair())
        wait_for(lambda: not any(cluster.accepts(port, of_old) for port in ports), "every port refuses the old CA")
        gates[2].touch()

        assert all(cluster.accepts(port, of_new) for port in ports)
        assert not running.done()
        gates[3].touch()
        assert running.result(timeout=30) == len(gates)
        assert processes(client) == before
        # the worker's own connections and those of its tasks' client trust the new CA alone
        assert client.run(trusted) == dict.fromkeys(addresses.values(), [serial(new)] * 2)

    # Dask tries again until its time is up
    with pytest.raises(OSError, match=r"TLS certificate does not match|unknown ca|[Tt]imed out"):
        cluster.client(old, of_old, timeout=2)
    with cluster.client(new) as client:
        # scheduler → nanny → a new worker → scheduler, and then worker → worker, on connections that are all new
        client.restart_workers(list(addresses.values()), timeout=60)
        client.wait_for_workers(len(WORKERS), timeout=60)
        first = client.submit(step, 1, workers=["one"], pure=False)
        assert client.submit(step, first, workers=["two"], pure=False).result(timeout=30) == 3


def test_a_half_written_pair_changes_nothing(cluster: Cluster, old: Authority) -> None:
    whole, other = old.pair(), old.pair()
    cluster.settle([old], whole)
    names = ("scheduler", *WORKERS)
    before = {name: cluster.log(name).count(REFUSED) for name in names}

    def complaints(name: str) -> int:
        return cluster.log(name).count(REFUSED) - before[name]

    # the key of another certificate; then a CA whose text ends in the middle
    cluster.put("host.key", other.key)
    wait_for(lambda: (complaints("scheduler"), *map(complaints, WORKERS)) == (1, 2, 2), "each process says so")
    cluster.put("ca.crt", old.crt + old.crt[: len(old.crt) // 2])
    wait_for(lambda: (complaints("scheduler"), *map(complaints, WORKERS)) == (2, 4, 4), "each process says so")
    assert cluster.all_present(whole)
    with cluster.client(old) as client:
        assert client.submit(sum, [1, 2], pure=False).result(timeout=30) == 3
    # said once a change and not at each look
    assert (complaints("scheduler"), *map(complaints, WORKERS)) == (2, 4, 4)
    # whole again, it is taken up
    cluster.settle([old], other)


def taken_up(
    cluster: Cluster, *, probe: str = "", expect: str = "", seconds: float = 30, **ports: int
) -> tuple[int, str]:
    """Ask as the role does on a host; return the exit status and what was printed."""
    asked = {"folder": str(cluster.tls), "address": "127.0.0.1", "ports": ports or cluster.ports, "pages": ["registry"]}
    asked |= {"probe": probe, "expect": expect, "seconds": seconds, "absent": 0.1}
    done = subprocess.run(
        [sys.executable, "-I", "-", json.dumps(asked)],
        input=TAKEN_UP.read_text(encoding="utf-8"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_rotation_waits_until_every_port_has_taken_it_up(cluster: Cluster, old: Authority, new: Authority) -> None:
    cluster.settle([old], old.pair())
    key = serialization.load_pem_private_key((cluster.tls / "host.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    of_old, of_new = (authority.certificate_for(key) for authority in (old, new))
    assert taken_up(cluster, probe=of_old, expect="accepted") == (0, "")
    assert taken_up(cluster, probe=of_new, expect="refused") == (0, "")
    status, said = taken_up(cluster, probe=of_new, expect="accepted", seconds=1)
    assert status == 1
    assert said.splitlines() == [f"{n} on port {p}: does not trust the new CA yet" for n, p in cluster.ports.items()]
    status, said = taken_up(cluster, probe=of_old, expect="refused", seconds=1)
    assert (status, said.count("trusts the old CA yet")) == (1, len(cluster.ports))
    # a certificate whose key has not come yet is not taken up: it waits
    renewed = new.pair()
    cluster.put("ca.crt", old.crt + new.crt)
    cluster.put("host.crt", renewed.crt)
    assert taken_up(cluster, seconds=1)[0] == 1
    cluster.put("host.key", renewed.key)
    assert taken_up(cluster) == (0, "")
    # what does not run holds up nothing and is named
    port = free_port()
    assert taken_up(cluster, worker=port) == (0, f"worker on port {port}: nothing listens\n")


def test_the_fingerprint_is_what_openssl_prints(tmp_path: Path, old: Authority) -> None:
    pair, file = old.pair(), tmp_path / "host.crt"
    file.write_text("a heading\n" + pair.crt + old.crt)
    command = ["openssl", "x509", "-in", str(file), "-noout", "-fingerprint", "-sha256"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip().partition("=")[2] == load(PRELOADS / "hostnet_tls.py").fingerprint(file) == pair.fingerprint()


def test_a_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "host.crt").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"no certificate in .*host\.crt"):
        load(PRELOADS / "hostnet_tls.py").fingerprint(tmp_path / "host.crt")
