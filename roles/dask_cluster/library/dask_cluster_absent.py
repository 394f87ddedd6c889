#!/usr/bin/python
"""Have files and folders gone, and folders that are empty then; what would go is said in check mode too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_cluster_absent
short_description: Has files and folders gone
options:
  paths:
    description: Files, links, and folders with all that is in them; in this order, so that the last marks the end.
    type: list
    elements: path
    default: []
  empty:
    description:
      - Folders that others may use, gone in this order where nothing is left in them.
      - One directly below the root is the operator's, who named it, and stays.
    type: list
    elements: path
    default: []
"""
RETURN = r"""
removed:
  description: What went, or would go in check mode.
  type: list
left:
  description: Of O(empty), the folders that are not.
  type: list
"""


def shallow(path: str) -> bool:
    """Return whether it is the root, or directly below it."""
    return len(Path(os.path.normpath(path)).parts) < 3


def absent(paths: Iterable[str], empty: Iterable[str], check: bool) -> tuple[list[str], list[str]]:
    """Return what went and which folders stayed, as there is something in them.

    Raises:
        OSError: something cannot be removed.
    """
    removed, left = list[str](), list[str]()
    for name in paths:
        path = Path(name)
        # a link that leads nowhere is there, too
        if not os.path.lexists(path):
            continue
        removed.append(name)
        if check:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name in empty:
        path = Path(name)
        if path.is_symlink() or not path.is_dir():
            continue
        if shallow(name) or os.path.ismount(path) or any(str(each) not in removed for each in path.iterdir()):
            left.append(name)
            continue
        removed.append(name)
        if not check:
            path.rmdir()
    return removed, left


def main() -> None:
    """Remove, and say what."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": []},
            "empty": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    paths, empty = module.params["paths"], module.params["empty"]
    # a variable that came out empty must not name a folder of the system
    odd = [path for path in [*paths, *empty] if not path.startswith("/")]
    odd += [path for path in paths if shallow(path)]
    if odd:
        module.fail_json(msg=f"{', '.join(odd)}: not a path that is anybody's to remove")
    try:
        removed, left = absent(paths, empty, module.check_mode)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    diff = {"before": "".join(f"{path}\n" for path in removed), "after": ""}
    module.exit_json(changed=bool(removed), removed=removed, left=left, diff=diff)


if __name__ == "__main__":
    main()
