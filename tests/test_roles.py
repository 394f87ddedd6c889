"""Contracts of the roles: what the specs promise, and what no role may reach for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
SOURCES = sorted(
    path for role in ROLES for path in role.rglob("*") if path.suffix in {".yml", ".j2"} and path.parent.name != "meta"
)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else None


def spec_options(role: Path) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for entry in load(role / "meta/argument_specs.yml")["argument_specs"].values():
        options |= entry.get("options", {})
    return options


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_spec_documents_exactly_the_defaults(role: Path) -> None:
    defaults = load(role / "defaults/main.yml") or {}
    options = spec_options(role)
    assert {name: option["default"] for name, option in options.items() if "default" in option} == defaults
    for name, option in options.items():
        assert option["description"], f"{name} has no description"
        assert name.startswith(f"{role.name}_"), f"{name} does not live in {role.name}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_is_commented(role: Path) -> None:
    lines = (role / "defaults/main.yml").read_text().splitlines()
    commented = False
    for line in lines:
        if not line.strip():
            commented = False
        elif line.startswith("#"):
            commented = True
        elif re.match(r"\w", line):
            assert commented, f"no comment above {line}"


def test_the_shared_vocabulary_stays_small() -> None:
    assert len(spec_options(ROOT / "roles/dask_cluster")) <= 30


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_roles_reach_for_nothing_outside_their_host(source: Path) -> None:
    code = "\n".join(line for line in source.read_text().splitlines() if not line.lstrip().startswith("#"))
    code = code.replace("hostvars[inventory_hostname]", "")
    for forbidden in (r"\bgroups\[", r"\bhostvars\[", r"\bset_fact\b", r"\binsecure-registries\b"):
        assert not re.search(forbidden, code), f"{forbidden} in {source}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_roles_share_only_the_vocabulary(role: Path) -> None:
    """A role's files use names of its own, of dask_cluster, and of the one role that it calls."""
    calls = {"dask_scheduler": {"dask_container"}, "dask_worker": {"dask_container"}}.get(role.name, set())
    allowed = {role.name, "dask_cluster"} | calls
    names = {other.name for other in ROLES}
    for source in (path for path in SOURCES if role in path.parents):
        code = "\n".join(line for line in source.read_text().splitlines() if not line.startswith("#"))
        for name in re.findall(r"\b_*(dask_[a-z]+)_\w+", code):
            assert name not in names or name in allowed, f"{source} uses a name of {name}"


def test_only_one_task_creates_containers() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if re.search(r"docker_container:[\s\S]*?image:", path.read_text())
    ]
    assert found == ["roles/dask_container/tasks/converge.yml"]


def test_no_file_names_a_package_mirror() -> None:
    hosts = re.compile(r"(pypi|pythonhosted|debian|npmjs)\.(org|io|com|net)\b")
    # what else lies here comes and goes beside the tests
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for path in (ROOT / name for name in files if name):
        if path.suffix in {".txt", ".yml", ".j2", ".sh", ".toml", ".cfg"} and path.is_file():
            for line in path.read_text().splitlines():
                assert not hosts.search(line), f"{path}: {line}"


def test_the_list_of_variables_is_current() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts/variables.py"), "--check"], check=False)
    assert done.returncode == 0
