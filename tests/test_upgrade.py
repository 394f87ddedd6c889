"""upgrade.yml's course with stubs for what starts containers: forward, back from each stage, killed and run again.

The playbooks, the note, the pin, the plan and the wait for idleness are the real ones; `docker` is a script.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from getpass import getuser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from loading import load

ROOT = Path(__file__).parents[1]
ROLES = ROOT / "roles"
A, B = (f"192.0.2.1:5000/dask@sha256:{letter * 64}" for letter in "ab")
HOSTS = ("scheduler1", "worker1", "worker2")
IDLE = {"tasks": 0, "processing": 0, "bytes": 0, "clients": 0}

STUBS = {
    "roles/dask_lock/tasks/renew.yml": "[]",
    "playbooks/preflight.yml": """
- hosts: dask_scheduler:dask_workers
  gather_facts: false
  tasks: [{ping: }]
""",
    "roles/dask_image/tasks/main.yml": """
- fail: {msg: "{{ inventory_hostname }}: cannot pull"}
  when: (state ~ '/fail-pull-' ~ inventory_hostname) is file
""",
    "roles/dask_image/tasks/smoke.yml": """
- fail: {msg: "{{ inventory_hostname }}: refused"}
  when: (state ~ '/fail-smoke') is file
""",
    "roles/dask_image/tasks/prune.yml": """
- copy: {content: "{{ dask_image_keep | to_json }}", dest: "{{ state }}/pruned-{{ inventory_hostname }}"}
""",
    "roles/dask_image/library/dask_image_look.py": """
import json, pathlib
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"note": {"type": "path"}}, supports_check_mode=True)
note = pathlib.Path(module.params["note"])
images = note.parent / pathlib.Path(module.params["note"]).name.replace("upgrade.json", "images")
found = json.loads(images.read_text()) if images.exists() else {}
said = json.loads(note.read_text()) if note.exists() else {}
module.exit_json(answers=True, containers=found, held=[], note=said)
""",
    "roles/dask_scheduler/tasks/main.yml": """
# work that came since idleness was proven is refused, but on the way back
- assert:
    that:
      - hostnet_upgrade
      - (dask_cluster_allow_interrupt | bool) == (hostnet_replace_back or (state ~ '/forced') is file)
- fail: {msg: "it holds work"}
  when: (state ~ '/busy') is file and not dask_cluster_allow_interrupt
- copy:
    content: "{{ {'dask-scheduler': dask_cluster_image} | to_json }}"
    dest: "{{ dask_cluster_config_dir }}/images"
- fail: {msg: "it does not come up"}
  when: (state ~ '/fail-scheduler-' ~ dask_cluster_image[-1]) is file
""",
    "roles/dask_worker/tasks/main.yml": """
- assert: {that: "(hostvars['scheduler1'].dask_cluster_config_dir ~ '/images') is file"}
- copy: {content: "{{ {'dask-worker-0': dask_cluster_image} | to_json }}", dest: "{{ dask_cluster_config_dir }}/images"}
  when: not (inventory_hostname == 'worker2' and (state ~ '/hang') is file)
- shell: "touch {{ state }}/gone-worker2"
  delegate_to: localhost
  when: inventory_hostname == 'worker2' and (state ~ '/leave') is file and dask_cluster_image[-1] == 'b'
- shell: "touch {{ state }}/hanging; sleep 60"
  when: inventory_hostname == 'worker2' and (state ~ '/hang') is file
- fail: {msg: "{{ item }}"}
  loop: [it is not healthy]
  when: inventory_hostname == 'worker2' and (state ~ '/fail-worker-' ~ dask_cluster_image[-1]) is file
""",
    "roles/dask_worker/tasks/look.yml": """
- ping:
""",
    "roles/dask_container/tasks/prove.yml": """
- fail: {msg: "another digest runs"}
  when: inventory_hostname == 'worker1' and (state ~ '/fail-prove-' ~ dask_cluster_image[-1]) is file
""",
    "roles/dask_container/tasks/verify.yml": """
- fail: {msg: "a result is wrong"}
  when: (state ~ '/fail-verify-' ~ dask_cluster_image[-1]) is file
