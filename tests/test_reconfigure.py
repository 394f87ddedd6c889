"""How site.yml replaces workers: the real roles on hosts of this machine; engine and scheduler are pretended.

Each host's containers are a file, what is asked of the scheduler is answered by a script in place of `docker`, and both
append what happens to one log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

# each run is some ten seconds of Ansible on an idle machine
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[1]
WORKERS = ("worker1", "worker2", "worker3")
IMAGE = "192.0.2.1:5000/dask@sha256:" + "a" * 64

# what all pretended parts begin with
COMMON = """
import fcntl, hashlib, json, os, sys
from pathlib import Path
STATE = Path(os.environ["PRETEND"])
def log(line):
    with (STATE / "log").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line + chr(10))
def read(name, nothing):
    path = STATE / (name + ".json")
    return json.loads(path.read_text()) if path.exists() else nothing
"""
MODULE = (
    COMMON
    + """
from ansible.module_utils.basic import AnsibleModule
HOST = os.environ["PRETEND_HOST"]
KNOWN = read(HOST, {})
def save():
    (STATE / (HOST + ".json")).write_text(json.dumps(KNOWN))
def take(**options):
    return AnsibleModule({name: {"type": kind} for name, kind in options.items()}, supports_check_mode=True)
"""
)
MODULES = {
    "docker_host_info": """
module = take(containers="bool", containers_all="bool", verbose_output="bool", containers_filters="dict")
kind = module.params["containers_filters"]["label"][0].rpartition("=")[2]
mine = [name for name in KNOWN if name.startswith(kind)]
states = {name: "running" if KNOWN[name]["running"] else "exited" for name in mine}
command = "dask worker " + read("at", {}).get(HOST, "tls://192.0.2.1:8786") + " --name x"
found = [{"Names": ["/" + name], "State": states[name], "Command": command} for name in mine]
module.exit_json(changed=False, containers=found)
""",
    "docker_image_info": """
take(name="str").exit_json(changed=False, images=[{"Id": "1"}])
""",
    "docker_container_info": """
module = take(name="str")
found = KNOWN.get(module.params["name"])
said = found and {"State": {"Running": found["running"]}, "Config": {"Image": found["image"]}}
module.exit_json(changed=False, exists=bool(found), container=said)
""",
    "docker_container": """
import ansible.module_utils.basic as basic
given = {key: value for key, value in basic._load_params().items() if not key.startswith("_ansible")}
module = take(**dict.fromkeys(given, "raw"))
name, state = given["name"], given["state"]
wanted = {key: value for key, value in given.items() if key not in ("state", "healthy_wait_timeout")}
wanted = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
there, actions = KNOWN.get(name), []
if state == "absent":
    actions = ["remove"] if there else []
elif not there or there["wanted"] != wanted or there["running"] != (state == "healthy"):
    actions = ["create"]
if actions and not module.check_mode:
    log(f"{actions[0]} {HOST} {name}")
    if name == "dask-worker-0" and HOST in read("unhealthy", []):
        module.fail_json(msg=f"{name} did not become healthy")
    KNOWN.pop(name, None)
    if state != "absent":
        KNOWN[name] = {"wanted": wanted, "running": state == "healthy", "image": given["image"]}
    save()
module.exit_json(changed=bool(actions), actions=actions)
""",
}
LOOK = """
module = take(folder="path", workers="list", state="str", files="dict", unit="str")
running = sorted(name for name, each in KNOWN.items() if name.startswith("dask-worker") and each["running"])
folder = Path(module.params["folder"])
marks = {path.name: path.read_text() for path in folder.iterdir()} if folder.is_dir() else {}
answers = HOST not in read("silent", [])
host, scheduler = (read(what, {}).get(HOST, usual) for what, usual in (("named", HOST), ("at", "tls://192.0.2.1:8786")))
called = {name: {"name": host + name.removeprefix("dask-worker"), "scheduler": scheduler} for name in running}
found = {"drained": sorted(marks), "marks": marks, "running": running if answers else [], "answers": answers}
found["called"] = called
module.exit_json(changed=False, **found, handover=True, has_unit=True)
"""
DOCKER = (
    COMMON
    + """
words = sys.argv[1:]
if words[0] == "run":
    names = words[words.index("--workers") + 1]
    log("verify " + names + " optional " + ",".join(sorted(set(words[words.index("--optional") + 1].split(",")))))
    print("hello-world  FAILED  a pretended fault" if names in read("wrong", []) else "hello-world  ok")
    sys.exit(names in read("wrong", []))
