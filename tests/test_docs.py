"""What the documentation says of the repository is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs/security.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    folders = (ROOT / "tests", ROOT / "molecule")
    sources = {path.name: path.read_text(encoding="utf-8") for top in folders for path in top.rglob("test_*.py")}
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in sources.get(file, "")]
    assert missing == []


def test_every_playbook_that_a_command_names_is_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"\bplaybooks/\w+\.yml", page.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_variable_that_operations_names_is_somebodys() -> None:
    known = "\n".join(
        path.read_text(encoding="utf-8")
        for top in ("roles", "playbooks", "inventory/example")
        for path in (ROOT / top).rglob("*.yml")
    )
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    named = set(
        re.findall(
            r"\b(?:hostnet|dask_(?:cluster|worker|scheduler|image|docker|container|preflight|patch|tls|collect))_\w+",
            text,
        )
    )
    assert len(named) > 40
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", known)] == []