- copy:
    content: "{{ dask_cluster_image }} {{ workers.present | join(' ') }} / {{ workers.optional | join(' ') }}"
    dest: "{{ state }}/verified"
  vars:
    workers: "{{ dask_container_verify_workers }}"
""",
}


class Cluster:
    """Three hosts that are folders, in which an image runs when a file says so."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.state.mkdir()
        for name in ("upgrade.yml", "replace.yml"):
            self._put(f"playbooks/{name}", (ROOT / "playbooks" / name).read_text())
        shutil.copytree(ROOT / "playbooks/filter_plugins", folder / "playbooks/filter_plugins")
        shutil.copytree(ROLES / "dask_cluster", folder / "roles/dask_cluster")
        for name in ("filter_plugins", "defaults", "vars", "templates", "tasks", "meta/main.yml"):
            self._copy(f"dask_image/{name}")
        for name in ("action_plugins", "files/in_flight.py", "tasks/print.yml", "tasks/idle.yml"):
            self._copy(f"dask_container/{name}")
        for path, text in STUBS.items():
            self._put(path, text)
        # the lock has its own tests
        for name in ("lock.yml", "unlock.yml"):
            self._put(f"playbooks/{name}", "- hosts: dask_scheduler\n  gather_facts: false\n")
        note = folder / "roles/dask_image/tasks/note.yml"
        # whoever runs the tests may be no root
        note.write_text(re.sub(r" +(owner|group): root\n", "", note.read_text()))
        docker = self._put(
            "bin/docker", f"#!/bin/sh\ncat > /dev/null\necho asked >> {self.state}/asked\ncat {self.state}/flight\n"
        )
        docker.chmod(0o755)
        self.flight(IDLE)
        self._put("ansible.cfg", "[defaults]\nroles_path = roles\n")
        hosts = {
            name: {"dask_cluster_config_dir": str(folder / name), "ansible_host": "127.0.0.1", "ansible_port": 1}
            for name in HOSTS
        }
        gone = f"{{{{ 'ssh' if ('{self.state}/gone-' ~ inventory_hostname) is file else 'local' }}}}"
        general = {
            **{"ansible_connection": gone, "ansible_become": False, "ansible_python_interpreter": sys.executable},
            **{"dask_cluster_scheduler_host": "192.0.2.1", "state": str(self.state)},
            **{"dask_cluster_networks": ["192.0.2.0/24"], "dask_cluster_client_networks": ["192.0.2.0/24"]},
        }
        self._put(
            "inventory/hosts.yml",
            json.dumps(
                {
                    "dask_scheduler": {"hosts": {"scheduler1": hosts["scheduler1"]}},
                    "dask_workers": {"hosts": {name: hosts[name] for name in HOSTS[1:]}},
                }
            ),
        )
        self._put("inventory/group_vars/all/general.yml", json.dumps(general))
        self.pin(B)
        for name in HOSTS:
            kind = "dask-scheduler" if name == "scheduler1" else "dask-worker-0"
            self._put(f"{name}/images", json.dumps({kind: A}))

    def _put(self, path: str, text: str) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def _copy(self, path: str) -> None:
        source, target = ROLES / path, self.folder / "roles" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)

    def flight(self, counts: dict[str, int]) -> None:
        self._put("state/flight", json.dumps(counts))

    def fail(self, *stages: str) -> None:
        for stage in stages:
            self._put(f"state/{stage}", "")

    def mend(self) -> None:
        for file in self.state.iterdir():
            if file.name != "flight":
                file.unlink()

    def pin(self, image: str) -> None:
        self._put("inventory/group_vars/all/image.yml", f"dask_cluster_image: {image}\n")

    def pinned(self) -> str:
        text = (self.folder / "inventory/group_vars/all/image.yml").read_text()
        return str(yaml.safe_load(text)["dask_cluster_image"])

    def running(self) -> list[str]:
        found = [json.loads((self.folder / name / "images").read_text()) for name in HOSTS]
        return [image for images in found for image in images.values()]

    def note(self) -> dict[str, Any]:
        file = self.folder / "scheduler1/upgrade.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = ["ansible-playbook", "-i", "inventory", "playbooks/upgrade.yml", *arguments]
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment | {"PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_SSH_ARGS": "-o ConnectTimeout=2"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        run = self.start(*arguments)
        try:
            text, _ = run.communicate(timeout=240)
        finally:
            # on the way out of a failed test, nothing is left running
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
        return run.returncode, text


# each run is some ten seconds of Ansible
pytestmark = pytest.mark.timeout(800)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def changes(text: str) -> set[str]:
    return set(re.findall(r"changed=(\d+)", text))


def test_every_host_gets_the_image_then_nothing_is_left_to_do(cluster: Cluster) -> None:
    status, text = cluster.run("--check")
    assert status == 0, text
    assert f"worker2: dask-worker-0 would be replaced: {A} -> {B}" in text
    assert "would wait" not in text
    assert changes(text) == {"0"}
    assert cluster.running() == [A, A, A]

    status, text = cluster.run()
    assert status == 0, text
    assert re.search(rf"^upgraded: {A} -> {B}, verified; \d+ s without a verified cluster$", text, re.MULTILINE)
    assert cluster.running() == [B, B, B]
    assert set((cluster.state / "verified").read_text().split()) == {B, "worker1-0", "worker2-0", "/"}
    for name in HOSTS:
        assert json.loads((cluster.state / f"pruned-{name}").read_text()) == [B, A]
    assert cluster.note() == {}

    status, text = cluster.run()
    assert status == 0, text
    assert f"every container was made from {B} already: nothing to do" in text
    assert changes(text) == {"0"}


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        ("scheduler", "scheduler1: .*: it does not come up"),
        pytest.param("worker", "worker2: .*: it is not healthy", marks=pytest.mark.thorough),
        pytest.param("prove", "worker1: .*: another digest runs", marks=pytest.mark.thorough),
        # on nodes in molecule/lifecycle, as is a run that is killed
        pytest.param("verify", "scheduler1: .*: a result is wrong", marks=pytest.mark.thorough),
    ],
)
def test_what_fails_is_rolled_back(cluster: Cluster, stage: str, why: str) -> None:
    cluster.fail(f"fail-{stage}-b")
    status, text = cluster.run()
    assert status == 2, text
    assert re.search(rf"^the upgrade to {B} failed: {why}$", text, re.MULTILINE), text
    assert re.search(rf"^rolled back to {A}, which is pinned again and verified; \d+ s without", text, re.MULTILINE), (
        text
    )
    assert cluster.running() == [A, A, A]
    assert cluster.pinned() == A
    assert (cluster.state / "verified").read_text().split()[0] == A
    assert cluster.note() == {}
    assert not list(cluster.state.glob("pruned-*"))


