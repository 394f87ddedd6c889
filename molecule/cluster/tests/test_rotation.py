"""Certificates come and go while the cluster works, and a client's bundle carries it through.

The client is a program of its own on the control machine, with what client.yml wrote and nothing else.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from at_work import INVENTORY, ROOT, Run, identities, on, playbook, process, wait_until

pytestmark = pytest.mark.timeout(1200)

HOSTS = ("scheduler1", "worker1", "worker2", "worker3")
PKI = INVENTORY / "pki"
PORTS = {host: {"worker": 10000, "nanny": 10100} for host in HOSTS[1:]} | {"scheduler1": {"scheduler": 8786}}
EACH = 6

# Rounds of tasks on every worker, whose sum is known, until the file is there; prints a line a round and the outcome.
COMPUTATION = f"""
import json, sys, time
from pathlib import Path
from distributed import Client, wait

def square(x):
    time.sleep(0.2)
    return x**2

client, total, rounds = Client(timeout=60), 0, 0
while not Path(sys.argv[1]).exists():
    squares = client.map(square, range(rounds * {EACH}, (rounds + 1) * {EACH}), pure=False)
    total = client.submit(lambda before, new: before + sum(new), total, squares, pure=False)
    wait(total, timeout=120)
    rounds += 1
    print("round", rounds, flush=True)
print(json.dumps([rounds, total.result(timeout=60)]), flush=True)
"""


@dataclass(frozen=True)
class Computation:
    """What runs, the file that ends it and the file it prints to."""

    running: subprocess.Popen[bytes]
    end: Path
    output: Path

    def rounds(self) -> int:
        """Return how many are done; fail when the program has ended."""
        assert self.running.poll() is None, self.output.read_text(encoding="utf-8")
        return self.output.read_text(encoding="utf-8").count("round")

    def goes_on(self) -> None:
        """Wait for a whole round that begins from now on."""
        before = self.rounds()
        wait_until(lambda: self.rounds() > before + 1, "another round of the computation", 60)

    def result(self) -> None:
        """End it; its result must be right."""
        self.end.touch()
        status, said = self.running.wait(120), self.output.read_text(encoding="utf-8")
        assert status == 0, said
        rounds, total = json.loads(said.splitlines()[-1])
        assert rounds > 1
        assert total == sum(x**2 for x in range(rounds * EACH))


def environment(bundle: Path) -> dict[str, str]:
    """Return that of a program which has nothing of Dask's but the bundle."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DASK_", "PYTHON"))}
    return {**kept, "DASK_CONFIG": str(bundle)}


