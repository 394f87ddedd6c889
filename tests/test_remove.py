"""What is taken away: all that a role makes on a host, nothing that was there before, and only when it is said."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from loading import load

ROOT = Path(__file__).parents[1]
ROLES = ROOT / "roles"
# the roles that change hosts by files; the others make none, or hand theirs to dask_container
MAKERS = sorted(path.parents[1].name for path in ROLES.glob("*/tasks/remove.yml"))
SHARED = yaml.safe_load((ROLES / "dask_cluster/defaults/main.yml").read_text())
FOLDERS = {SHARED["dask_cluster_config_dir"], SHARED["dask_cluster_data_dir"]}
# parents that others use too, and what a package brings
COMMON = {"/etc/docker", *FOLDERS}


def known(role: str) -> dict[str, str]:
    """The texts among a role's variables."""
    found: dict[str, Any] = dict(SHARED)
    for folder in ("defaults", "vars"):
        path = ROLES / role / folder / "main.yml"
        found |= (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def expand(text: str, names: dict[str, str]) -> str:
    for _ in range(5):
        text = re.sub(r"\{\{ (\w+)(?: \| string)? \}\}", lambda m: names.get(m[1], m[0]), text)
        text = re.sub(
            r"\{\{ (\w+) \| dirname \}\}", lambda m: str(Path(names[m[1]]).parent) if m[1] in names else m[0], text
        )
    return text


def tasks(listed: list[dict[str, Any]], here: bool = True) -> Iterator[dict[str, Any]]:
    """Each task that works on the host itself."""
    for task in listed:
        on_host = here and task.get("delegate_to") != "localhost"
        if "block" in task:
            for part in ("block", "rescue", "always"):
                yield from tasks(task.get(part, []), on_host)
        elif on_host:
            yield task


def made(role: str) -> set[str]:
    """Paths that a role's tasks make on a host, up to where only a run knows more."""
    names, found = known(role), set[str]()
    for file in (ROLES / role / "tasks").glob("*.yml"):
        if file.stem in {"remove", "rehearse"}:
            continue
        for task in tasks(yaml.safe_load(file.read_text()) or []):
            for module in ("file", "copy", "template"):
                arguments = task.get(f"ansible.builtin.{module}", {})
                if arguments.get("state") in {"absent", "touch"} or not arguments:
                    continue
                path = arguments.get("dest") or arguments["path"]
                loop = task.get("loop", [""])
                if not isinstance(loop, list):
                    # what a loop of a run's own names; what stands before that is known
                    loop = ["{{ only a run knows }}"]
                for item in loop:
                    given = item if isinstance(item, dict) else {}
                    text = re.sub(r"\{\{ item\.(\w+) \}\}", lambda m, given=given: given.get(m[1], "{{ ? }}"), path)
                    text = text.replace("{{ item }}", item if isinstance(item, str) else "")
                    text = expand(text, names)
                    found.add(re.sub(r"/?(\{\{.*)?$", "", text))
    return {path for path in found if path.startswith("/")}


def named(role: str) -> set[str]:
    """Paths that a role's remove.yml names, itself or by its variables."""
    names = known(role)
    text = expand((ROLES / role / "tasks/remove.yml").read_text(), names)
    words = {expand(names[word], names) for word in re.findall(r"\w+", text) if word in names}
    # [a, b] | map('regex_replace', '^', folder ~ '/') and folder ~ '/a'
    joined = {
        f"{expand(names[folder], names)}/{leaf}"
        for line in text.splitlines()
        for folder in re.findall(r"(\w+) ~ '/", line)
        if folder in names
        for leaf in re.findall(r"'/?([\w./-]+)'", line)
    }
    parents = {expand(names[word], names).rpartition("/")[0] for word in re.findall(r"(\w+) \| dirname", text)}
    literal = {path.rstrip("/") for path in re.findall(r"(?<!\w)/[\w./-]+", text)}
    return {path for path in words | joined | parents | literal if path.startswith("/")} - COMMON


@pytest.mark.parametrize("role", MAKERS)
def test_all_that_a_role_makes_is_taken_away(role: str) -> None:
    covered = named(role)
    left = {
        path for path in made(role) - COMMON if not any(path == each or path.startswith(f"{each}/") for each in covered)
    }
    assert left == set()


def test_the_contract_sees_what_roles_make() -> None:
    assert "/etc/dask-hostnet/tls" in made("dask_tls")
    assert "/etc/dask-hostnet/handover/workers.py" in made("dask_worker")
    assert "/etc/systemd/system/docker-registry.service.d/dask-hostnet.conf" in made("dask_registry")
    assert {"/etc/docker/daemon.json", "/etc/dask-hostnet/before.json"} <= made("dask_docker")


@pytest.mark.parametrize("playbook", ["remove.yml", "reset.yml"])
def test_every_role_that_has_something_to_take_away_is_asked(playbook: str) -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / playbook).read_text())
    loops = [task["loop"] for play in plays for task in play.get("tasks", []) if "loop" in task]
    assert len(loops) == 1
    assert sorted(loops[0]) == MAKERS
    order = {role: place for place, role in enumerate(loops[0])}
    # containers first; what tells ours from others' before it goes; the note of what was there last
    assert order["dask_container"] == 0
    assert order["dask_image"] < order["dask_tls"]
    assert loops[0][-1] == "dask_docker"