def test_work_that_comes_in_the_last_moment_is_kept_where_it_is(cluster: Cluster) -> None:
    cluster.fail("busy")
    status, text = cluster.run()
    assert status == 2, text
    assert re.search(rf"^the upgrade to {B} failed: scheduler1: .*: it holds work$", text, re.MULTILINE), text
    assert f"nothing was replaced, {A} runs as before. Run upgrade.yml again when that is mended" in text
    assert (cluster.running(), cluster.pinned(), cluster.note()) == ([A, A, A], B, {})


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["pull-worker1", "smoke"])
def test_what_fails_before_the_first_replacement_changes_nothing(cluster: Cluster, stage: str) -> None:
    cluster.fail(f"fail-{stage}")
    status, text = cluster.run()
    assert status == 2, text
    assert (cluster.running(), cluster.pinned(), cluster.note()) == ([A, A, A], B, {})


@pytest.mark.thorough
def test_a_rollback_that_fails_says_so_and_is_gone_on_with(cluster: Cluster) -> None:
    cluster.fail("fail-verify-b", "fail-verify-a")
    status, text = cluster.run()
    assert status == 2, text
    assert f"the way back to {A} failed: scheduler1: " in text
    assert f"{A} is pinned again, and NOT verified: see docker logs there. Run upgrade.yml again" in text
    assert cluster.pinned() == A
    assert cluster.note()["from"] == A
    cluster.mend()
    status, text = cluster.run()
    assert status == 0, text
    assert (cluster.running(), cluster.note()) == ([A, A, A], {})


