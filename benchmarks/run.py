"""Compare what the project does with what one would do without it, on nodes of its own on this machine.

benchmarks/run.py                      every comparison: half an hour on two cores
benchmarks/run.py --only hello-world   one of them

Seconds mean nothing on another machine, so each figure is a ratio: the two alternatives take turns in one run, and what
is told is the median of the pairs' ratios, with the lowest and the highest. A missed target is said with its reason,
and is no failure of the run. Exit statuses are those of hostnet.errors, 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from hostnet.become import root_access
from hostnet.errors import DONE, HostnetError, ended
from hostnet.lock import only_one

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".hostnet" / "bench"
INVENTORY = FOLDER / "inventory"
LOG = FOLDER / "run.log"
TOOLS = Path(sys.executable).parent
DEADLINE = 1800
TAIL = 20
# the processes that run beside the deployed ones have ports of their own, below the ephemeral range
PORT_SHIFT = 20_000
BARE_UNIT = "dask-bench-bare"
# asked on the scheduler's host, where the page listens on loopback
COUNT = """
import json, sys, urllib.request
print(json.load(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/json/counts.json", timeout=10))["workers"])
"""


@dataclass(frozen=True)
class Plan:
    """A comparison to make: ours may take `target` times as long as theirs; `reason` is why it may miss that."""

    name: str
    ours: str
    theirs: str
    target: float
    reason: str


PLANS = (
    Plan(
        "bare-hosts",
        "site.yml, which brings three bare workers into a running cluster and verifies it",
        "benchmarks/baseline.sh, which does the same by hand, in parallel, and verifies nothing",
        1.5,
        "site.yml also looks at every host before and after, signs certificates on the control machine and holds the "
        "packages, about a hundred tasks a host one after another from here, on the cores that the nodes work on",
    ),
    Plan(
        "no-op",
        "site.yml with nothing to do",
        "one fact pass: ansible all -m setup",
        20,
        "site.yml is about 170 tasks one after another, of which up to 40 run a module on each host, and ends with the "
        "whole verification; the fact pass is one module",
    ),
    Plan(
        "hello-world",
        "the verification's hello-world on the deployed containers",
        "the same on the same processes started bare on the same nodes",
        1.1,
        "",
    ),
)


@dataclass(frozen=True)
class Comparison:
    """What was measured: the pairs are (ours, theirs) in seconds, in the order in which they were taken."""

    plan: Plan
    pairs: tuple[tuple[float, float], ...]
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """Ours by theirs, a pair at a time: what slows the machine for a while slows both."""
        return [ours / theirs for ours, theirs in self.pairs]

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the median is within the target."""
        return self.ratio <= self.plan.target

    def as_json(self) -> dict[str, Any]:
        """Return all that is known of it; seconds unless said."""
        return {
            "name": self.plan.name,
            "ours": self.plan.ours,
            "theirs": self.plan.theirs,
            "target_ratio": self.plan.target,
            "met": self.met,
            "ratio": {"median": self.ratio, "lowest": min(self.ratios), "highest": max(self.ratios)},
            "seconds": [{"ours": ours, "theirs": theirs} for ours, theirs in self.pairs],
            "notes": dict(self.notes),
            "reason": "" if self.met else self.plan.reason,
        }


def table(comparisons: Iterable[Comparison]) -> list[str]:
    """Return the lines for people: a row a comparison, and below a missed one its reason."""
    row = "{:<12} {:>6}  {:<14}  {:<7} {:<6}  {:>8} {:>8}  {}"
    lines = [row.format("comparison", "ratio", "lowest-highest", "target", "", "ours", "theirs", "pairs")]
    for made in comparisons:
        ours, theirs = (median(pair[side] for pair in made.pairs) for side in (0, 1))
        spread = f"{min(made.ratios):.2f}-{max(made.ratios):.2f}"
        cells = (f"{made.ratio:.2f}", spread, f"≤ {made.plan.target:g}", "met" if made.met else "MISSED")
        lines.append(row.format(made.plan.name, *cells, f"{ours:.1f} s", f"{theirs:.1f} s", len(made.pairs)))
        lines += [f"             {name}: {value:.2f}" for name, value in made.notes.items()]
        if not made.met:
            lines.append(f"             reason: {made.plan.reason or 'not known yet'}")
    return lines


def beside(command: Sequence[str], folders: Mapping[str, str]) -> list[str]:
    """Return a container's command as it runs on the host beside it: other ports, the host's folders for its own."""
    words: list[str] = []
    for word in command:
        address = re.fullmatch(r"(.*:)(\d+)", word)
        if words and words[-1].endswith("port"):
            words.append(str(int(word) + PORT_SHIFT))
        elif address:
            words.append(f"{address[1]}{int(address[2]) + PORT_SHIFT}")
        else:
            words.append(folders.get(word, word))
    return [f"/opt/dask/bin/{words[0]}", *words[1:]]


def bare_unit(container: Mapping[str, Any]) -> list[str]:
    """Return the command that runs a container's process as a unit of systemd; `docker inspect` described it."""
    folders = {mount["Destination"]: mount["Source"] for mount in container["Mounts"]}
    user, _, group = container["Config"]["User"].partition(":")
    environment = (entry.partition("=") for entry in container["Config"]["Env"])
    return [
        "systemd-run",
        f"--unit={BARE_UNIT}",
        *(f"--property=LimitNOFILE={limit['Soft']}:{limit['Hard']}" for limit in container["HostConfig"]["Ulimits"]),
        *(f"--setenv={name}={folders.get(value, value)}" for name, _, value in environment),
        # not systemd's own way, which wants a user that the host knows by name
        *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"),
        *beside(container["Config"]["Cmd"], folders),
    ]


def run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, deadline: float = DEADLINE
) -> tuple[float, str]:
    """Run a command; return its seconds and its standard output; all that it says goes into the log too.

    Raises HostnetError when it fails or is not done by the deadline (seconds).
    """
    text = shlex.join(map(str, command))[:200]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output, LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n+ {text}\n")
        log.flush()
        start = time.monotonic()
        child = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=log,
            text=True,
        )
        try:
            status = child.wait(deadline)
        except subprocess.TimeoutExpired:
            raise HostnetError(f"not done after {deadline:.0f} s: {text} (log: {LOG})") from None
        finally:
            if child.poll() is None:
                # Ansible's main process tells its workers, which lead sessions of their own
                child.terminate()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(20)
                child.kill()
        seconds = time.monotonic() - start
        output.seek(0)
        said = output.read()
        log.write(said)
    if status:
        end = "\n".join(f"  {line}" for line in said.splitlines()[-TAIL:])
        raise HostnetError(f"status {status}: {text}\n{end}\n  log: {LOG}")
    return seconds, said