def test_packages_that_roles_install_are_taken_away() -> None:
    for role in MAKERS:
        installed = set[str]()
        for file in (ROLES / role / "tasks").glob("*.yml"):
            for task in tasks(yaml.safe_load(file.read_text()) or []):
                name = task.get("ansible.builtin.apt", {}).get("name", "")
                installed |= set(re.findall(r"\b(?!if\b|else\b)[a-z_]*packages\b|^[a-z-]+$", name))
        text = (ROLES / role / "tasks/remove.yml").read_text()
        assert {name for name in installed if name not in text} == set()


# --- the modules


def module(path: str) -> Any:
    """Load a role's module that asks the engine."""
    return load(ROLES / path, ROLES / "dask_cluster/module_utils/dask_cluster_engine.py")


@pytest.fixture
def absent() -> Any:
    return load(ROLES / "dask_cluster/library/dask_cluster_absent.py").absent


def test_files_and_folders_go_and_what_is_not_ours_stays(absent: Any, tmp_path: Path) -> None:
    (tmp_path / "ours/deep").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/theirs").touch()
    (tmp_path / "shared/mine").touch()
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    (tmp_path / "nowhere").symlink_to("/no/such")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/mine").touch()
    paths = [str(tmp_path / name) for name in ("ours", "shared/mine", "link", "nowhere", "bare/mine", "never")]
    empty = [str(tmp_path / name) for name in ("shared", "bare", "never")]
    before = sorted(tmp_path.rglob("*"))
    foreseen = absent(paths, empty, check=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert absent(paths, empty, check=False) == foreseen
    assert foreseen == ([*paths[:-1], str(tmp_path / "bare")], [str(tmp_path / "shared")])
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "shared", tmp_path / "shared/theirs"]
    assert absent(paths, empty, check=False) == ([], [str(tmp_path / "shared")])
    # whatever is in it
    assert absent([], ["/", "/srv", "/srv/"], check=True) == ([], ["/", "/srv", "/srv/"])


@pytest.mark.parametrize(
    ("note", "needed", "expected"),
    [
        (None, {}, ([], {"nginx": "it is not known whether it was there before"})),
        ({"known": False}, {}, ([], {"nginx": "it is not known whether it was there before"})),
        ({"known": True, "packages": ["nginx"]}, {}, ([], {"nginx": "it was there before"})),
        ({"known": True, "packages": ["theirs"]}, {}, (["nginx", "nginx-common"], {})),
        ({"known": True, "packages": ["nginx-common"]}, {}, (["nginx"], {})),
        ({"known": True, "packages": []}, {"munin"}, ([], {"nginx": "it is needed by munin"})),
    ],
)
def test_packages_go_that_came_with_us(note: Any, needed: set[str], expected: tuple[list[str], dict[str, str]]) -> None:
    plan = load(ROLES / "dask_cluster/library/dask_cluster_purge.py").plan

    def simulate(*words: str) -> set[str]:
        if words == ("autoremove",):
            return {"long-unneeded"}
        along = {"nginx-common", "long-unneeded"} if "--auto-remove" in words else set()
        return {"nginx", *needed, *along}

    assert plan(["nginx", "absent"], note, {"nginx", "nginx-common", "theirs"}, simulate) == expected


@pytest.mark.parametrize(
    ("found", "before", "expected"),
    [
        ({"log-driver": "json-file", "log-opts": {"max-file": "3"}}, None, {}),
        # somebody's since
        ({"log-driver": "journald", "log-opts": {"max-file": "3", "tag": "x"}, "debug": True}, None, "same"),
        # somebody's before, the same as ours
        ({"log-driver": "json-file", "log-opts": {"max-file": "3"}}, {"log-driver": "json-file"}, "before"),
        ({"log-opts": {"max-file": "3", "tag": "x"}}, {"log-opts": {"tag": "x"}}, "before"),
        ({"log-opts": {"max-file": "3"}}, {"log-opts": {}}, "before"),
    ],
)
def test_the_engines_settings_are_what_they_were(found: Any, before: Any, expected: Any) -> None:
    restore = load(ROLES / "dask_docker/filter_plugins/dask_docker.py").dask_docker_restore
    ours = {"log-driver": "json-file", "log-opts": {"max-file": "3"}}
    if expected == "same":
        expected = {"log-driver": "journald", "log-opts": {"tag": "x"}, "debug": True}
    assert restore(found, ours, before) == (before if expected == "before" else expected)


