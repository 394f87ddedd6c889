#!/usr/bin/python
"""Purge packages that this project installed, with what came along with them; what was there before stays."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_cluster_purge
short_description: Purges packages that this project installed
options:
  packages:
    description: What a role installs.
    type: list
    elements: str
    required: true
  note:
    description: >-
      The file in which dask_docker wrote, before the first change, which packages were there. Where it is not, or does
      not know, nothing is purged.
    type: path
    required: true
"""
RETURN = r"""
removed:
  description: Which packages went, or would go in check mode.
  type: list
left:
  description: By name, why a package that is asked for stays.
  type: dict
"""

DEADLINE = 600
ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
APT = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", "--allow-change-held-packages")
UNKNOWN = "it is not known whether it was there before"
Simulate = Callable[..., set[str]]


def run(*command: str) -> str:
    """Return what a command prints.

    Raises:
        OSError: it fails, or does not end.
    """
    try:
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(command)}: not within {DEADLINE} s") from None
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {' '.join(done.stderr.split())}")
    return done.stdout


def present() -> set[str]:
    """Return the packages of which anything is there, also settings alone."""
    lines = run("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n").splitlines()
    return {name for status, name in map(str.split, lines) if status != "not-installed"}


def simulated(*arguments: str) -> set[str]:
    """Return the packages that an apt-get would take away."""
    # without -q, which would print nothing
    lines = run("apt-get", "--simulate", "--allow-change-held-packages", *arguments)
    return {name.partition(":")[0] for name in re.findall(r"^(?:Remv|Purg) (\S+)", lines, re.MULTILINE)}


def plan(
    packages: Iterable[str], note: Mapping[str, Any] | None, here: set[str], simulate: Simulate
) -> tuple[list[str], dict[str, str]]:
    """Return the packages to purge, and why the others of `packages` stay."""
    wanted = [name for name in packages if name in here]
    if note is None or not note.get("known"):
        return [], dict.fromkeys(wanted, UNKNOWN)
    before = set(note["packages"])
    left = {name: "it was there before" for name in wanted if name in before}
    mine = [name for name in wanted if name not in before]
    for name in list(mine):
        if needing := sorted(simulate("purge", name) - set(mine) - {name}):
            left[name] = f"it is needed by {', '.join(needing)}"
            mine.remove(name)
    if not mine:
        return [], left
    # what nobody needed already is not ours to tidy
    along = simulate("--auto-remove", "purge", *mine) - simulate("autoremove") - before
    return sorted(along | set(mine)), left


def main() -> None:
    """Purge, and say what."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "note": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["note"])
    try:
        note = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        # one that was cut off: apt would stop at it
        if not module.check_mode and note and any(Path("/var/lib/dpkg/updates").glob("[0-9]*")):
            run("dpkg", "--configure", "--pending")
        purged, left = plan(module.params["packages"], note, present(), simulated)
        if purged and not module.check_mode:
            run(*APT, "--yes", "purge", *purged)
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    removed = [f"package {name}" for name in purged]
    diff = {"before": "".join(f"{each}\n" for each in removed), "after": ""}
    module.exit_json(changed=bool(removed), removed=removed, left=left, diff=diff)


if __name__ == "__main__":
    main()