def as_typed(tool: str, *arguments: str) -> float:
    """Run one of Ansible's commands as an operator does, with no connection left from before; return the seconds."""
    with tempfile.TemporaryDirectory(prefix="hb-", ignore_cleanup_errors=True) as sockets:
        fresh = {"ANSIBLE_SSH_CONTROL_PATH_DIR": sockets}
        return run([TOOLS / tool, "-i", INVENTORY, *arguments], fresh)[0]


class Nodes:
    """The nodes of the benchmark: made, made anew, reached over SSH, removed."""

    def __init__(self, become: Mapping[str, str]) -> None:
        """Become root on this machine with these variables of the environment."""
        self.become = become

    def create(self) -> None:
        """Make those that are not there."""
        self._lifecycle("create")

    def destroy(self, *names: str) -> None:
        """Remove all, or these workers alone."""
        self._lifecycle("destroy", **({"node_gone": list(names)} if names else {}))

    def _lifecycle(self, verb: str, **variables: Any) -> None:
        edit = json.dumps({"node_set": "bench", **variables})
        run([TOOLS / "ansible-playbook", "-i", "localhost,", f"molecule/default/{verb}.yml", "-e", edit], self.become)

    def addresses(self, group: str) -> dict[str, str]:
        """Return name to address of a group's hosts."""
        groups = yaml.safe_load((INVENTORY / "hosts.yml").read_text(encoding="utf-8"))
        return {name: values["ansible_host"] for name, values in groups[group]["hosts"].items()}

    @property
    def scheduler(self) -> str:
        """Return the scheduler's address."""
        return next(iter(self.addresses("dask_scheduler").values()))

    @property
    def image(self) -> str:
        """Return the pinned reference that image.yml wrote."""
        pin = INVENTORY / "group_vars" / "all" / "image.yml"
        return str(yaml.safe_load(pin.read_text(encoding="utf-8"))["dask_cluster_image"])

    def on(self, address: str, *command: str) -> str:
        """Run a command on a node as root; return what it prints."""
        options = [
            *(
                "-F",
                "none",
                "-i",
                f"{INVENTORY}/ssh/id_ed25519",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "StrictHostKeyChecking=yes",
            ),
            *("-o", f"UserKnownHostsFile={INVENTORY}/ssh/known_hosts", "-o", "ConnectTimeout=10"),
        ]
        return run(["ssh", *options, f"deploy@{address}", "sudo", shlex.join(command)], deadline=600)[1]

    def listed(self, shift: int = 0) -> int | None:
        """Return how many workers the scheduler lists; None while its page does not answer."""
        with suppress(HostnetError):
            return int(self.on(self.scheduler, "python3", "-c", COUNT, str(8787 + shift)))
        return None

    def until_listed(self, number: int, shift: int = 0, deadline: float = 120) -> None:
        """Wait until the scheduler lists so many workers; HostnetError past the deadline (seconds)."""
        end = time.monotonic() + deadline
        while (seen := self.listed(shift)) != number:
            if time.monotonic() > end:
                said = "its page does not answer" if seen is None else f"it lists {seen}"
                raise HostnetError(f"not {number} workers at the scheduler after {deadline:.0f} s: {said}")
            time.sleep(0.5)

    def bare_workers(self) -> None:
        """Have worker nodes as an operator's new hosts are, unknown to the scheduler that runs on."""
        self.destroy(*self.addresses("dask_workers"))
        self.create()
        self.until_listed(0)


