"""Real ansible-runner runs of tiny playbooks: what the Result says of success, failures and an interrupt."""

import io
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hostnet import progress, runner
from hostnet.errors import InterruptedRunError
from hostnet.events import Recorder
from waiting import wait_for

HEAD = "- name: Try\n  hosts: all\n  gather_facts: false\n  tasks:\n"
INVENTORY = """
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  hosts: {one: {}, two: {}}
"""


@pytest.fixture
def play(tmp_path):
    """Runs tasks on `one` and `two`, both this machine."""
    (tmp_path / "ansible.cfg").write_text("[inventory]\nany_unparsed_is_failed = True\n")
    (tmp_path / "hosts.yml").write_text(INVENTORY)

    def run(tasks, *, inventory="hosts.yml", deadline=60.0, on_event=lambda recorder: None, head=HEAD):
        (tmp_path / "try.yml").write_text(head + tasks)
        what = runner.Run(tmp_path, "try.yml", inventory, tmp_path / "try.log", deadline, {"word": "hello"}, {})
        return runner.run(what, on_event)

    return run


def test_success_counts_hosts_and_keeps_what_was_shown(play, tmp_path):
    result = play(
        """
    - name: Show the verification
      ansible.builtin.debug:
        msg: ["{{ word }}", "second line"]
      run_once: true
    - name: Change something
      ansible.builtin.file:
        path: "{{ playbook_dir }}/{{ inventory_hostname }}"
        state: touch
        mode: "0600"
"""
    )
    assert result.ok
    assert result.status == 0
    assert {name: stats.changed for name, stats in result.hosts.items()} == {"one": 1, "two": 1}
    assert result.shown["Show the verification"] == ["hello", "second line"]
    assert progress.summary(result).startswith("2 hosts ok, changed=2, ")
    assert "PLAY RECAP" in (tmp_path / "try.log").read_text()
    assert "\x1b" not in (tmp_path / "try.log").read_text()


def test_a_failed_task_names_host_task_and_cause_and_a_rescued_one_does_not(play):
    result = play(
        """
    - name: Fail softly
      block:
        - name: Fail and be rescued
          ansible.builtin.command: "false"
          changed_when: false
      rescue:
        - name: Go on
          ansible.builtin.debug:
            msg: rescued
    - name: Complain
      ansible.builtin.command: sh -c 'echo noise >&2; echo the reason >&2; exit 7'
      changed_when: false
      when: inventory_hostname == 'two'
"""
    )
    assert result.status == 1
    (failure,) = result.failures
    assert failure.hosts == ("two",)
    assert failure.task == "Complain"
    assert failure.cause[-1] == "the reason"
    assert not any("rescued" in line for line in progress.report(result))
    assert progress.summary(result).startswith("FAILED, 1 host ok, 1 failed, changed=0, ")


def test_the_same_failure_of_several_hosts_is_told_once(play):
    result = play(
        """
    - name: Refuse
      ansible.builtin.assert:
        that: word == 'goodbye'
        fail_msg: "word is {{ word }}; it should be goodbye"
"""
    )
    (failure,) = result.failures
    assert failure.hosts == ("one", "two")
    assert failure.cause == ("word is hello; it should be goodbye",)


def test_a_failed_loop_names_its_items(play):
    result = play(
        """
    - name: Refuse some
      ansible.builtin.fail:
        msg: "{{ item }} is not wanted"
      when: item != 'good'
      loop: [good, bad, worse]
      run_once: true
"""
    )
    (failure,) = result.failures
    assert failure.cause == ("bad: bad is not wanted", "worse: worse is not wanted")


def test_a_failed_argument_spec_names_the_variable(play, tmp_path):
    spec = tmp_path / "roles" / "sized" / "meta"
    spec.mkdir(parents=True)
    (spec / "argument_specs.yml").write_text(
        "argument_specs:\n  main:\n    options:\n      sized_count: {type: int, required: true}\n"
    )
    result = play("    - ansible.builtin.include_role: {name: sized}\n      vars: {sized_count: many}\n")
    (failure,) = result.failures
    assert any("sized_count" in line for line in failure.cause)