if words[0] in ("update", "start", "stop"):
    sys.exit(0)
sys.stdin.read()
if words[-1] == "-":
    log("asked")
    if (STATE / "log").read_text().count("asked") == read("leaves", 0):
        (STATE / "gone").touch()
    print(json.dumps(read("flight", {"tasks": 0, "processing": 0, "bytes": 0, "clients": 0, "scheduler": "one"})))
    sys.exit(0)
if words[-1].startswith("tls://"):
    print(json.dumps(read("other", None)))
    sys.exit(read("other", None) is None)
wish = json.loads(words[-1])
names = ",".join(wish["workers"])
log(f"{wish['step']} {names} leaving {','.join(sorted(wish['leaving']))}")
if wish["step"] != "undo" and set(wish["workers"]) & set(read("full", [])):
    print(f"{names}: 2 keys (99 bytes) are nowhere else, and the others have room for 1 bytes", file=sys.stderr)
    sys.exit(4)
if status := read("fails", {}).get(wish["step"], {}).get(names):
    print(f"{names}: {wish['step']} failed", file=sys.stderr)
    sys.exit(status)
print(f"{names}: {wish['step']} done")
"""
)


FACTS = """
- hosts: all
  gather_facts: false
  tasks:
    - set_fact: {memtotal_mb: 8192, processor_vcpus: 4, cacheable: true}
- import_playbook: playbooks/workers.yml
"""
# what the playbook of that name does once it has asked for the lock
VERB = """
- hosts: dask_workers
  gather_facts: false
  tasks:
    - set_fact: {memtotal_mb: 8192, processor_vcpus: 4, cacheable: true}
    - include_role: {name: dask_worker, tasks_from: %s.yml}
      vars: {dask_container_scheduler: scheduler1, dask_worker_leaving: [worker1-0]}
"""
# of patch.yml, whose playbook is the real one: there is something to do, which fails where it is to
PATCH = {
    "look": """
- debug: {msg: "{{ inventory_hostname }}: something to upgrade"}
  changed_when: true
  register: __dask_patch_look
""",
    "main": """
- fail: {msg: no room}
  when: (lookup('env', 'PRETEND') ~ '/no-room-' ~ inventory_hostname ~ '.json') is file
""",
    "reboot": "[]",
}
# as site.yml has it
DIGEST = """
- hosts: dask_scheduler:dask_workers
  gather_facts: false
  tasks:
    - import_role: {name: dask_container, tasks_from: digest.yml}
      run_once: true
      vars: {dask_container_scheduler: scheduler1}