def alternate(
    pairs: int, ours: Callable[[], float], theirs: Callable[[], float], name: str
) -> list[tuple[float, float]]:
    """Take turns, theirs first, so that what remains is ours; say each pair."""
    taken = []
    for number in range(1, pairs + 1):
        held_against = theirs()
        taken.append((ours(), held_against))
        print(
            f"{name:<12} pair {number} of {pairs}: ours {taken[-1][0]:.1f} s, theirs {held_against:.1f} s", flush=True
        )
    return taken


def bare_hosts(nodes: Nodes, plan: Plan, pairs: int) -> Comparison:
    """Bring three bare workers into the cluster whose scheduler runs."""
    verifying: list[float] = []

    def ours() -> float:
        nodes.bare_workers()
        seconds = as_typed("ansible-playbook", "site.yml")
        verifying.append(as_typed("ansible-playbook", "playbooks/verify.yml"))
        return seconds

    def theirs() -> float:
        nodes.bare_workers()
        workers = [f"{name}={address}" for name, address in nodes.addresses("dask_workers").items()]
        return run([ROOT / "benchmarks" / "baseline.sh", INVENTORY, nodes.image, nodes.scheduler, *workers])[0]

    taken = alternate(pairs, ours, theirs, plan.name)
    less = median((seconds - verified) / other for (seconds, other), verified in zip(taken, verifying, strict=True))
    return Comparison(plan, tuple(taken), {"ratio less playbooks/verify.yml alone": less})


def no_op(nodes: Nodes, plan: Plan, pairs: int) -> Comparison:
    """Converge what is converged."""
    nodes.until_listed(len(nodes.addresses("dask_workers")))
    taken = alternate(
        pairs,
        lambda: as_typed("ansible-playbook", "site.yml"),
        lambda: as_typed("ansible", "all", "-m", "ansible.builtin.setup"),
        plan.name,
    )
    return Comparison(plan, tuple(taken))


