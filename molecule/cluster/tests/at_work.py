"""What an operator does and sees: playbooks run from the checkout as typed, and commands on a host over SSH."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import yaml
from conftest import kill
from testinfra.host import Host
from testinfra.utils.ansible_runner import AnsibleRunner

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = Path(__file__).resolve().parents[1] / "inventory"
OUR_LABEL = "io.dask-hostnet.cluster=cluster"
# a client in a container of its own, with the certificate of its host
CLIENT = (
    "--volume /etc/dask-hostnet/verify:/verify:ro --volume /etc/dask-hostnet/tls:/etc/dask-tls:ro --user 10786:10786 "
    "--volume /etc/dask-hostnet/scheduler:/etc/dask:ro --env DASK_CONFIG=/etc/dask"
)
LOG = logging.getLogger("cluster")
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One `ansible-playbook`: its exit status (-9 when killed), all that it printed, and `changed` by host."""

    status: int
    output: str = field(repr=False)

    def says(self, sentence: str) -> bool:
        """Whether the sentence was printed, also when it was wrapped."""
        return sentence in " ".join(self.output.split())

    def shows(self, pattern: str) -> bool:
        """Whether a line begins with what matches."""
        return re.search(rf"^\W*{pattern}", self.output, re.MULTILINE) is not None

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, by host; empty when there was no recap."""
        return {found[0]: int(found[2]) for found in RECAP.findall(self.output)}


def playbook(
    name: str, *arguments: str, inventory: str = str(INVENTORY), until: Callable[[], bool] = bool, **variables: str
) -> Run:
    """Run a playbook as an operator does; as soon as `until` is true, kill it with all that it started.

    Args:
        name: of the playbook, from the checkout.
        arguments: of ansible-playbook.
        inventory: the operator's.
        until: the condition.
        variables: of the environment.
    """
    # molecule's own settings stay out of it
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANSIBLE_", "MOLECULE_")) or name == "ANSIBLE_BECOME_PASSWORD_FILE"
    }
    ansible = Path(sys.executable).with_name("ansible-playbook")
    command = [str(ansible), "-i", inventory, name, *arguments]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        running = psutil.Popen(
            command,
            cwd=ROOT,
            env={**environment, "NO_COLOR": "1", **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: running.poll() is not None or until(), f"{name} to end", 600)
        finally:
            kill(running)
        output.seek(0)
        run = Run(running.returncode, output.read())
    # pytest shows it when the test fails
    print(run.output)
    LOG.info("%s %s: status %s, %.0f s", name, " ".join(arguments)[:60], run.status, time.monotonic() - start)
    return run


def wait_until(condition: Callable[[], Any], what: str, deadline: float) -> Any:
    """Return the condition's first true value; fail past the deadline in seconds."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline:.0f} s: {what}"
        time.sleep(0.5)
    return found


@cache
def on(name: str) -> Host:
    """Return the host of that inventory name; the inventory is read anew for each, as it may have grown."""
    return AnsibleRunner(str(INVENTORY)).get_host(name)


def image() -> str:
    """Return the reference that image.yml wrote into the inventory."""
    written = yaml.safe_load((INVENTORY / "group_vars" / "all" / "image.yml").read_text(encoding="utf-8"))
    return str(written["dask_cluster_image"])


def containers(name: str) -> dict[str, dict[str, Any]]:
    """Return what `docker inspect` says of our containers on a host, by container name."""
    listed = on(name).check_output(f"docker ps --all --quiet --filter label={OUR_LABEL}").split()
    inspected = json.loads(on(name).check_output(f"docker inspect {' '.join(listed)}")) if listed else []
    return {container["Name"].removeprefix("/"): container for container in inspected}


def identities(*names: str) -> dict[tuple[str, str], tuple[str, str, int]]:
    """Return (id, time of start, restarts) of our containers by host and container name."""
    return {
        (name, container): (said["Id"], said["State"]["StartedAt"], said["RestartCount"])
        for name in names
        for container, said in containers(name).items()
    }


def ask_cluster(*arguments: str) -> str:
    """Run a command in the pinned image on the scheduler's host and return its output; it must exit 0."""
    command = f"docker run --rm --network host {CLIENT} {image()} {shlex.join(arguments)}"
    return str(on("scheduler1").check_output(command))


def scheduler_address() -> str:
    """Return what a client dials."""
    said = on("scheduler1").check_output("ss -Hltn sport = :8786").split()
    return f"tls://{said[3]}"


def verification(*workers: str) -> str:
    """Return the table of a verification in which each of these workers takes part; it must pass within 600 s."""
    command = ["python", "/verify/verify_cluster.py", scheduler_address(), "--workers", ",".join(workers)]
    return ask_cluster(*command, "--timeout", "600")


def process(name: str, container: str, pattern: str) -> int | None:
    """Return the id, on its host, of the container's process whose command line matches, if there is one."""
    lines = on(name).run(f"docker top {container} -eo pid,args").stdout.splitlines()[1:]
    found = [int(line.split()[0]) for line in lines if re.search(pattern, line)]
    return found[0] if found else None