"""


@dataclass(frozen=True)
class Run:
    """What a run came to: exit status, output with white space made single, changes by host, the log's new lines."""

    status: int
    text: str
    changed: dict[str, int]
    log: list[str]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The playbooks, and the roles that they use less what this machine would notice."""
    made = tmp_path_factory.mktemp("checkout")
    for folder in ("playbooks", "roles", "scripts"):
        shutil.copytree(ROOT / folder, made / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "ansible.cfg", made)
    (made / "site.yml").write_text(FACTS, encoding="utf-8")
    (made / "digest.yml").write_text(DIGEST, encoding="utf-8")
    for verb in ("drain", "undrain"):
        (made / f"{verb}.yml").write_text(VERB % verb, encoding="utf-8")
    for path in (made / "roles").rglob("tasks/*.yml"):
        path.write_text(re.sub(r"(?m)^\s+(owner|group): .*\n", "", path.read_text(encoding="utf-8")), encoding="utf-8")
    (made / "roles/dask_worker/library/dask_worker_look.py").write_text(MODULE + LOOK, encoding="utf-8")
    for name, text in PATCH.items():
        (made / f"roles/dask_patch/tasks/{name}.yml").write_text(text, encoding="utf-8")
    modules = made / "collections/ansible_collections/community/docker/plugins/modules"
    modules.mkdir(parents=True)
    for name, code in MODULES.items():
        (modules / f"{name}.py").write_text(MODULE + code, encoding="utf-8")
    (made / "bin").mkdir()
    programs = {"docker": f"#!{sys.executable}\n{DOCKER}"}
    for host in ("scheduler1", *WORKERS):
        programs[host] = f'#!/bin/sh\nPRETEND_HOST={host} exec {sys.executable} "$@"\n'
    for name, code in programs.items():
        (made / "bin" / name).write_text(code, encoding="utf-8")
        (made / "bin" / name).chmod(0o755)
    return made


@pytest.fixture
def play(checkout: Path, tmp_path: Path) -> Callable[..., Run]:
    """Run playbooks/workers.yml, or another playbook, on three hosts whose state is a test's own."""
    everything = {
        "ansible_connection": "local",
        "ansible_become": False,
        "dask_cluster_image": IMAGE,
        "dask_cluster_scheduler_host": "192.0.2.1",
        "dask_cluster_networks": ["192.0.2.0/24"],
        "dask_cluster_client_networks": ["192.0.2.0/24"],
        "dask_cluster_uid": os.getuid(),
        "dask_cluster_gid": os.getgid(),
        "dask_cluster_config_dir": f"{tmp_path}/etc-{{{{ inventory_hostname }}}}",
        "dask_cluster_data_dir": f"{tmp_path}/var-{{{{ inventory_hostname }}}}",
        "dask_worker_nthreads": 2,
        "dask_worker_memory_limit": "1GiB",
    }
    gone = f"{{{{ 'ssh' if '{tmp_path}/gone' is file else 'local' }}}}"
    # not by a name in the variable, which is another host's under delegation
    hosts = {name: {"ansible_python_interpreter": f"{checkout}/bin/{name}"} for name in ("scheduler1", *WORKERS)}
    groups = {
        "dask_scheduler": {
            "hosts": {
                "scheduler1": hosts.pop("scheduler1")
                | {"ansible_connection": gone, "ansible_host": "127.0.0.1", "ansible_port": 1}
            }
        },
        "dask_registry": {"children": {"dask_scheduler": {}}},
        "dask_workers": {"hosts": hosts},
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": everything}, **groups}), encoding="utf-8")
    collections = [checkout / "collections", *(path for path in sys.path if path.endswith("site-packages"))]
    environment = {
        **os.environ,
        "PRETEND": str(tmp_path),
        "PATH": f"{checkout}/bin:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(checkout / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": ":".join(map(str, collections)),
        "ANSIBLE_NOCOLOR": "1",
    }
    log = tmp_path / "log"

    def run(*arguments: str, playbook: str = "site.yml", **variables: Any) -> Run:
        log.write_text("", encoding="utf-8")
        command = [
            Path(sys.executable).parent / "ansible-playbook",
            "-i",
            tmp_path / "hosts.yml",
            checkout / playbook,
            "-e",
            json.dumps(variables),
            *arguments,
        ]
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        recap = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE)
        return Run(
            done.returncode,
            " ".join(done.stdout.split()),
            {host: int(changed) for host, changed in recap},
            [line for line in log.read_text(encoding="utf-8").splitlines() if line != "asked"],
        )

    return run


@pytest.fixture
def say(tmp_path: Path) -> Callable[..., None]:
    """Have the pretended cluster hold work (`flight`), refuse (`full`), or fail."""

    def write(**files: Any) -> None:
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    return write


BUSY = {"tasks": 3, "processing": 1, "bytes": 99, "clients": 1, "scheduler": "one"}
OLD = {"dask-worker-0": {"wanted": "another", "running": True, "image": IMAGE}}
AT_WORK = {"worker1": OLD, "worker2": OLD, "flight": BUSY}


def drained(host: str, *others: str) -> list[str]:
    """What the log says of a host that hands over, is replaced, and verified with the others of its batch."""
    leaving = ",".join(sorted(f"{name}-0" for name in (host, *others)))
    return [f"drain {host}-0 leaving {leaving}", f"create {host} dask-worker-0"]


def test_what_is_missing_is_made_at_once_and_what_works_is_replaced_in_verified_batches(
    play: Callable[..., Run], say: Callable[..., None]
) -> None:
    say(**AT_WORK)
    run = play()
    assert run.status == 0, run.text
    assert run.log == [
        "create worker3 dask-worker-0",
        *drained("worker1"),
        "verify worker1-0 optional worker2-0,worker3-0",
        *drained("worker2"),
        "verify worker2-0 optional worker1-0,worker3-0",
    ]
    assert "Could not match" not in run.text