def test_images_are_ours_by_registry_or_label() -> None:
    references = module("dask_image/library/dask_image_ours.py").references
    images = [
        {"Id": "1", "RepoTags": ["r:5000/dask:1", "theirs:1"], "RepoDigests": ["r:5000/dask@sha256:1"], "Labels": None},
        {"Id": "2", "RepoTags": ["<none>:<none>"], "Labels": {"io.dask-hostnet.stage": "build"}},
        {"Id": "3", "RepoTags": ["old:5000/dask:1"], "Labels": {"io.dask-hostnet.inputs": "x"}},
        {"Id": "4", "RepoTags": ["postgres:16"], "Labels": {"io.dask-hostnet.nodes": "lab"}},
        {"Id": "5", "RepoTags": None, "RepoDigests": ["<none>@<none>"]},
    ]
    assert references(images, {"r:5000"}) == ["r:5000/dask:1", "r:5000/dask@sha256:1", "2", "old:5000/dask:1"]


def test_trust_is_ours_by_the_ca(tmp_path: Path) -> None:
    trusts = module("dask_image/library/dask_image_ours.py").trusts
    for name, content in {"new:5000": "rotated", "old:5000": "ours\n", "theirs:5000": "another"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_text(content)
    assert trusts(tmp_path, "ours", "new:5000") == ["new:5000", "old:5000"]
    assert trusts(tmp_path, "", "new:5000") == ["new:5000"]


class Engine:
    """An engine on paper: some of ours, some of others; what it is told to remove is kept."""

    def __init__(self) -> None:
        self.removed = list[str]()

    def ask(self, path: str) -> Any:
        ours = {"io.dask-hostnet.cluster": "x", "io.dask-hostnet.kind": "dask-worker"}
        containers = [
            {"Id": "1", "Names": ["/dask-worker-0"], "Labels": ours, "State": "running"},
            {"Id": "2", "Names": ["/lab"], "Labels": {"io.dask-hostnet.kind": "bookworm-bare"}, "State": "running"},
        ]
        if path.startswith("/images"):
            return [{"RepoTags": ["r:5000/dask:1", "theirs:1"], "Labels": None}, {"RepoTags": ["<none>:<none>"]}]
        if path == "/volumes":
            return {"Volumes": None}
        return [each for each in containers if "filters" not in path or ("cluster" in path and each["Id"] == "1")]


def test_containers_are_ours_by_label_and_the_nodes_of_tests_are_not() -> None:
    ours = module("dask_container/library/dask_container_remove.py").ours
    assert [each["Name"] for each in ours(Engine(), "")] == ["dask-worker-0"]
    assert ours(Engine(), "dask-scheduler") == []


def test_what_is_not_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    look = module("dask_docker/library/dask_docker_look.py")
    monkeypatch.setattr(look, "Engine", Engine)
    assert look.foreign("r:5000") == ["container lab", "image theirs:1"]


def test_what_was_there_is_noted_once(tmp_path: Path) -> None:
    look = module("dask_docker/library/dask_docker_look.py")
    config = tmp_path / "daemon.json"
    assert look.before(str(config), is_ours=True) == {"known": False}
    assert look.before(str(config), is_ours=False)["config"] is None
    config.write_text('{"debug": true}')
    found = look.before(str(config), is_ours=False)
    assert found["known"] is True
    assert found["config"] == {"debug": True}
    assert {"dpkg", "apt"} <= set(found["packages"])


# --- what is refused, before anything is touched

INVENTORY = """
dask_scheduler: {hosts: {head: {}}}
dask_registry: {children: {dask_scheduler: {}}}
dask_workers: {hosts: {one: {}, two: {}}}
all:
  vars:
    ansible_connection: local
    ansible_become: false
    ansible_python_interpreter: PYTHON
    dask_cluster_name: proof
    dask_cluster_scheduler_host: 192.0.2.11
    dask_cluster_networks: [192.0.2.0/24]
    dask_cluster_client_networks: [192.0.2.0/24]
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("remove.yml", "say which hosts: --limit worker3"),
        ("remove.yml --limit head", "head is in dask_scheduler or dask_registry: write another host there"),
        ("remove.yml --limit one -e dask_worker_host_is_dead=true", "one answers: run it without"),
        ("reset.yml", "this ends the cluster proof and all that it holds: -e hostnet_reset_confirm=proof"),
        ("reset.yml -e hostnet_reset_confirm=lab", "-e hostnet_reset_confirm=proof, not lab"),
        ("reset.yml -e hostnet_reset_confirm=proof --limit one", "reset.yml is about all hosts"),
    ],
)
def test_it_is_refused(tmp_path: Path, arguments: str, said: str) -> None:
    addresses = {"head": "192.0.2.11", "one": "192.0.2.21", "two": "192.0.2.22"}
    text = INVENTORY.replace("PYTHON", sys.executable)
    for name, address in addresses.items():
        text = text.replace(f"{name}: {{}}", f"{name}: {{ansible_host: {address}}}")
    (tmp_path / "hosts.yml").write_text(text)
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "hosts.yml", "--check"]
    name, *rest = arguments.split()
    done = subprocess.run(
        [*command, f"playbooks/{name}", *rest], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode != 0
    assert said in " ".join(done.stdout.split()), done.stdout
    assert not re.search(r"changed=[1-9]", done.stdout)
