"""What the scenarios' tests share: the nodes, playbooks run as an operator runs them, waits with a deadline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import testinfra
import yaml
from testinfra.host import Host

ROOT = Path(__file__).parents[1]
# the shared nodes', unless a scenario has its own
INVENTORY = Path(os.environ.get("TEST_INVENTORY", ROOT / "molecule" / "inventory"))
TOOLS = Path(sys.executable).parent
DEADLINE = 600
OPERATOR = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
CONNECTIONS = tempfile.TemporaryDirectory(prefix="testinfra-", ignore_cleanup_errors=True)
# testinfra names no socket, without which each of its commands is a login
os.environ["ANSIBLE_SSH_EXTRA_ARGS"] = f"-o ControlPath={CONNECTIONS.name}/%C"


@dataclass(frozen=True)
class Run:
    """What a playbook's run came to: exit status, output with white space made single, changes by host."""

    status: int
    text: str
    changed: dict[str, int]

    def says(self, *lines: str) -> None:
        """Fail, showing the output, unless it has every line."""
        missing = [line for line in lines if line not in self.text]
        assert not missing, f"{missing} not in: {self.text}"


Play = Callable[..., Run]


def kill(running: psutil.Popen) -> None:
    """SIGKILL what still runs; Ansible's own processes have sessions of their own, so a group is not enough."""
    if running.poll() is None:
        running.suspend()
        family = [running, *running.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
        running.wait(10)


@pytest.fixture(scope="module")
def play(request: pytest.FixtureRequest) -> Play:
    """Run a playbook: the scenario's own converge.yml unless named; `variables` become -e."""
    converge = request.path.parents[1] / "converge.yml"

    def run(*arguments: str, playbook: Path = converge, inventory: Path = INVENTORY, **variables: Any) -> Run:
        command = [TOOLS / "ansible-playbook", "-i", inventory / "hosts.yml", *arguments, playbook]
        if variables:
            command += ["-e", json.dumps(variables)]
        running = psutil.Popen(
            command,
            cwd=ROOT,
            env=OPERATOR,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            text, _ = running.communicate(timeout=DEADLINE)
        finally:
            # one that is late would go on under the next test
            kill(running)
        recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", text, re.MULTILINE)
        return Run(running.returncode, " ".join(text.split()), {host: int(changed) for host, changed in recap})

    return run


@pytest.fixture(scope="module")
def converge(play: Play) -> Play:
    """Run the scenario's converge.yml, which must succeed."""

    def run(*arguments: str, **variables: Any) -> Run:
        done = play(*arguments, **variables)
        assert done.status == 0, done.text
        return done

    return run


@pytest.fixture(scope="session")
def addresses() -> dict[str, str]:
    """Each node's address by its name."""
    groups = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))
    hosts = [group.get("hosts", {}) for group in groups.values()]
    return {name: values["ansible_host"] for group in hosts for name, values in group.items()}


@pytest.fixture
def image() -> str:
    """The image as the inventory pins it now."""
    pin = INVENTORY / "group_vars" / "all" / "image.yml"
    reference: str = yaml.safe_load(pin.read_text(encoding="utf-8"))["dask_cluster_image"]
    return reference


@pytest.fixture(scope="session")
def node() -> Callable[[str], Host]:
    """Reach a node by its name; its connection is kept."""
    known: dict[str, Host] = {}

    def get(name: str) -> Host:
        if name not in known:
            known[name] = testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY / 'hosts.yml'}")
        return known[name]

    return get


@pytest.fixture(scope="session")
def client(node: Callable[[str], Host], addresses: dict[str, str]) -> Callable[[str], Any]:
    """Run Python with a Dask `client` inside the scheduler's container; what it prints is JSON, and is returned."""
    start = "import json, os, dask, distributed\nclient = distributed.Client(os.environ['WHERE'], timeout=30)\n"

    def run(code: str) -> Any:
        where = f"tls://{addresses['scheduler1']}:8786"
        command = "docker exec --env WHERE=%s dask-scheduler python -c %s"
        return json.loads(node("scheduler1").check_output(command, where, start + code))

    return run


@pytest.fixture(scope="session")
def names(client: Callable[[str], Any]) -> Callable[[], list[str]]:
    """Return the names of the workers that the scheduler has."""
    workers = "client.scheduler_info(n_workers=-1)['workers'].values()"
    return lambda: list(client(f"print(json.dumps(sorted(worker['name'] for worker in {workers})))"))


@pytest.fixture(scope="session")
def there(names: Callable[[], list[str]], wait: Callable[..., None]) -> Callable[[list[str]], None]:
    """Wait until the scheduler has exactly these workers."""
    return lambda wanted: wait(lambda: names() == wanted, f"the workers are {wanted}", 120)


@pytest.fixture(scope="session")
def inspect() -> Callable[[Host, str], dict[str, Any]]:
    """Return what Docker says of a container or an image; {} when there is none of that name."""

    def ask(host: Host, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(host.run("docker inspect %s", name).stdout or "[]")
        return found[0] if found else {}

    return ask


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """Wait until a condition holds; past the deadline (seconds) the test fails and says what was waited for."""

    def until(condition: Callable[[], bool], what: str, deadline: float = 30) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f"not within {deadline} s: {what}"
            time.sleep(0.3)

    return until


@pytest.fixture(scope="module")
def load(
    node: Callable[[str], Host], addresses: dict[str, str], wait: Callable[..., None]
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Have tests/load.py compute on the cluster; calling it ends that and returns what came of it."""
    host, script = node("scheduler1"), (ROOT / "tests" / "load.py").read_text(encoding="utf-8")
    image = host.check_output("docker inspect --format '{{.Config.Image}}' dask-scheduler")
    certificate = "--user 10786:10786 --volume /etc/dask-hostnet/tls:/etc/dask-tls:ro"
    config = "--volume /etc/dask-hostnet/scheduler:/etc/dask:ro --env DASK_CONFIG=/etc/dask"
    run = f"docker run --detach --network host --name test-load {certificate} {config}"
    tasks = "import json, urllib.request as u; print(json.load(u.urlopen('http://127.0.0.1:8787/json/counts.json'))['tasks'])"

    def end() -> dict[str, Any]:
        host.check_output("docker kill --signal TERM test-load")
        host.check_output("timeout 180 docker wait test-load")
        said = host.run("docker logs test-load")
        came: dict[str, Any] = json.loads((said.stdout.splitlines() or [said.stderr])[-1])
        return came

    try:
        # of a run before that was killed
        host.run("docker rm --force test-load")
        host.check_output(f"{run} %s python -c %s %s", image, script, f"tls://{addresses['scheduler1']}:8786")
        wait(lambda: "begun" in host.check_output("docker logs test-load"), "the load is begun", 60)
        yield end
    finally:
        host.check_output("docker rm --force test-load")
        wait(lambda: host.check_output("python3 -c %s", tasks) == "0", "the scheduler has let go of its keys", 60)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A copy of the inventory without its secrets, for a test to spoil."""
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    for name in ("hosts.yml", "group_vars/all/lab.yml"):
        (tmp_path / name).write_bytes((INVENTORY / name).read_bytes())
    return tmp_path