@pytest.mark.thorough
def test_a_host_that_goes_away_has_the_others_rolled_back(cluster: Cluster) -> None:
    cluster.fail("leave")
    status, text = cluster.run()
    assert status in (2, 4, 6), text
    assert f"the upgrade to {B} failed: worker2 does not answer any more" in text
    assert "worker2: left as it was. Run upgrade.yml again when it answers" in text
    assert cluster.running() == [A, A, B]
    assert (cluster.state / "verified").read_text().split() == [A, "worker1-0", "/", "worker2-0"]
    assert (cluster.pinned(), cluster.note()["from"]) == (A, A)
    cluster.mend()
    status, text = cluster.run()
    assert status == 0, text
    assert (cluster.running(), cluster.note()) == ([A, A, A], {})


@pytest.mark.thorough
@pytest.mark.parametrize("broken", [False, True])
def test_a_run_that_was_killed_is_gone_on_with(cluster: Cluster, broken: bool) -> None:
    cluster.fail("hang")
    run = cluster.start()
    end = time.monotonic() + 60
    while not (cluster.state / "hanging").exists():
        assert time.monotonic() < end
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert cluster.running() == [B, B, A]
    noted = cluster.note()
    assert (noted["from"], noted["to"]) == (A, B)
    cluster.mend()
    if broken:
        cluster.fail("fail-verify-b")
    status, text = cluster.run()
    assert status == (2 if broken else 0), text
    assert cluster.running() == [A if broken else B] * 3
    assert (cluster.pinned(), cluster.note()) == (A if broken else B, {})
    # from the first run on
    seconds = int(re.findall(r"(\d+) s without a verified cluster", text)[0])
    assert seconds >= 2


@pytest.mark.thorough
def test_a_way_back_that_was_killed_goes_on_whatever_the_failed_image_has(cluster: Cluster) -> None:
    (cluster.folder / "scheduler1/images").write_text(json.dumps({"dask-scheduler": B}))
    (cluster.folder / "scheduler1/upgrade.json").write_text(json.dumps({"from": A, "to": B, "since": 1}))
    cluster.pin(A)
    cluster.flight({"tasks": 12, "processing": 3, "bytes": 4096, "clients": 1})
    cluster.fail("busy")
    status, text = cluster.run()
    assert status == 0, text
    assert (cluster.running(), cluster.pinned(), cluster.note()) == ([A, A, A], A, {})


def test_work_in_flight_is_waited_for_and_kept_or_given_up(cluster: Cluster) -> None:
    cluster.flight({"tasks": 12, "processing": 3, "bytes": 4096, "clients": 1})
    said = "the cluster has 12 tasks or stored keys (4096 bytes), of which 3 processing, and 1 clients"
    status, text = cluster.run("-e", "hostnet_upgrade_wait=15")
    assert status == 2, text
    waiting = re.escape(f"scheduler1: {said}; waiting ")
    assert re.search(rf"^{waiting}([1-9]|1[0-5]) s more at most$", text, re.MULTILINE), text
    assert f"{said} after 15 s. Nothing was replaced." in " ".join(text.split())
    assert (cluster.running(), cluster.note()) == ([A, A, A], {})
    # at once, after ten seconds and at the end; a slow machine may come to one less
    assert 2 <= len((cluster.state / "asked").read_text().split()) <= 3
    cluster.fail("forced")
    status, text = cluster.run("-e", "hostnet_upgrade_wait=0", "-e", "hostnet_upgrade_busy=force")
    assert status == 0, text
    assert f"scheduler1: {said} after 0 s: LOST, as it was asked for" in text
    assert cluster.running() == [B, B, B]