def hello_world(nodes: Nodes, plan: Plan, pairs: int) -> Comparison:
    """Compute on the containers and on the same processes beside them, both up all the time and asked in turns."""
    hosts = {"dask-scheduler": [nodes.scheduler], "dask-worker-0": list(nodes.addresses("dask_workers").values())}
    count = len(hosts["dask-worker-0"])
    nodes.until_listed(count)
    # a process on the host finds the certificate where its container does
    link = "ln -sfn /etc/dask-hostnet/tls /etc/dask-tls"
    copy = f'id=$(docker create {nodes.image}) && docker cp "$id":/opt/dask /opt/dask && docker rm "$id"'
    unpack = f"{link} && {{ test -e /opt/dask || {{ {copy}; }}; }}"
    stop = f"systemctl stop {BARE_UNIT}; systemctl reset-failed {BARE_UNIT}; true"

    def ask(shift: int) -> float:
        address = f"tls://{nodes.scheduler}:{8786 + shift}"
        client = [
            "docker",
            "run",
            "--rm",
            "--network",
            "host",
            "--volume",
            "/etc/dask-hostnet/verify:/verify:ro",
            "--volume=/etc/dask-hostnet/scheduler:/etc/dask:ro",
            "--volume=/etc/dask-hostnet/tls:/etc/dask-tls:ro",
            "--env=DASK_CONFIG=/etc/dask",
            "--user=10786:10786",
            nodes.image,
        ]
        said = nodes.on(
            nodes.scheduler,
            *client,
            "python",
            "/verify/verify_cluster.py",
            address,
            "--n-workers",
            str(count),
            "--json",
        )
        return hello_seconds(said)

    try:
        for container, addresses in hosts.items():
            for address in addresses:
                nodes.on(address, "sh", "-c", f"{stop}; {unpack}")
                (described,) = json.loads(nodes.on(address, "docker", "inspect", container))
                nodes.on(address, *bare_unit(described))
        nodes.until_listed(count, PORT_SHIFT)
        # the first of each imports and connects
        ask(0)
        ask(PORT_SHIFT)
        taken = alternate(pairs, lambda: ask(0), lambda: ask(PORT_SHIFT), plan.name)
    finally:
        for address in [address for addresses in hosts.values() for address in addresses]:
            nodes.on(address, "sh", "-c", stop)
    return Comparison(plan, tuple(taken))


def hello_seconds(said: str) -> float:
    """Return the hello-world's seconds in what `verify_cluster.py --json` printed; HostnetError when it is not ok."""
    checks = {check["check"]: check for check in json.loads(said)["checks"]}
    hello = checks.get("hello-world", {})
    if hello.get("result") != "ok":
        raise HostnetError(f"the hello-world is {hello.get('result', 'missing')}: {hello.get('detail', said)}")
    return float(hello["seconds"])


MEASURES: dict[str, tuple[Callable[[Nodes, Plan, int], Comparison], int]] = {
    "bare-hosts": (bare_hosts, 3),
    "no-op": (no_op, 5),
    "hello-world": (hello_world, 7),
}


def measure(options: argparse.Namespace) -> list[Comparison]:
    """Deploy to nodes of our own, make the comparisons, and remove the nodes whatever happens."""
    with only_one(ROOT, "bench"), root_access() as become:
        nodes = Nodes(become)
        try:
            if not options.keep:
                # what an earlier run that was killed may have left
                nodes.destroy()
            print("making nodes, image and cluster (log: .hostnet/bench/run.log)", flush=True)
            nodes.create()
            as_typed("ansible-playbook", "playbooks/image.yml")
            as_typed("ansible-playbook", "site.yml")
            made = []
            for plan in PLANS:
                if plan.name in options.only:
                    compare, pairs = MEASURES[plan.name]
                    made.append(compare(nodes, plan, options.repeat or pairs))
            return made
        finally:
            if not options.keep:
                nodes.destroy()


def commit() -> str:
    """Return the commit that is measured, `-dirty` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def positive(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 0 when measured, whether or not the targets are met."""
    parser = argparse.ArgumentParser(description="Ratios of what we do to what one would do without us.")
    parser.add_argument("--repeat", type=positive, metavar="N", help="pairs a comparison (default: 3, 5 and 7)")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="this comparison; may be given again")
    parser.add_argument("--keep", action="store_true", help="use the nodes that stand, and leave them")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where to write (default: .hostnet/bench/<date>.json)"
    )
    options = parser.parse_args(argv)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: {options.json.parent} is no folder")
    options.only = options.only or list(MEASURES)
    stopped = "stopped; nodes that stood are left" if options.keep else "stopped; nodes that it made are gone"
    return ended("bench", lambda: reported(options), stopped)


def reported(options: argparse.Namespace) -> int:
    """Measure, print the table, and then write it."""
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    LOG.write_text("", encoding="utf-8")
    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made = measure(options)
    print("\n".join(table(made)), flush=True)
    report = {
        "started": start,
        "commit": commit(),
        "cores": os.cpu_count(),
        "comparisons": [one.as_json() for one in made],
    }
    file = options.json or FOLDER / f"{start.replace(':', '')}.json"
    file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {file}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
