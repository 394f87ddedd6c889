"""`hostnet up` and `down` on a made-up checkout: the order of steps, what is printed, exit statuses, the lock, sudo."""

import fcntl
import io
import os
from pathlib import Path

import pytest
from hostnet import become, cli, lab, progress
from hostnet.errors import RefusedError

HEAD = "- hosts: {hosts}\n  gather_facts: false\n  tasks:\n"
FINE = "    - ansible.builtin.debug: {msg: fine}\n"
VERIFICATION = "    - name: Show the verification\n      ansible.builtin.debug: {msg: [table, '333283335000']}\n"
PLAYBOOKS = {
    "molecule/default/create.yml": ("localhost", FINE),
    "molecule/default/destroy.yml": ("localhost", FINE),
    "playbooks/image.yml": ("all", FINE),
    "site.yml": ("all", VERIFICATION),
}
INVENTORY = """
dask_scheduler: {hosts: {scheduler1: {ansible_host: 192.0.2.11}}}
dask_workers: {hosts: {worker1: {}}}
all: {vars: {ansible_connection: local, ansible_user: deploy}}
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose playbooks only print; `write` replaces one."""
    folder = tmp_path / "a checkout"
    for path, (hosts, tasks) in PLAYBOOKS.items():
        write(folder, path, tasks, hosts)
    (folder / "ansible.cfg").write_text("[defaults]\ninventory = inventory/lab/hosts.yml\n")
    (folder / "inventory" / "lab").mkdir(parents=True)
    (folder / "inventory" / "lab" / "hosts.yml").write_text(INVENTORY)
    return folder


def write(folder, path, tasks, hosts="all"):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(HEAD.format(hosts=hosts) + tasks)


def run(command, folder):
    out = io.StringIO()
    status = command(folder, progress.Progress(out))
    return status, out.getvalue()


def test_up_runs_the_steps_in_order_and_prints_the_verification_and_the_address(checkout):
    status, out = run(lab.up, checkout)
    assert status == 0, out
    positions = [
        out.index(word) for word in ("nodes  ok, changed=0", "image  2 hosts ok", "site   2 hosts ok", "333283335000")
    ]
    assert positions == sorted(positions)
    assert out.count("changed=0") == 3
    assert "tls://192.0.2.11:8786" in out
    assert "https://192.0.2.11:8443/status" in out
    assert "deploy@192.0.2.11" in out
    assert {log.name.split("-")[-1] for log in (checkout / ".hostnet/log").iterdir()} == {
        "nodes.log",
        "image.log",
        "site.log",
    }


def test_up_stops_at_the_first_step_that_fails_and_names_its_log(checkout):
    write(
        checkout, "molecule/default/create.yml", "    - ansible.builtin.fail: {msg: the subnet is taken}\n", "localhost"
    )
    status, out = run(lab.up, checkout)
    assert status == 1
    assert "the subnet is taken" in out
    assert "-nodes.log" in out
    assert "image" not in out


def test_a_refusal_is_its_message_alone(checkout):
    refusal = "    - name: Refuse what is not ours\n      ansible.builtin.fail: {msg: the subnet is taken}\n"
    write(checkout, "molecule/default/create.yml", refusal, "localhost")
    status, out = run(lab.up, checkout)
    assert status == 4
    summary, message = out.splitlines()[-2:]
    assert summary.startswith("nodes  REFUSED, changed=0, ")
    assert message.strip() == "the subnet is taken"


def test_up_without_a_verification_is_a_failure(checkout):
    write(checkout, "site.yml", FINE)
    status, out = run(lab.up, checkout)
    assert status == 1
    assert lab.VERIFICATION in out


def test_down_says_what_stays(checkout):
    status, out = run(lab.down, checkout)
    assert status == 0
    assert "Kept: .venv" in out


def test_a_second_command_in_one_checkout_is_refused(checkout):
    (checkout / ".hostnet").mkdir()
    with (checkout / ".hostnet/lab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with pytest.raises(RefusedError, match="process 4711") as caught:
            run(lab.down, checkout)
    assert caught.value.status == 4


def test_old_logs_are_removed(checkout):
    folder = checkout / ".hostnet/log"
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"20200101-0000{number:02d}-site.log").touch()
    (folder / "setup.log").touch()
    run(lab.down, checkout)
    names = sorted(log.name for log in folder.iterdir())
    assert len(names) == lab.KEPT_LOGS + 1
    assert names[0] == "20200101-000011-site.log"
    assert names[-1] == "setup.log"


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [
        (KeyboardInterrupt, 130, "run the same command"),
        (RefusedError("no"), 4, "no"),
        # a lab that root made
        (PermissionError(13, "Permission denied", "lab.lock"), 1, "Permission denied: 'lab.lock'"),
        # Ctrl-D where the password is asked for
        (EOFError, 1, "no answer came from the terminal"),
    ],
)
def test_an_error_is_one_line_and_its_exit_status(monkeypatch, capsys, raised, status, text):
    def fail(*_):
        raise raised

    monkeypatch.setattr(lab, "up", fail)
    assert cli.main(["up"]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


def test_bad_usage_is_status_2():
    with pytest.raises(SystemExit) as caught:
        cli.main(["sideways"])
    assert caught.value.code == 2


@pytest.fixture
def user(monkeypatch, tmp_path):
    """Not root; what `sudo` is, the test writes."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def sudo(script):
        (tmp_path / "sudo").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "sudo").chmod(0o755)

    return sudo


def test_sudo_without_password_needs_nothing(user):
    user("exit 0")
    with become.root_access() as environment:
        assert environment == {}


def test_sudo_with_password_and_no_terminal_is_refused(user, monkeypatch):
    user("exit 1")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(RefusedError, match="no terminal"), become.root_access():
        pass


def test_a_password_is_asked_until_sudo_takes_it_and_removed_at_the_end(user, monkeypatch):
    user('[ "$2" = -S ] || exit 1; read -r word; [ "$word" = "right one" ]')
    answers = iter(["wrong", "right one"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    with become.root_access() as environment:
        file = Path(environment["ANSIBLE_BECOME_PASSWORD_FILE"])
        assert file.read_text() == "right one"
        assert file.stat().st_mode & 0o777 == 0o600
    assert not file.exists()
