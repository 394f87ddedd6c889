"""What `make check` and `make test` run: a row a check and a scenario with its seconds; all, also after a failure.

tests/run.py check      linters and unit tests
tests/run.py test       the same, and every molecule scenario in the order of molecule/budgets.yml; one with nodes of
                    its own runs beside those that come after it, on shared nodes
tests/run.py test-all   the same with the tests marked `thorough`, which take long; no budget is held against them
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hostnet.become import root_access
from hostnet.errors import ended
from hostnet.lock import only_one

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / ".hostnet" / "log"
TAIL = 150
RUNNING: set[subprocess.Popen[bytes]] = set()
GRACE = 20
CHECK_DEADLINE = 2400
SCENARIO_DEADLINE = 4800
# 220 runs that are killed
THOROUGH_DEADLINE = 12 * 3600
TOOLS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
ENVIRONMENT = {
    **os.environ,
    "PATH": TOOLS,
    "NO_COLOR": "1",
    "LC_ALL": "C.UTF-8",
    "ANSIBLE_NOCOLOR": "1",
    # the log of what was stopped says how far it came
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Outcome:
    """One row: `passed`, the seconds it took, its log."""

    name: str
    passed: bool
    seconds: float
    log: Path


def run(name: str, command: list[str], deadline: int, **environment: str) -> Outcome:
    """Run one command with its output in a log file; past the deadline (seconds) it is stopped and has failed."""
    log = LOGS / f"test-{name.replace(' ', '-')}.log"
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # a group of its own, to be stopped as one
            start_new_session=True,
        )
        RUNNING.add(child)
        try:
            status = child.wait(deadline)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            stop(child)
            RUNNING.remove(child)
        if status is None:
            output.write(f"\nnot done after {deadline} s, stopped\n")
    return Outcome(name, status == 0, time.monotonic() - start, log)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End one that still runs: it has GRACE seconds to end by itself, its group as long again; then that is killed."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        # Ansible tells its workers, which are in groups of their own
        end = time.monotonic() + GRACE
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < end:
                os.killpg(child.pid, 0)
                # for a group there is no wait
                time.sleep(0.1)
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def abandon(pool: ThreadPoolExecutor) -> None:
    """Begin nothing more of the pool, and end what runs."""
    pool.shutdown(wait=False, cancel_futures=True)
    for child in list(RUNNING):
        stop(child)


def show(outcome: Outcome, budget: int | None = None) -> Outcome:
    """Print the row; of a failure the end of its log too."""
    over = f"  OVER its budget of {budget} s" if budget is not None and outcome.seconds > budget else ""
    print(f"{outcome.name:<16} {'ok    ' if outcome.passed else 'FAILED'} {outcome.seconds:6.1f} s{over}", flush=True)
    if not outcome.passed:
        lines = outcome.log.read_text(encoding="utf-8", errors="replace").splitlines()
        if len(lines) > TAIL:
            print(f"    … {len(lines) - TAIL} lines before these stand in {outcome.log}")
        for line in lines[-TAIL:]:
            print(f"    {line}")
    return outcome


def tracked(*patterns: str) -> list[str]:
    """Return the files of the repository that match."""
    command = ["git", "ls-files", "-z", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def shell_scripts() -> Iterator[str]:
    """Yield the tracked shell scripts: by name, or by what their first line says."""
    for name in tracked():
        with (ROOT / name).open("rb") as file:
            first = file.readline(80)
        if first.startswith(b"#!") and first.split(b"/")[-1].split()[-1] in (b"sh", b"bash"):
            yield name


def commands(*, thorough: bool = False) -> dict[str, list[str]]:
    """Return the linters and the unit tests, the longest first."""
    return {
        "unit tests": ["pytest", "-q", *([] if thorough else ["-m", "not thorough"]), "tests"],
        "ansible-lint": ["ansible-lint"],
        "mypy": ["mypy"],
        "yamllint": ["yamllint", "--strict", "."],
        "shellcheck": ["shellcheck", *shell_scripts()],
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
    }


def begin(pool: ThreadPoolExecutor, todo: dict[str, list[str]]) -> list[Future[Outcome]]:
    """Hand the commands to the pool."""
    # the lab's inventory, which ansible.cfg names, exists only after `make up`
    inventory = str(ROOT / "inventory" / "example")
    return [
        pool.submit(run, name, command, CHECK_DEADLINE, ANSIBLE_INVENTORY=inventory) for name, command in todo.items()
    ]


def check() -> list[Outcome]:
    """Run linters and unit tests, two at a time."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        try:
            return [show(future.result()) for future in begin(pool, commands())]
        except KeyboardInterrupt:
            abandon(pool)
            raise


