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
