"""tests/run.py with a `molecule` that only notes what it is asked: order, budgets, destruction whatever happens."""

import os
import subprocess
import sys

import psutil
import pytest
import run as suite
from waiting import wait_for

SHARED = ("shared", "late", "quiet", "forgotten")
MOLECULE = """#!/bin/sh
echo "$@" >> calls
echo "$PYTEST_ADDOPTS" >> chosen
# the scenario with nodes of its own ends when the one after it has begun
case "$*" in
  "test -s own"*) [ -z "$TOGETHER" ] || timeout 20 cat together ;;
  "test -s late"*) [ -z "$TOGETHER" ] || timeout 20 sh -c ': > together' || exit 1 ;;
esac
# it is given two seconds to begin too early
case "$SLOW $*" in
  "yes test -s own"*) timeout 2 sh -c 'until grep "test -s quiet" calls; do sleep 0.05; done'; echo own ends >> calls ;;
esac
case "$*" in
  "$FAILS"*) echo the reason; exit 1 ;;
esac
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Runs a check, and scenarios of each kind; returns what molecule was asked and the outcomes by name."""
    for name, text in ({"default": "", "own": "shared_state: false"} | dict.fromkeys(SHARED, "")).items():
        (tmp_path / "molecule" / name).mkdir(parents=True)
        (tmp_path / "molecule" / name / "molecule.yml").write_text(text)
    (tmp_path / "molecule" / "budgets.yml").write_text(
        "shared: {seconds: 100}\nown: {seconds: 0}\nlate: {}\nquiet: {alone: true}\n"
    )
    (tmp_path / "logs").mkdir()
    (tmp_path / "molecule.sh").write_text(MOLECULE)
    (tmp_path / "molecule.sh").chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "molecule").symlink_to(tmp_path / "molecule.sh")
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(suite, "commands", lambda thorough: {"checked": ["sh", "-c", "echo checked >> calls"]})
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def go(fails="nothing", **options):
        monkeypatch.setenv("PATH", path)
        # that of the run that this is part of
        monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
        monkeypatch.setattr(suite, "ENVIRONMENT", {**os.environ, "PATH": path, "FAILS": fails})
        outcomes = {outcome.name: outcome.passed for outcome in suite.everything(**options)}
        return (tmp_path / "calls").read_text().splitlines(), outcomes

    return go


def test_scenarios_run_in_the_budgets_order_between_one_create_and_one_destroy(calls, capsys):
    asked, outcomes = calls()
    own = "test -s own --destroy always"
    assert asked.index("checked") < asked.index(own)
    assert [call for call in asked if call not in (own, "checked")] == [
        "destroy -s default",
        "create -s default",
        *(f"test -s {name} --destroy never" for name in SHARED),
        "destroy -s default",
    ]
    assert asked.index("test -s shared --destroy never") < asked.index(own) < len(asked) - 1
    assert all(outcomes.values())
    over = [line for line in capsys.readouterr().out.splitlines() if "OVER its budget of 0 s" in line]
    assert [line.split()[0] for line in over] == ["own"]


def test_what_has_nodes_of_its_own_runs_beside_what_comes_after_it(calls, tmp_path, monkeypatch):
    """Each waits for the other, which one after another would be for ever."""
    os.mkfifo(tmp_path / "together")
    monkeypatch.setenv("TOGETHER", "yes")
    assert all(calls()[1].values())


def test_what_wants_quiet_begins_when_the_others_have_ended(calls, monkeypatch):
    monkeypatch.setenv("SLOW", "yes")
    asked, _ = calls()
    assert asked.index("own ends") < asked.index("test -s quiet --destroy never")


def test_a_failed_scenario_shows_its_log_and_the_others_still_run(calls, capsys):
    asked, outcomes = calls(fails="test -s own")
    passed = ("checked", "create", *SHARED, "destroy")
    assert outcomes == dict.fromkeys(passed, True) | {"own": False}
    assert "    the reason" in capsys.readouterr().out.splitlines()
    assert asked[-1] == "destroy -s default"
    assert asked.index("destroy -s own") > asked.index("test -s own --destroy always")


def test_without_shared_nodes_only_those_with_their_own_run(calls):
    _, outcomes = calls(fails="create")
    assert outcomes == {"checked": True, "create": False, "own": True, "destroy": True}


def test_nothing_is_made_beside_what_could_not_be_removed(calls):
    asked, outcomes = calls(fails="destroy")
    assert outcomes == {"checked": True, "clean": False, "own": True, "destroy": False}
    assert "create -s default" not in asked


def test_only_test_all_runs_what_is_thorough_and_holds_no_budget_against_it(calls, tmp_path, capsys):
    calls()
    assert set((tmp_path / "chosen").read_text().splitlines()) == {"-m 'not thorough'"}
    (tmp_path / "chosen").unlink()
    capsys.readouterr()
    calls(thorough=True)
    assert set((tmp_path / "chosen").read_text().splitlines()) == {""}
    assert "OVER" not in capsys.readouterr().out


def test_what_exceeds_its_deadline_has_failed_and_is_stopped(calls, tmp_path):
    outcome = suite.run("slow", [sys.executable, "-c", "import threading; threading.Event().wait(60)"], 1)
    assert not outcome.passed
    assert outcome.seconds < 20
    assert "not done after 1 s" in outcome.log.read_text()
    assert not suite.RUNNING


def test_what_outlives_its_parent_is_ended_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "GRACE", 1)
    said = tmp_path / "pid"
    stubborn = "import os, signal, sys, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stubborn += "open(sys.argv[1], 'w').write(f'{os.getpid()} '); threading.Event().wait(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {stubborn!r}, {str(said)!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    wait_for(lambda: said.exists() and " " in said.read_text(), "it has begun", 60)
    child = psutil.Process(int(said.read_text()))
    suite.stop(parent)
    # whoever adopts it may not have asked for its status yet
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "it has ended")


def test_shell_scripts_are_found_by_their_first_line():
    found = set(suite.shell_scripts())
    assert {"scripts/setup.sh", ".ci/run"} <= found
    assert "Makefile" not in found