@dataclass(frozen=True)
class Scenario:
    """One molecule scenario: its budget (seconds), whether its nodes are the shared ones, whether it wants quiet."""

    name: str
    budget: int | None
    shared: bool
    alone: bool


def scenarios() -> list[Scenario]:
    """Return them in the order of molecule/budgets.yml; one that the file forgot comes last and has no budget."""
    said = load(ROOT / "molecule" / "budgets.yml")
    found = {path.parent.name: load(path) for path in sorted((ROOT / "molecule").glob("*/molecule.yml"))}
    del found["default"]
    return [
        Scenario(
            name,
            said.get(name, {}).get("seconds"),
            found[name].get("shared_state", True),
            said.get(name, {}).get("alone", False),
        )
        for name in sorted(found, key=lambda name: [*said, name].index(name))
    ]


def load(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def everything(*, thorough: bool = False) -> list[Outcome]:
    """Run every scenario, and beside them first the linters and unit tests, then scenarios with nodes of their own.

    Nodes idle half of their time: two of the others run beside those on shared nodes. The shared nodes are created once
    and destroyed at the end, whatever happens.
    """
    todo = scenarios()
    chosen = {} if thorough else {"PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -m 'not thorough'".strip()}
    with only_one(ROOT, "test"), root_access() as become:

        def act(name: str, *arguments: str) -> Outcome:
            deadline = THOROUGH_DEADLINE if thorough else SCENARIO_DEADLINE
            return run(name, ["molecule", *arguments], deadline, **become, **chosen)

        def own(scenario: Scenario) -> Outcome:
            outcome = act(scenario.name, "test", "-s", scenario.name, "--destroy", "always")
            if not outcome.passed:
                # one that ended by itself destroyed its nodes; this one may have been stopped half way
                act(f"{scenario.name} destroy", "destroy", "-s", scenario.name)
            return outcome

        def report(outcome: Outcome) -> None:
            outcomes.append(show(outcome, budgets.get(outcome.name)))

        outcomes: list[Outcome] = []
        budgets = {} if thorough else {scenario.name: scenario.budget for scenario in todo}
        shared = any(scenario.shared for scenario in todo)
        created = False
        pool = ThreadPoolExecutor(max_workers=2)
        try:
            beside = begin(pool, commands(thorough=thorough))
            if shared:
                # what an earlier run that was killed may have left
                ready = act("clean", "destroy", "-s", "default")
                if ready.passed:
                    ready = act("create", "create", "-s", "default")
                report(ready)
                created = ready.passed
            for scenario in todo:
                while beside and (scenario.alone or beside[0].done()):
                    report(beside.pop(0).result())
                if not scenario.shared:
                    beside.append(pool.submit(own, scenario))
                elif created:
                    report(act(scenario.name, "test", "-s", scenario.name, "--destroy", "never"))
            for running in beside:
                report(running.result())
        except KeyboardInterrupt:
            abandon(pool)
            raise
        finally:
            # its nodes are destroyed too
            pool.shutdown()
            if shared:
                report(act("destroy", "destroy", "-s", "default"))
    return outcomes


def main() -> int:
    """Run what is asked for; 0 when every row passed, 1 when not."""
    parser = argparse.ArgumentParser(description="linters, unit tests and molecule scenarios")
    parser.add_argument("what", choices=["check", "test", "test-all"])
    what = parser.parse_args().what
    return ended("tests", lambda: judged(what), "stopped; of what was begun nothing is left")


def judged(what: str) -> int:
    """Run it, and say what came of it."""
    LOGS.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = time.monotonic()
    outcomes = check() if what == "check" else everything(thorough=what == "test-all")
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    print(f"{time.monotonic() - start:.0f} s in all")
    print(f"{len(outcomes) - len(failed)} passed, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