def test_an_unreachable_host_is_status_3(play, tmp_path):
    (tmp_path / "hosts.yml").write_text(
        "all: {hosts: {gone: {ansible_host: 127.0.0.1, ansible_port: 1, ansible_ssh_timeout: 5}}}"
    )
    result = play("    - ansible.builtin.ping:\n")
    assert result.status == 3
    (failure,) = result.failures
    assert failure.hosts == ("gone",)
    assert failure.unreachable
    assert "refused" in failure.cause[0]


def test_ssh_host_keys_stay_checked(play):
    result = play(
        """
    - name: Show the setting
      ansible.builtin.debug:
        msg: "{{ lookup('env', 'ANSIBLE_HOST_KEY_CHECKING') }}"
"""
    )
    assert result.shown["Show the setting"] == ["True"]


@pytest.mark.parametrize(
    ("tasks", "inventory", "word"),
    [("    - ansible.builtin.ping:\n", "absent.yml", "absent.yml"), ("    - nonsense: [\n", "hosts.yml", "YAML")],
)
def test_where_no_task_ran_ansibles_own_error_is_the_cause(play, tasks, inventory, word):
    result = play(tasks, inventory=inventory)
    assert result.status == 1
    (failure,) = result.failures
    assert failure.hosts == ()
    assert word in "".join(failure.cause)  # Ansible wraps long lines


@pytest.fixture
def dawdle():
    """A task that sleeps for hours, and how many of its processes there are."""
    seconds = str(10_000 + time.time_ns() % 10**9)

    def count():
        return sum(is_sleep(folder, seconds) for folder in Path("/proc").glob("[0-9]*"))

    return f"    - name: Dawdle\n      ansible.builtin.command: sleep {seconds}\n", count


def is_sleep(folder, seconds):
    try:
        return (folder / "cmdline").read_bytes() == f"sleep\0{seconds}\0".encode()
    except OSError:
        return False


def test_a_run_past_its_deadline_is_stopped_with_all_it_started(play, dawdle):
    tasks, count = dawdle
    result = play(tasks, deadline=30.0)
    assert result.status == 1
    assert result.failures[-1].task == "Dawdle"
    assert "not done after 30 s" in result.failures[-1].cause[0]
    wait_for(lambda: not count(), "nothing is left of it")


def test_a_terminal_that_closes_ends_no_run_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runner.Stop(5) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.must_kill()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_stops_ansible_and_all_it_started(play, dawdle):
    def interrupt() -> None:
        wait_for(lambda: count() == 2, "both hosts' processes are there")
        os.kill(os.getpid(), signal.SIGINT)

    tasks, count = dawdle
    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(interrupt)
        with pytest.raises(InterruptedRunError) as caught:
            play(tasks)
        sent.result()
    assert caught.value.status == 130
    wait_for(lambda: not count(), "nothing is left of it")
    assert signal.getsignal(signal.SIGINT) is before


def test_piped_progress_is_plain_lines(play, tmp_path):
    class Out(io.StringIO):
        def write(self, text):
            # the task ends when it was shown
            if "Dawdle  0/2 hosts" in text:
                (tmp_path / "shown").touch()
            return super().write(text)

    out = Out()
    display = progress.Progress(out, every=0.5)
    on_event = display.start("site")
    # it lasts until then, however slow the machine is
    until = f"until test -e {tmp_path}/shown; do sleep 0.1; done"
    result = play(f"    - name: Dawdle\n      ansible.builtin.shell: {until}\n", on_event=on_event)
    display.end(progress.summary(result))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert any(line.endswith("  Try") for line in lines), lines
    assert any(line.endswith("… Dawdle  0/2 hosts") for line in lines), lines
    assert lines[-1].startswith("site   2 hosts ok, changed=2, ")


def test_live_progress_rewrites_one_line(monkeypatch):
    # however slow the machine is
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 0.0))
    out = io.StringIO()
    display = progress.Progress(out, live=True, every=0.02)
    on_event = display.start("site")
    recorder = Recorder()
    recorder.record({"event": "playbook_on_task_start", "event_data": {"task": "Pull", "role": "dask_image"}})
    for event, host in [("runner_on_start", "one"), ("runner_on_start", "two"), ("runner_on_ok", "one")]:
        recorder.record({"event": event, "event_data": {"host": host}})
    on_event(recorder)
    wait_for(lambda: "1/2 hosts" in out.getvalue(), "it is shown")
    display.end("done")
    assert "\r\x1b[Ksite   0:00  dask_image : Pull  1/2 hosts" in out.getvalue()
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("\r\x1b[Ksite   done\n")