@pytest.mark.parametrize(
    ("arguments", "would"),
    [
        ([], "600 s at most, and then fail"),
        pytest.param(
            ["-e", "hostnet_upgrade_wait=0", "-e", "hostnet_upgrade_busy=force"],
            "0 s at most, and then lose what is left",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_rehearsal_says_what_is_in_flight_and_what_would_be_done(
    cluster: Cluster, arguments: list[str], would: str
) -> None:
    cluster.flight({"tasks": 12, "processing": 3, "bytes": 4096, "clients": 1})
    status, text = cluster.run("--check", *arguments)
    assert status == 0, text
    said = "the cluster has 12 tasks or stored keys (4096 bytes), of which 3 processing, and 1 clients"
    assert text.splitlines().count(f"scheduler1: {said}; would wait {would}") == 1, text
    assert (changes(text), cluster.running(), cluster.note()) == ({"0"}, [A, A, A], {})


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--limit", "scheduler1,worker1"], "--limit leaves out worker2: all hosts are upgraded together"),
        (["-e", "hostnet_upgrade_busy=lose"], "hostnet_upgrade_busy is 'lose', it must be abort or force"),
        (["-e", f"dask_cluster_image={B}"], "dask_cluster_image is given with -e"),
    ],
)
def test_what_cannot_be_meant_is_refused(cluster: Cluster, arguments: list[str], says: str) -> None:
    status, text = cluster.run(*arguments)
    assert status == 2, text
    assert says in " ".join(text.split())
    assert cluster.running() == [A, A, A]


def test_a_reference_that_a_rollback_could_not_write_is_refused(cluster: Cluster) -> None:
    # whoever runs the tests may be root, who may write everything
    cluster._put("bin/test", "#!/bin/sh\nexit 1\n").chmod(0o755)
    status, text = cluster.run()
    assert status == 2, text
    file = cluster.folder / "inventory/group_vars/all/image.yml"
    assert f"{file}: {getuser()} may not write it or its folder" in " ".join(text.split())
    assert cluster.running() == [A, A, A]


@pytest.mark.thorough
def test_a_host_that_is_silent_is_refused(cluster: Cluster) -> None:
    cluster.fail("gone-worker2")
    status, text = cluster.run()
    assert status != 0, text
    assert "worker2 does not answer: all hosts are upgraded together" in " ".join(text.split())
    assert cluster.running() == [A, A, A]


@pytest.fixture(scope="module")
def filters() -> ModuleType:
    return load(ROLES / "dask_image/filter_plugins/dask_image.py")


def looks(images: list[str], note: dict[str, Any] | None = None) -> dict[str, Any]:
    names = ["dask-scheduler", "dask-worker-0", "dask-worker-0"]
    return {
        host: {"containers": {name: image} if image else {}, "note": (note or {}) if host == "scheduler1" else {}}
        for host, name, image in zip(HOSTS, names, images, strict=True)
    }


@pytest.mark.parametrize(
    ("images", "note", "back", "needed"),
    [
        ([A, A, A], None, A, True),
        ([B, B, B], None, B, False),
        # a host that was away while the others were upgraded: they are verified, and do not go back to what it has
        ([B, B, A], None, B, True),
        # killed after the last replacement: what runs is not what to go back to
        ([B, B, B], {"from": A, "to": B, "since": 1}, A, True),
        # killed between the old scheduler and the new
        (["", A, A], {"from": A, "to": B, "since": 1}, A, True),
    ],
)
def test_the_way_back_leads_to_what_was_verified(
    filters: ModuleType, images: list[str], note: dict[str, Any] | None, back: str, needed: bool
) -> None:
    plan = filters.dask_image_plan(looks(images, note), "scheduler1", B)
    assert (plan["from"], plan["needed"], plan["runs"]) == (back, needed, True)


@pytest.mark.parametrize(
    ("images", "note", "resumes_back", "unverified"),
    [
        ([A, A, A], None, False, False),
        ([A, A, A], {"from": A, "to": B, "since": 1}, False, False),
        ([B, A, A], {"from": A, "to": B, "since": 1}, False, True),
        (["", A, A], {"from": A, "to": B, "since": 1}, False, False),
        # it came as far as pinning the one before
        ([A, A, B], {"from": B, "to": A, "since": 1}, True, True),
        ([B, B, A], {"from": B, "to": A, "since": 1}, False, False),
    ],
)
def test_what_nobody_verified_keeps_nothing_waiting(
    filters: ModuleType, images: list[str], note: dict[str, Any] | None, resumes_back: bool, unverified: bool
) -> None:
    plan = filters.dask_image_plan(looks(images, note), "scheduler1", B)
    assert (plan["resumes_back"], plan["unverified"]) == (resumes_back, unverified)


def test_only_a_scheduler_that_nobody_verified_has_nothing_when_it_is_silent() -> None:
    told = load(ROLES / "dask_container/action_plugins/dask_container_idle.py").told
    silent = {"rc": 1, "stderr": "timed out"}
    assert not told(silent)[0]
    assert told(silent, silent=True)[0]
    busy = {"rc": 0, "stdout": json.dumps({"tasks": 1, "processing": 0, "bytes": 1, "clients": 0})}
    assert not told(busy, silent=True)[0]


def test_without_a_scheduler_there_is_no_cluster(filters: ModuleType) -> None:
    assert not filters.dask_image_plan(looks(["", A, A]), "scheduler1", B)["runs"]


def test_a_failed_loop_says_what_its_items_say(filters: ModuleType) -> None:
    items = [
        {"failed": False, "msg": "fine"},
        {"failed": True, "msg": "one\nline"},
        {"failed": True, "msg": "one\nline"},
    ]
    assert filters.dask_image_error({"msg": "One or more items failed", "results": items}, "Run") == "Run: one line"


class Engine:
    """What the modules ask of an engine."""

    def __init__(self, answers: dict[str, Any], status: Callable[[str], int] = lambda _: 200) -> None:
        self.answers, self.status, self.deleted = answers, status, []
        self.last = ""

    def ask(self, path: str) -> Any:
        return self.answers[path]

    def request(self, _: str, path: str) -> None:
        self.last = path.removeprefix("/images/")
        self.deleted.append(self.last)

    def getresponse(self) -> Any:
        engine = self

        class Answer:
            status = engine.status(engine.last)

            def read(self) -> bytes:
                return b'{"message": "no"}'

        return Answer()


@pytest.fixture
def images() -> dict[str, Any]:
    ours = "192.0.2.1:5000/dask"
    listed = [
        {"Id": "new", "RepoDigests": [B], "RepoTags": None},
        {"Id": "before", "RepoDigests": [A], "RepoTags": [f"{ours}:1"]},
        {"Id": "old", "RepoDigests": [f"{ours}@sha256:c", "copy/dask@sha256:c"], "RepoTags": [f"{ours}:2", "mine:1"]},
        {"Id": "used", "RepoDigests": [f"{ours}@sha256:d"], "RepoTags": []},
        {"Id": "other", "RepoDigests": ["192.0.2.1:5000/daskother@sha256:e"], "RepoTags": ["busybox:latest"]},
        {"Id": "nameless", "RepoDigests": [], "RepoTags": []},
    ]
    return {"/containers/json?all=1": [{"ImageID": "used"}], "/images/json": listed}


def test_only_our_older_images_go(images: dict[str, Any]) -> None:
    engine = ROLES / "dask_cluster/module_utils/dask_cluster_engine.py"
    module = load(ROLES / "dask_image/library/dask_image_prune.py", engine)
    prune = module.prune
    gone = ["192.0.2.1:5000/dask:2", "192.0.2.1:5000/dask@sha256:c"]
    paper = Engine(images)
    assert prune(paper, [B, A], True) == gone
    assert paper.deleted == []
    assert prune(paper, [B, A], False) == gone
    assert paper.deleted == gone
    # the last tag took the digest with it
    assert prune(Engine(images, lambda path: 404 if "@" in path else 200), [B, A], False) == gone[:1]
    with pytest.raises(OSError, match="500 no"):
        prune(Engine(images, lambda _: 500), [B, A], False)
    # those that are named go, but what a container has
    paper = Engine(images, lambda path: 409 if path == A else 200)
    assert module.gone(paper, [A, B], True) == [A, B]
    assert paper.deleted == []
    assert module.gone(paper, [A, B], False) == [B]


def test_the_registry_forgets_what_is_not_kept(tmp_path: Path) -> None:
    module = load(ROLES / "dask_image/library/dask_image_forget.py")
    marker = tmp_path / "data" / "registry-garbage"

    class Registry:
        def __init__(self) -> None:
            self.deleted: list[str] = []

        def tags(self) -> dict[str, str]:
            return {"1": "a", "2": "b", "3": "c", "from-3": "c"}

        def delete(self, digest: str) -> None:
            assert marker.exists(), "a run that is killed here would leave the layers"
            self.deleted.append(digest)

    registry = Registry()
    assert module.forget(registry, ["a", "b"], marker, True) == ["3", "from-3"]
    assert module.forget(registry, ["a", "b", "c"], marker, False) == []
    assert not marker.exists()
    assert module.forget(registry, ["a", "b"], marker, False) == ["3", "from-3"]
    assert registry.deleted == ["c"]