@contextmanager
def computing(bundle: Path, folder: Path) -> Iterator[Computation]:
    """Compute with a client of that bundle; it has begun."""
    output = folder / "output"
    with output.open("wb") as written:
        running = subprocess.Popen(
            [sys.executable, "-c", COMPUTATION, str(folder / "end")],
            env=environment(bundle),
            cwd=folder,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    made = Computation(running, folder / "end", output)
    try:
        wait_until(lambda: made.rounds() > 0, "the computation to begin", 60)
        yield made
    finally:
        running.kill()
        running.wait(10)


def rotate(stage: str, *arguments: str) -> Run:
    return playbook("playbooks/rotate.yml", "-e", f"hostnet_rotate={stage}", *arguments)


def write_bundle(name: str) -> Path:
    run = playbook("playbooks/client.yml", "-e", f"hostnet_client={name}")
    assert run.status == 0
    return PKI / "clients" / name


def listed(name: str) -> str:
    """Return what the list of bundles says of one."""
    run = playbook("playbooks/client.yml")
    assert run.status == 0
    assert set(run.changed.values()) == {0}
    rows = [line for line in run.output.splitlines() if re.match(rf"{name} ", line)]
    assert len(rows) == 1
    return re.split(r"  +", rows[0])[-1]


def python(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(bundle),
        cwd=bundle.parent,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def processes() -> dict[tuple[str, str], Any]:
    """Return the process ids of scheduler, nannies and workers: a worker may be started anew without its container."""
    found: dict[tuple[str, str], Any] = {
        ("scheduler1", "scheduler"): process("scheduler1", "dask-scheduler", r"python \S+ scheduler ")
    }
    for host in HOSTS[1:]:
        found[host, "nanny"] = process(host, "dask-worker-0", r"python \S+ worker ")
        found[host, "worker"] = process(host, "dask-worker-0", "--multiprocessing-fork")
    assert None not in found.values()
    return found


def presented() -> dict[tuple[str, str], str]:
    """Return the fingerprint of what each comm port presents, asked on its own host with that host's certificate."""
    tls = "/etc/dask-hostnet/tls"
    found = {}
    for host, ports in PORTS.items():
        for name, port in ports.items():
            command = (
                f"address=$(ss -Hltn 'sport = :{port}' | awk '{{print $4}}'); "
                f"openssl s_client -connect $address -cert {tls}/host.crt -key {tls}/host.key </dev/null 2>/dev/null"
                " | openssl x509 -noout -fingerprint -sha256"
            )
            found[host, name] = on(host).check_output(command)
    return found


def answers(bundle: Path) -> dict[tuple[str, str], bool]:
    """Return whether each comm port lets a client with that bundle's certificate in, asked on the port's own host.

    Dask writes first: whoever is let in reads a byte, and whoever is refused an alert.
    """
    code = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.load_cert_chain(sys.argv[1])
with socket.create_connection((sys.argv[2], int(sys.argv[3])), 10) as raw:
    try:
        print(bool(context.wrap_socket(raw).recv(1)))
    except ssl.SSLError as error:
        print("refused:", error.reason)
"""
    pair = "".join((bundle / name).read_text(encoding="ascii") for name in ("client.crt", "client.key"))
    found = {}
    for host, ports in PORTS.items():
        for name, port in ports.items():
            said = on(host).check_output(
                f"address=$(ss -Hltn 'sport = :{port}' | awk '{{print $4}}'); pair=$(mktemp); trap 'rm -f $pair' EXIT; "
                f"printf %s '{pair}' > $pair; python3 -c '{code}' $pair ${{address%:*}} {port}"
            )
            found[host, name] = said == "True"
            assert said == "True" or said.startswith("refused: "), said
    return found


@pytest.fixture(scope="module")
def bundle() -> Path:
    return write_bundle("rotation")


def test_a_bundle_is_all_that_a_client_needs(bundle: Path, tmp_path: Path) -> None:
    # wherever it is handed to
    here = tmp_path / "laptop"
    shutil.copytree(bundle, here)
    code = "from distributed import Client; print(Client().submit(sum, range(5)).result(timeout=30))"
    done = python(here, "-c", code)
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr
    verified = python(
        here, str(ROOT / "scripts/verify_cluster.py"), "--versions", "--n-workers", "3", "--timeout", "600"
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "333283335000" in verified.stdout
    assert "\nversions: " in verified.stdout
    modes = {path.name: path.stat().st_mode & 0o777 for path in (bundle, *bundle.iterdir())}
    assert modes["rotation"] == 0o700
    assert {name for name, mode in modes.items() if mode == 0o600} == {"client.key", "dask.yaml"}
    told = json.loads((bundle / "cluster.json").read_text(encoding="utf-8"))["hostnet"]
    assert told["image"].partition("@sha256:")[1]
    assert told["python"].startswith("3.11.")
    assert "--hash=sha256:" in (bundle / "requirements.txt").read_text(encoding="utf-8")


def test_a_bundle_that_is_good_is_left_as_it_is(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    run = playbook("playbooks/client.yml", "-e", f"hostnet_client={bundle.name}")
    assert run.status == 0
    assert set(run.changed.values()) == {0}
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_new_keys_and_certificates_of_the_hosts_are_taken_up_while_a_computation_runs(
    bundle: Path, tmp_path: Path
) -> None:
    files = "sha256sum /etc/dask-hostnet/tls/host.key /etc/dask-hostnet/tls/host.crt | cut -d' ' -f1"
    before = identities(*HOSTS), processes()
    old, old_files = presented(), {host: set(on(host).check_output(files).split()) for host in HOSTS}
    with computing(bundle, tmp_path) as computation:
        run = rotate("hosts")
        assert run.status == 0
        assert set(HOSTS) <= {host for host, changed in run.changed.items() if changed}
        computation.goes_on()
        computation.result()
    assert (identities(*HOSTS), processes()) == before
    new = presented()
    assert not set(new.values()) & set(old.values())
    # worker and nanny of a host present that host's one certificate, and each host its own
    assert len(set(new.values())) == len(HOSTS)
    for host in HOSTS:
        assert not old_files[host] & set(on(host).check_output(files).split())
        assert not on(host).file("/etc/dask-hostnet/tls/next").exists
        key = on(host).file("/etc/dask-hostnet/tls/host.key")
        assert (key.user, key.gid, oct(key.mode)) == ("root", 10786, "0o640")


@pytest.mark.thorough
def test_a_new_ca_comes_in_three_stages_and_what_the_old_one_signed_is_refused(bundle: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    before, ca = (identities(*HOSTS), processes()), (PKI / "ca.crt").read_bytes()
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()

    for stage in ("switch", "drop"):
        refused = rotate(stage)
        assert refused.status == 2
        assert refused.says(f"hostnet_rotate={stage} is out of order: ")
        assert set(refused.changed.values()) == {0}
    limited = rotate("trust", "--limit", "worker1")
    assert limited.status == 2
    assert limited.says("--limit leaves out scheduler1, worker2, worker3")
    assert not (PKI / "ca.next.crt").exists()

    with computing(old, tmp_path / "first") as computation:
        assert rotate("trust").status == 0
        computation.goes_on()
        assert rotate("drop").status == 2
        computation.result()
    assert listed("rotation").endswith("until the old CA is dropped")
    # what a client gets now is good through all that follows
    new = write_bundle("rotation")
    assert listed("rotation") == "ok"
    assert all(answers(new).values())
    with computing(new, tmp_path / "second") as computation:
        assert rotate("switch").status == 0
        computation.goes_on()
        assert (PKI / "ca.crt").read_bytes() != ca
        # the second time there is nothing left to do
        again = rotate("switch")
        assert again.status == 0
        assert set(again.changed.values()) == {0}
        assert rotate("trust").status == 2
        assert all(answers(old).values())
        assert rotate("drop").status == 0
        computation.goes_on()
        computation.result()
    assert not any(answers(old).values())
    assert all(answers(new).values())
    code = "from distributed import Client; Client(timeout=5)"
    assert python(old, "-c", code).returncode != 0
    assert python(new, "-c", code).returncode == 0
    assert (identities(*HOSTS), processes()) == before
    assert sorted(path.name for path in PKI.glob("ca*")) == ["ca.crt", "ca.csr", "ca.key", "ca.previous.crt"]
    assert (PKI / "ca.previous.crt").read_bytes() == ca
    # nothing is left for site.yml to do where scheduler, registry and dashboard are
    settled = playbook("site.yml", "--limit", "scheduler1")
    assert settled.status == 0
    assert set(settled.changed.values()) == {0}