def test_a_refused_drain_changes_nothing_and_ends_the_run(
    play: Callable[..., Run], say: Callable[..., None], tmp_path: Path
) -> None:
    say(**AT_WORK, full=["worker1-0"])
    run = play("--limit", "worker1,worker2")
    assert run.status != 0
    assert run.log == drained("worker1")[:1]
    assert run.changed == {"worker1": 0, "worker2": 0}
    assert not (tmp_path / "etc-worker1").exists()
    assert (
        "worker1: Replace | Ensure others have all of it: worker1-0: 2 keys (99 bytes) are nowhere else, and the others"
        " have room for 1 bytes. Nothing of this host was changed. Add a worker" in run.text
    )
    assert "Not begun, and as they were: worker2" in run.text


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        (BUSY | {"scheduler": "another"}, True),
        (BUSY | {"scheduler": "another", "tasks": 0, "clients": 0}, False),
        # the inventory's by another name
        (BUSY, False),
        # its host is off
        (None, False),
    ],
)
def test_a_worker_is_not_taken_from_another_scheduler_that_has_work(
    play: Callable[..., Run], say: Callable[..., None], other: dict[str, Any] | None, refused: bool
) -> None:
    say(worker1=OLD, at={"worker1": "tls://192.0.2.9:8786"}, other=other)
    run = play("--limit", "worker1")
    assert (run.status != 0) is refused, run.text
    assert run.log == ([] if refused else ["create worker1 dask-worker-0"])
    said = (
        "worker1: dask-worker-0 is a worker of tls://192.0.2.9:8786, and would be tls://192.0.2.1:8786's while the"
        " former has 3 tasks or stored keys (99 bytes), of which 1 processing, and 1 clients."
    )
    assert (said in run.text) is refused


@pytest.mark.parametrize(
    ("said", "is_called"),
    [
        ({"at": {"worker1": "tls://192.0.2.9:8786"}}, "worker1-0 of tls://192.0.2.9:8786"),
        ({"named": {"worker1": "old"}}, "old-0 of tls://192.0.2.1:8786"),
    ],
)
def test_what_the_scheduler_does_not_know_by_its_name_is_not_taken_for_empty(
    play: Callable[..., Run], say: Callable[..., None], said: dict[str, Any], is_called: str
) -> None:
    say(**AT_WORK, **said)
    run = play("--limit", "worker1", playbook="drain.yml")
    assert run.status != 0
    assert (
        f"worker1: dask-worker-0 is {is_called}, and in the inventory worker1-0 of tls://192.0.2.1:8786: drain with"
        in run.text
    )
    assert run.log == []
    lost = play("--limit", "worker1", playbook="drain.yml", dask_cluster_allow_interrupt=True)
    assert lost.status == 0, lost.text


def test_a_host_that_was_renamed_is_not_replaced(play: Callable[..., Run], say: Callable[..., None]) -> None:
    say(**AT_WORK, named={"worker1": "old"})
    run = play("--limit", "worker1")
    assert run.status != 0
    assert "worker1: dask-worker-0 is old-0: to rename a host, run remove.yml for its old name, rename it" in run.text
    assert run.log == []


@pytest.mark.thorough
def test_hosts_of_a_batch_hand_over_one_after_another_and_one_that_cannot_holds_up_no_other(
    play: Callable[..., Run], say: Callable[..., None]
) -> None:
    say(**AT_WORK, worker3=OLD, full=["worker2-0"])
    run = play("-e", "hostnet_batch=2")
    assert run.status != 0
    assert run.log[:2] == [drained("worker1", "worker2")[0], drained("worker2", "worker1")[0]]
    assert run.log[2:] == ["create worker1 dask-worker-0", "verify worker1-0,worker2-0 optional worker3-0"]
    assert "Not begun, and as they were: worker3" in run.text


UNHEEDED = "is set in the inventory, where it is not heeded: take it out, and give it by -e"


@pytest.mark.parametrize(
    ("given", "inventory", "says"),
    [
        ({}, {}, ""),
        ({"hostnet_batch": [1, "67%"], "hostnet_max_fail": 50}, {}, ""),
        ({"hostnet_batch": "2"}, {"hostnet_batch": 3}, ""),
        ({"hostnet_batch": 0}, {}, "hostnet_batch is 0; it must be a number of hosts, or a percentage of them"),
        ({"hostnet_batch": 2, "hostnet_max_fail": "50%"}, {}, "hostnet_max_fail is 50%; it must be"),
        ({"hostnet_max_fail": 100}, {}, "hostnet_max_fail is 100, and hostnet_batch 1 is one host at a time"),
        # of three hosts
        ({"hostnet_batch": "66%", "hostnet_max_fail": 50}, {}, "hostnet_batch 66% is one host at a time"),
        ({}, {"hostnet_batch": 2}, f"hostnet_batch {UNHEEDED}"),
        ({"hostnet_batch": 2}, {"hostnet_max_fail": 50}, f"hostnet_max_fail {UNHEEDED}"),
    ],
)
def test_batches_that_would_not_be_heeded_are_refused(
    play: Callable[..., Run], tmp_path: Path, given: dict[str, Any], inventory: dict[str, Any], says: str
) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/dask_workers.yml").write_text(json.dumps(inventory), encoding="utf-8")
    run = play(playbook="playbooks/batch.yml", **given)
    assert (run.status != 0) == bool(says), run.text
    assert says in run.text
    assert (UNHEEDED in run.text) == (UNHEEDED in says), run.text


