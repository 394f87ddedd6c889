"""The operators' lock, by real processes: who gets it, who is refused, and what holds it while a command runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loading import load
from waiting import wait_for

ROOT = Path(__file__).parent.parent
ROLE = ROOT / "roles/dask_lock"
HOLD = ROLE / "module_utils/dask_lock_hold.py"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    return load(ROLE / "library/dask_lock.py", HOLD)


@pytest.fixture(scope="module")
def action() -> ModuleType:
    return load(ROLE / "action_plugins/dask_lock.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def wish(token: str, **fields: Any) -> dict[str, Any]:
    return {
        "user": "ann",
        "control": "desk",
        "boot": "b",
        "pid": 1,
        "start": "1",
        "verb": "drain",
        "token": token,
    } | fields


def take(lock: ModuleType, path: Path, token: str, gone: str = "") -> dict[str, Any]:
    seen: dict[str, Any] = lock.take(path, wish(token), gone, 600, "the program")
    return seen


def owner(seen: dict[str, Any]) -> str:
    return str(seen["holder"]["token"])


@contextlib.contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """One that is not left behind."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def grow_old(path: Path, seconds: float) -> None:
    record = json.loads(path.read_text())
    # whole: a command that holds it may look
    other = path.with_name("older")
    other.write_text(json.dumps(record | {"uptime": record["uptime"] - seconds}))
    other.replace(path)


def test_of_many_who_take_it_at_once_one_has_it(lock: ModuleType, path: Path) -> None:
    start, answers = FORK.Barrier(8), FORK.SimpleQueue()

    def one(token: str) -> None:
        start.wait()
        for _ in range(20):
            answers.put((token, owner(take(lock, path, token))))

    takers = [FORK.Process(target=one, args=(f"t{i}",)) for i in range(8)]
    for taker in takers:
        taker.start()
    told = [answers.get() for _ in range(8 * 20)]
    for taker in takers:
        taker.join()
    assert len({holder for _, holder in told}) == 1
    assert sorted(path.parent.iterdir()) == [path, path.with_name("lock.py")]
    assert path.stat().st_mode & 0o777 == 0o600


