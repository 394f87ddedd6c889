"""An image's bill of materials and audit: what is read from it, what is written down, what is said of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from loading import load

ROOT = Path(__file__).parents[1]
ROLE = ROOT / "roles/dask_image"
REFERENCE = f"dask@sha256:{'1' * 64}"
HELD: dict[str, Any] = {
    "system": {"ID": "debian", "VERSION_ID": "12"},
    "debian": [{"name": "libstdc++6", "version": "1:12.2.0-14", "architecture": "amd64"}],
    "python": [
        [
            ("Metadata-Version", "2.4"),
            ("Name", "distributed"),
            ("Version", "2026.8.0"),
            ("License-Expression", "BSD-3-Clause"),
            ("Requires-Dist", "zict>=3"),
            ("Requires-Dist", "pytz>dev"),
        ],
        [("Metadata-Version", "2.1"), ("Name", "zict"), ("Version", "3.0.0")],
    ],
}


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    return load(ROLE / "library/dask_image_sbom.py")


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    return load(ROLE / "library/dask_image_audit.py")


@pytest.fixture(scope="module")
def document(sbom: ModuleType) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(sbom.document_of(REFERENCE, HELD))
    return parsed


def test_every_package_is_read_in_the_way_of_the_image() -> None:
    """As it runs in a container: from standard input, by any Python."""
    code = (ROLE / "files/packages.py").read_text()
    found = json.loads(
        subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True).stdout
    )
    read = {fields["Name"]: fields["Version"] for fields in map(dict, found["python"])}
    assert read == {each.metadata["Name"]: each.version for each in distributions()}
    assert all(len(value) <= 400 for fields in found["python"] for _, value in fields)


def test_the_bill_names_the_image_and_every_package(document: dict[str, Any]) -> None:
    assert document["metadata"]["component"]["version"] == REFERENCE.partition("@")[2]
    assert [each["purl"] for each in document["components"]] == [
        "pkg:pypi/distributed@2026.8.0",
        "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14?arch=amd64&distro=debian-12",
        "pkg:pypi/zict@3.0.0",
    ]
    needs = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert needs["distributed==2026.8.0"] == ["zict==3.0.0"]
    assert document["components"][0]["licenses"][0]["license"]["id"] == "BSD-3-Clause"


def test_one_image_has_one_text(sbom: ModuleType, tmp_path: Path) -> None:
    text = sbom.document_of(REFERENCE, HELD)
    other = sbom.document_of(f"dask@sha256:{'2' * 64}", HELD)
    assert "timestamp" not in text
    assert json.loads(text)["serialNumber"] != json.loads(other)["serialNumber"]
    path = tmp_path / "sbom" / "one.json"
    assert sbom.write(path, text)
    assert not sbom.write(path, sbom.document_of(REFERENCE, HELD))
    assert [each.name for each in path.parent.iterdir()] == ["one.json"]


def test_what_does_not_follow_the_schema_is_not_written(sbom: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom.uuid, "uuid5", lambda *_: "no-uuid")
    with pytest.raises(ValueError, match="no-uuid"):
        sbom.document_of(REFERENCE, HELD)


def test_the_audit_asks_of_the_python_packages_alone(audit: ModuleType, document: dict[str, Any]) -> None:
    assert audit.pinned(document) == ["distributed==2026.8.0", "zict==3.0.0"]


CLEAN = {"name": "zict", "version": "3.0.0", "vulns": []}
BAD = {
    "name": "dask",
    "version": "1",
    "vulns": [
        {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2", "3"]},
        {"id": "PYSEC-2", "fix_versions": []},
    ],
}
SKIPPED = {"name": "dask", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "lines", "unknown"),
    [
        ([CLEAN, CLEAN], [], ""),
        (
            [CLEAN, BAD],
            [
                "the image's dask 1 is vulnerable: PYSEC-1, CVE-1; fixed in 2, 3",
                "the image's dask 1 is vulnerable: PYSEC-2; no version is known that fixes it",
            ],
            "",
        ),
        # pip-audit calls both of these clean
        ([CLEAN, SKIPPED], [], "nothing is known there of 1 of 2 packages"),
        ([CLEAN], [], "only 1 of 2 packages were looked at"),
    ],
)
def test_only_what_was_looked_up_counts_as_clean(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    dependencies: list[dict[str, Any]],
    lines: list[str],
    unknown: str,
) -> None:
    told = subprocess.CompletedProcess([], 1, json.dumps({"dependencies": dependencies}), "")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: told)
    assert audit.ask(["zict==3.0.0", "dask==1"], 20) == (lines, unknown)


def test_an_audit_that_is_not_answered_says_why(audit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # refused at once: nothing of this leaves the machine
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    lines, why = audit.ask(["zict==3.0.0"], 120)
    assert lines == []
    assert "Unable to connect to proxy" in why
    assert audit.ask(["zict==3.0.0"], 0.01)[1] == "no answer within 0.01 s"


def test_an_engine_that_only_builds_keeps_the_new_image_and_what_runs(tmp_path: Path) -> None:
    for name in ("dask_image", "dask_cluster"):
        shutil.copytree(ROOT / "roles" / name, tmp_path / "roles" / name)
    kept = '- copy: {content: "{{ dask_image_keep | to_json }}", dest: "{{ inventory_dir }}/{{ inventory_hostname }}"}'
    (tmp_path / "roles/dask_image/tasks/prune.yml").write_text(kept)
    (play,) = [
        play | {"become": False, "tasks": tasks}
        for play in yaml.safe_load((ROOT / "playbooks/image.yml").read_text())
        if (tasks := [task for task in play.get("tasks", []) if "prune.yml" in str(task)])
    ]
    (tmp_path / "playbook.yml").write_text(yaml.safe_dump([play]))
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "dask_cluster_scheduler_host": "192.0.2.11",
        "dask_cluster_networks": ["192.0.2.0/24"],
        "dask_cluster_client_networks": ["192.0.2.0/24"],
        "dask_cluster_registry": "192.0.2.31:5000",
        "dask_cluster_image": f"192.0.2.11:5000/{REFERENCE}",
        "__dask_image_manifest": {"status": 200, "docker_content_digest": "sha256:2"},
        # the scheduler's host, as it is asked
        "__dask_image_look": {"answers": True, "held": ["sha256:1"]},
    }
    inventory = {
        "all": {"vars": variables},
        "dask_scheduler": {"hosts": {"head": {}}},
        "dask_workers": {"hosts": {"one": {}}},
        "dask_registry": {"hosts": {"head": {}, "one": {}, "store": {}}},
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", "hosts.yml", "playbook.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "store").read_text()) == [
        "192.0.2.31:5000/dask@sha256:1",
        "192.0.2.31:5000/dask@sha256:2",
        f"192.0.2.11:5000/{REFERENCE}",
    ]
    # upgrade.yml sees to those
    assert not any((tmp_path / name).exists() for name in ("head", "one"))
