"""Write docs/variables.md from the roles' argument specs: `python scripts/variables.py [--check]`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs/variables.md"
HEAD = """# Variables

Generated from the roles' argument specs by `make docs`; edit those. Write a variable into the inventory's
`group_vars` or `host_vars`. A variable without a default must be given.
"""


def text(value: str | list[str]) -> str:
    """Turn a spec's description, a string or a list of them, into one line of Markdown."""
    joined = value if isinstance(value, str) else " ".join(value)
    return re.sub(r"\b[CIBV]\(([^)]*)\)", r"`\1`", " ".join(joined.split())).replace("|", "\\|")


def default(option: dict[str, Any]) -> str:
    """Show an option's default on one line of Markdown."""
    if "default" not in option:
        return "*required*" if option.get("required") else "*none*"
    value = option["default"]
    if isinstance(value, str) and "{{" in value:
        return f"`{' '.join(value.split())}`".replace("|", "\\|")
    shown = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    return f"`{shown}`".replace("|", "\\|")


def render() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for role in sorted((ROOT / "roles").iterdir()):
        specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
        options: dict[str, dict[str, Any]] = {}
        for spec in specs.values():
            options |= spec.get("options", {})
        parts.append(f"\n## {role.name}\n\n{specs['main']['short_description']}.\n")
        parts.append("\n| variable | type | default | meaning |\n| --- | --- | --- | --- |\n")
        parts += [
            f"| `{name}` | {option.get('type', 'str')} | {default(option)} | {text(option['description'])} |\n"
            for name, option in options.items()
        ]
    return "".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Write the page, or with --check say whether it is stale.

    Returns:
        0 when done or current, 1 when stale.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is stale")
    options = parser.parse_args(argv)
    page = render()
    if options.check:
        if not TARGET.exists() or TARGET.read_text() != page:
            print("docs/variables.md is stale: run `make docs`", file=sys.stderr)
            return 1
        return 0
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