@pytest.mark.thorough
def test_a_replacement_that_fails_puts_them_back_into_service_and_ends_the_run(
    play: Callable[..., Run], say: Callable[..., None]
) -> None:
    say(**AT_WORK, unhealthy=["worker1"])
    run = play("--limit", "worker1,worker2")
    assert run.status != 0
    assert run.log == [*drained("worker1"), "undo worker1-0 leaving worker1-0"]
    assert (
        "dask-worker-0 did not become healthy. Those of its workers that were to be replaced are in service" in run.text
    )
    assert "Not begun, and as they were: worker2" in run.text


@pytest.mark.thorough
def test_a_scheduler_that_goes_away_at_the_drain_ends_the_run_with_a_word(
    play: Callable[..., Run], say: Callable[..., None]
) -> None:
    # asked of both hosts before the batches, and of the first again in its own
    say(**AT_WORK, leaves=3)
    run = play("--limit", "worker1,worker2")
    assert run.status != 0
    assert run.log == []
    assert "worker1: Replace | Stop if the scheduler's host went away meanwhile: scheduler1 went away: " in run.text
    assert "Its workers are not all in service (" in run.text
    assert "Not begun, and as they were: worker2" in run.text


@pytest.mark.thorough
def test_a_batch_that_is_not_verified_ends_the_run(play: Callable[..., Run], say: Callable[..., None]) -> None:
    say(**AT_WORK, wrong=["worker1-0"])
    run = play("--limit", "worker1,worker2")
    assert run.status != 0
    assert run.log == [*drained("worker1"), "verify worker1-0 optional worker2-0,worker3-0"]
    assert "a pretended fault" in run.text
    assert "Not begun, and as they were: worker2" in run.text


@pytest.mark.thorough
def test_each_host_of_a_batch_that_is_not_verified_says_so(play: Callable[..., Run], say: Callable[..., None]) -> None:
    say(**AT_WORK, wrong=["worker1-0,worker2-0"])
    run = play("--limit", "worker1,worker2", "-e", "hostnet_batch=2")
    assert run.status != 0
    assert "hello-world FAILED a pretended fault No host was left to do" in run.text
    assert "worker2: another host of the batch failed. No host was left to do" in run.text


@pytest.mark.thorough
def test_a_rehearsal_asks_whether_it_could_be_done_and_announces_it_once(
    play: Callable[..., Run], say: Callable[..., None], tmp_path: Path
) -> None:
    say(**AT_WORK)
    rehearsed = play("--check", "--diff")
    assert rehearsed.status == 0, rehearsed.text
    assert rehearsed.log == [f"look {host}-0 leaving {host}-0" for host in ("worker1", "worker2")]
    assert rehearsed.text.count("worker1: would hand over and replace or remove dask-worker-0") == 1
    assert not (tmp_path / "etc-worker1").exists()
    assert rehearsed.changed == play().changed


@pytest.mark.thorough
def test_an_idle_cluster_is_replaced_at_once_and_a_surplus_worker_hands_over_like_any_other(
    play: Callable[..., Run], say: Callable[..., None]
) -> None:
    two = {**OLD, "dask-worker-1": OLD["dask-worker-0"]}
    say(worker1=OLD, worker2=two)
    run = play("--limit", "worker1")
    assert run.status == 0
    assert run.log == ["create worker1 dask-worker-0"]
    say(flight=BUSY)
    run = play("--limit", "worker1,worker2")
    assert run.status == 0
    assert run.log == [
        "drain worker2-0,worker2-1 leaving worker2-0,worker2-1",
        "remove worker2 dask-worker-1",
        "create worker2 dask-worker-0",
        "verify worker2-0 optional worker1-0,worker3-0",
    ]
    assert run.changed["worker1"] == 0