def test_takers_and_releasers_never_have_it_together(lock: ModuleType, path: Path) -> None:
    inside = path.with_name("inside")
    wrong = FORK.Value("i", 0)

    def one(token: str) -> None:
        had = 0
        while had < 10:
            if owner(take(lock, path, token)) == token:
                try:
                    inside.mkdir()
                    inside.rmdir()
                except OSError:
                    wrong.value += 1
                had += 1
                lock.release(path, wish(token))

    takers = [FORK.Process(target=one, args=(f"t{i}",)) for i in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert wrong.value == 0
    assert not path.exists()


def test_a_file_that_was_replaced_before_it_was_locked_is_asked_for_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, flock = load(HOLD), fcntl.flock

    def late(opened: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.with_name("other").touch()
        path.with_name("other").replace(path)
        flock(opened, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with file.turn(path), path.open() as opened, pytest.raises(BlockingIOError):
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_ones_own_is_renewed_and_keeps_since_and_verb(lock: ModuleType, path: Path) -> None:
    first = take(lock, path, "mine")["holder"]
    grow_old(path, 100)
    again = lock.take(path, wish("mine", verb="site"), "", 600, "the program")["holder"]
    assert (again["since"], again["verb"]) == (first["since"], "drain")
    assert again["uptime"] >= first["uptime"]


def test_anothers_is_refused_until_it_is_stale(lock: ModuleType, path: Path) -> None:
    take(lock, path, "theirs")
    grow_old(path, 590)
    refused = take(lock, path, "mine")
    assert owner(refused) == "theirs"
    assert refused["before"] == {}
    assert refused["age"] in range(590, 600)
    grow_old(path, 20)
    taken = take(lock, path, "mine")
    assert (owner(taken), taken["before"]["token"]) == ("mine", "theirs")


def test_one_that_is_gone_is_compared_before_it_is_taken_over(lock: ModuleType, path: Path) -> None:
    take(lock, path, "theirs")
    assert owner(take(lock, path, "mine", gone="somebody else's")) == "theirs"
    assert owner(take(lock, path, "mine", gone="theirs")) == "mine"


def test_only_the_token_and_the_verb_release_it(lock: ModuleType, path: Path) -> None:
    take(lock, path, "mine")
    lock.release(path, wish("theirs"))
    # of a playbook that this one imports
    lock.release(path, wish("mine", verb="site"))
    assert owner(take(lock, path, "theirs")) == "mine"
    assert path.with_name("lock.py").read_text() == "the program"
    lock.release(path, wish("mine"))
    assert list(path.parent.iterdir()) == []
    lock.release(path, wish("mine"))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": "theirs", "booted": "another"}'])
def test_what_is_no_lock_of_this_boot_is_nobodys(lock: ModuleType, path: Path, content: str) -> None:
    path.write_text(content)
    assert owner(take(lock, path, "mine")) == "mine"


def holder_of(action: ModuleType, pid: int) -> dict[str, Any]:
    return {**action.this_machine(), "pid": pid, "start": action.stat(pid)[action.START]}


def test_a_holder_is_gone_when_its_process_is(action: ModuleType) -> None:
    with started("sleep", "60") as process:
        holder = holder_of(action, process.pid)
        assert not action.is_gone(holder)
        # another that was given the number since
        assert action.is_gone(holder | {"start": "1"})
        # of another machine, boot or container nobody here can tell
        assert not action.is_gone(holder | {"start": "1", "control": "elsewhere"})
        assert not action.is_gone(holder | {"start": "1", "boot": "before"})
        process.kill()
        # not waited for yet
        while action.stat(process.pid)[action.STATE] != "Z":
            time.sleep(0.01)
        assert action.is_gone(holder)
    assert action.is_gone(holder)


@pytest.mark.parametrize("there", [True, False])
def test_words_before_a_command_hold_it_where_the_program_is(action: ModuleType, path: Path, there: bool) -> None:
    if there:
        path.with_name("lock.py").write_text("import sys; print(sys.argv[1:], sys.stdin.read())")
    command = [*action.words(str(path), "a token"), "cat", "-"]
    done = subprocess.run(command, input="said", capture_output=True, text=True, check=True)
    assert done.stdout == (f"{[str(path), 'a token', '--', 'cat', '-']} said\n" if there else "said")


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def hold(path: Path, *command: str, every: float = 5) -> list[str]:
    """As the playbooks run it: from its source."""
    source = HOLD.read_text().replace("RENEW_SECONDS = 5\n", f"RENEW_SECONDS = {every}\n")
    return [sys.executable, "-I", "-c", source, str(path), "mine", "--", *command]


def test_a_held_command_has_its_own_input_output_and_status(path: Path) -> None:
    script = "cat; echo wrong >&2; exit 7"
    done = subprocess.run(hold(path, "sh", "-c", script), input="said", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "said", "wrong\n")
    assert not path.exists()
    assert subprocess.run(hold(path, "sh", "-c", "kill -9 $$"), check=False).returncode == -9
    missing = subprocess.run(hold(path, "no-such-command"), capture_output=True, text=True, check=False)
    assert missing.returncode == 127
    assert "no-such-command" in missing.stderr


def test_a_held_command_renews_the_lock(lock: ModuleType, path: Path) -> None:
    take(lock, path, "mine")
    with started(*hold(path, "sleep", "60", every=0.05)):
        for _ in range(2):
            grow_old(path, 500)
            wait_for(lambda: is_fresh(path), "the lock is renewed")


def test_a_held_command_goes_on_without_the_lock_and_says_so_once(lock: ModuleType, path: Path) -> None:
    take(lock, path, "theirs")
    before = path.read_text()
    done = subprocess.run(hold(path, "sleep", "0.3", every=0.05), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == "the lock is not ours any more, but ann@desk's\n"
    assert path.read_text() == before


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_what_ends_it_ends_the_command(path: Path, sent: signal.Signals) -> None:
    # longer than it is waited for: the command must not end by itself
    with started(*hold(path, "sh", "-c", "echo $$; exec sleep 60")) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.send_signal(sent)
        process.wait(30)

        wait_for(lambda: is_gone(child), "it is gone")
    assert process.returncode == -sent


def keep(action: ModuleType, run: dict[str, Any], path: Path, every: float, silent: int = 0) -> Path:
    """Renew it as the action does, by the words that it has; the first times the host does not answer.

    Returns a file, made by the first renewal, which every one makes a byte longer.
    """
    left, end, renewals = [silent], time.monotonic() + 100, path.with_name(f"renewals-{time.monotonic_ns()}")

    def renew() -> None:
        # one that is broken is not left behind either
        if time.monotonic() > end:
            os._exit(1)
        if left[0]:
            left[0] -= 1
            raise action.AnsibleConnectionFailure("no route to host")
        subprocess.run([*action.words(str(path), "mine"), "true"], check=True, stderr=subprocess.DEVNULL)
        with renewals.open("a") as file:
            file.write(".")

    action.keep(run, every, renew)
    return renewals


def is_renewed(renewals: Path, times: int) -> bool:
    return renewals.exists() and renewals.stat().st_size >= times


def is_kept(action: ModuleType, run: dict[str, Any]) -> bool:
    return action.kept_by(run)[1:] in Path("/proc/net/unix").read_text()


def place_program(lock: ModuleType, path: Path) -> None:
    lock.take(path, wish("mine"), "", 600, HOLD.read_text())


def is_fresh(path: Path) -> bool:
    record = json.loads(path.read_text())
    return time.clock_gettime(time.CLOCK_BOOTTIME) - record["uptime"] < 100


def test_a_keeper_renews_it_until_the_run_ends(lock: ModuleType, action: ModuleType, path: Path) -> None:
    place_program(lock, path)
    with started("sleep", "60") as process:
        # the machine may be given another name meanwhile
        run = holder_of(action, process.pid) | {"control": "before"}
        keep(action, run, path, every=0.1, silent=2)
        for _ in range(2):
            grow_old(path, 500)
            wait_for(lambda: is_fresh(path), "the lock is renewed", 60)
        assert is_kept(action, run)
        process.kill()
        # also while nobody has waited for it
        wait_for(lambda: not is_kept(action, run), "nobody keeps the lock", 60)


def test_a_run_has_one_keeper(lock: ModuleType, action: ModuleType, path: Path) -> None:
    place_program(lock, path)
    with started("sleep", "60") as process:
        run = holder_of(action, process.pid)
        one = keep(action, run, path, every=0.2)
        wait_for(lambda: is_renewed(one, 1), "it is renewed", 60)
        # another one would be the first to renew it
        another = keep(action, run, path, every=0)
        wait_for(lambda: is_renewed(one, 5), "it is renewed", 60)
        assert not another.exists()


@pytest.mark.parametrize("other", ["theirs", ""])
def test_a_keeper_leaves_alone_what_is_not_the_runs_any_more(
    lock: ModuleType, action: ModuleType, path: Path, other: str
) -> None:
    place_program(lock, path)
    lock.release(path, wish("mine"))
    if other:
        lock.take(path, wish(other), "", 600, HOLD.read_text())
    before = path.read_text() if other else None
    with started("sleep", "60") as process:
        renewals = keep(action, holder_of(action, process.pid), path, every=0.05)
        wait_for(lambda: is_renewed(renewals, 3), "it is renewed", 60)
        assert (path.read_text() if path.exists() else None) == before
        # it is the run's again, as of two playbooks in one
        if not other:
            place_program(lock, path)
            grow_old(path, 500)
            wait_for(lambda: is_fresh(path), "the lock is renewed", 60)


def test_a_keeper_whose_host_hangs_ends_with_the_run_too(action: ModuleType, tmp_path: Path) -> None:
    asked = tmp_path / "asked"

    def hang() -> None:
        subprocess.run(["sh", "-c", f"echo $$ > {asked}; exec sleep 60"], check=False)
        # one that is broken is not left behind either
        os._exit(1)

    with started("sleep", "60") as process:
        run = holder_of(action, process.pid)
        action.keep(run, 0, hang)
        wait_for(lambda: asked.exists() and asked.read_text().endswith("\n"), "the host is asked", 60)
        process.kill()
        wait_for(lambda: not is_kept(action, run), "nobody keeps the lock", 60)
    wait_for(lambda: is_gone(int(asked.read_text())), "it is gone", 20)


PLAYBOOK = """
- ansible.builtin.import_playbook: {playbooks}/lock.yml
  vars: {{hostnet_lock_verb: drain}}
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.shell: |
        cp {here}/lock {here}/before; echo >> {here}/touched
        while [ ! -e {here}/go ]; do sleep 0.05; done
- ansible.builtin.import_playbook: {playbooks}/lock.yml
  vars: {{hostnet_lock_verb: site}}
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.command:
        argv: "{{{{ dask_cluster_hold | default([]) + ['cp', '{here}/lock', '{here}/seen'] }}}}"
      run_once: true
      when: not ansible_check_mode
- ansible.builtin.import_playbook: {playbooks}/unlock.yml
  vars: {{hostnet_lock_verb: site}}
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.shell: "cp {here}/lock {here}/end"
      run_once: true
- ansible.builtin.import_playbook: {playbooks}/unlock.yml
  vars: {{hostnet_lock_verb: drain}}
"""


@pytest.fixture
def playbook(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    hosts = ("s", "w1")
    local = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    groups = {"dask_scheduler": hosts[:1], "dask_workers": hosts[1:]}
    (tmp_path / "hosts.json").write_text(
        json.dumps({name: {"hosts": dict.fromkeys(members, local)} for name, members in groups.items()})
    )
    (tmp_path / "play.yml").write_text(PLAYBOOK.format(playbooks=ROOT / "playbooks", here=tmp_path))

    def command(*arguments: str) -> list[str]:
        run = [sys.executable, "-m", "ansible", "playbook", "-i", str(tmp_path / "hosts.json"), "-f", "3"]
        return [*run, "-e", f"__dask_lock_path={tmp_path / 'lock'}", *arguments, str(tmp_path / "play.yml")]

    yield command
    # what waits for it outlives a run that was killed
    (tmp_path / "go").touch()


@pytest.fixture
def run(playbook: Callable[..., list[str]]) -> Callable[..., tuple[int, str]]:
    def done(*arguments: str) -> tuple[int, str]:
        ran = subprocess.run(playbook(*arguments), capture_output=True, text=True, check=False, cwd=ROOT)
        return ran.returncode, ran.stdout + ran.stderr

    return done


# three runs of Ansible, beside whatever else this machine does
@pytest.mark.timeout(400)
def test_a_run_has_it_from_its_beginning_to_its_end(
    tmp_path: Path, action: ModuleType, playbook: Callable[..., list[str]], run: Callable[..., tuple[int, str]]
) -> None:
    path = tmp_path / "lock"
    with started(*playbook("-e", "__dask_lock_every=0.2")) as first:
        # by a line a host
        wait_for(
            lambda: (tmp_path / "touched").exists() and (tmp_path / "touched").stat().st_size == 2,
            "both hosts are at work",
            60,
        )
        held = json.loads(path.read_text())
        assert (held["pid"], held["verb"]) == (first.pid, "drain")
        # though the step goes on
        grow_old(path, 500)
        wait_for(lambda: is_fresh(path), "the lock is renewed", 60)

        (tmp_path / "touched").unlink()
        status, said = run("--limit", "w1")
        assert status != 0
        assert (
            f"s: locked by {held['user']}@{os.uname().nodename} (pid {first.pid}): drain since {held['since']}" in said
        )
        assert "wait for it, or -e hostnet_ignore_lock=true if you know that it is gone" in said
        assert not (tmp_path / "touched").exists()

        first.kill()
        wait_for(lambda: not is_kept(action, held), "nobody keeps the lock", 60)
    assert json.loads(path.read_text())["token"] == held["token"]

    (tmp_path / "go").touch()
    status, said = run("--limit", "w1")
    assert status == 0, said
    assert f"taken over from {held['user']}@{os.uname().nodename} (pid {first.pid})" in said
    before, seen, end = (json.loads((tmp_path / name).read_text()) for name in ("before", "seen", "end"))
    # one token in several plays and by several forks; what another playbook within this one releases stays
    assert before["token"] == seen["token"] == end["token"] != held["token"]
    assert before["uptime"] < seen["uptime"]
    assert end["verb"] == "drain"
    assert not path.exists()


def test_a_rehearsal_asks_nobody_and_an_ignored_lock_is_left(
    tmp_path: Path, lock: ModuleType, run: Callable[..., tuple[int, str]]
) -> None:
    path = tmp_path / "lock"
    (tmp_path / "go").touch()
    take(lock, path, "theirs")
    before = path.read_text()
    for arguments in (["--check"], ["-e", "hostnet_ignore_lock=true"]):
        status, said = run("--limit", "w1", *arguments)
        assert status == 0, said
        assert "locked by" not in said
        assert path.read_text() == before


def test_a_host_that_does_not_answer_refuses_the_run(tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    hosts = json.loads((tmp_path / "hosts.json").read_text())
    hosts["dask_scheduler"]["hosts"]["s"] = {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": 1,
    }
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    (tmp_path / "go").touch()
    status, said = run("--limit", "w1")
    assert status != 0
    assert "s: whether another operator is at work cannot be asked there" in said
    assert "-e hostnet_ignore_lock=true" in said
    assert not (tmp_path / "touched").exists()