def test_another_digest_than_the_running_schedulers_is_refused_also_when_it_is_another_host_that_is_meant(
    play: Callable[..., Run], say: Callable[..., None]
) -> None:
    scheduler = {"running": True, "image": IMAGE.replace("a" * 64, "b" * 64)}
    say(scheduler1={"dask-scheduler": scheduler})
    run = play("--check", "--limit", "worker1", playbook="digest.yml")
    assert run.status != 0
    assert (
        f"scheduler1: dask-scheduler runs sha256:{'b' * 64}, and dask_cluster_image pins sha256:{'a' * 64}" in run.text
    )
    assert "run playbooks/upgrade.yml" in run.text
    say(scheduler1={"dask-scheduler": {**scheduler, "running": False}})
    assert play(playbook="digest.yml").status == 0


def test_a_worker_that_does_not_come_back_stays_drained(
    play: Callable[..., Run], say: Callable[..., None], tmp_path: Path
) -> None:
    mark = tmp_path / "etc-worker1/drained/worker1-0"
    mark.parent.mkdir(parents=True)
    mark.write_text("why: disk", encoding="utf-8")
    say(unhealthy=["worker1"])
    run = play("--limit", "worker1", playbook="undrain.yml")
    assert run.status != 0
    assert "dask-worker-0 did not become healthy" in run.text
    assert mark.exists()
    say(unhealthy=[])
    assert play("--limit", "worker1", playbook="undrain.yml").status == 0
    assert not mark.exists()


BACK = "The workers were put back into service. Its workers are in service, and"
MARKED = "stays drained, and no further host was begun. Run patch.yml again to go on, or bring them back"


# what is said of the first host and of the other, to which Ansible does not say why, and how many were put back
@pytest.mark.parametrize(
    ("state", "says", "undone"),
    [
        ({"fails": {"drain": {"worker1-0": 1}}}, (f"worker1-0: drain failed. {BACK}", BACK), 2),
        (
            {"fails": {"drain": {"worker1-0": 5}}},
            ("worker1-0: drain failed. This run has left them to it. None of them is marked as drained", BACK),
            1,
        ),
        pytest.param(
            {"fails": {"drain": {"worker1-0": 1}, "undo": {"worker2-0": 1}}},
            (BACK, "The workers are not all back in service: worker2-0: undo failed. Run undrain.yml. None of them is"),
            2,
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {"fails": {"look": {"worker1-0": 1}}},
            ("when the scheduler answers. Its workers are in service", "Its workers are in service"),
            0,
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {"no-room-worker1": True},
            (f"no room. worker1-0 {MARKED}", f"worker2-0 {MARKED}"),
            0,
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["drain", "taken over", "undo", "refused", "packages"],
)
def test_a_patch_says_what_became_of_both_hosts_of_a_batch_of_which_one_failed(
    play: Callable[..., Run], say: Callable[..., None], state: dict[str, Any], says: tuple[str, str], undone: int
) -> None:
    say(worker1=OLD, worker2=OLD, **state)
    arguments = ("--limit", "worker1,worker2", "-e", "hostnet_batch=2")
    run = play(*arguments, playbook="playbooks/patch.yml", hostnet_ignore_lock=True)
    assert run.status != 0
    assert re.search(rf"worker1: [^:]+: .*{re.escape(says[0])}", run.text), run.text
    assert f"worker2: another host of the batch failed. {says[1]}" in run.text, run.text
    assert sum(line.startswith("undo") for line in run.log) == undone


@pytest.mark.parametrize(
    ("state", "remedy"),
    [
        (
            {"full": ["worker1-0"]},
            "Add a worker or wait until the results are gone, or lose them with -e dask_cluster_allow_interrupt=true",
        ),
        (
            {"fails": {"look": {"worker1-0": 1}}},
            "See docker logs dask-scheduler on scheduler1, and run again when the scheduler answers",
        ),
    ],
)
def test_only_a_drain_that_nobody_can_take_is_told_to_lose_it(
    play: Callable[..., Run], say: Callable[..., None], state: dict[str, Any], remedy: str
) -> None:
    say(worker1=OLD, **state)
    run = play("--limit", "worker1", playbook="drain.yml")
    assert run.status != 0
    assert f". Nothing was changed. {remedy}" in run.text, run.text
    assert run.log == ["look worker1-0 leaving worker1-0"]


def test_workers_of_an_engine_that_does_not_say_are_not_taken_for_stopped(
    play: Callable[..., Run], say: Callable[..., None], tmp_path: Path
) -> None:
    say(silent=["worker1"])
    run = play("--limit", "worker1", playbook="drain.yml")
    assert run.status != 0
    assert "worker1: its engine does not say what runs there: see systemctl status docker" in run.text
    assert run.log == []
    assert not (tmp_path / "etc-worker1/drained").exists()
