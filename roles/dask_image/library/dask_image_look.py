#!/usr/bin/python
"""Look at a host: the images of our containers, the digests that its engine holds, and the note of an upgrade."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import Engine

DOCUMENTATION = r"""
module: dask_image_look
short_description: Looks at the images of a host's containers and engine without changing them
options:
  note:
    description: The file in which an upgrade that is under way notes what it is about.
    type: path
    required: true
"""
RETURN = r"""
answers:
  description: Whether the engine answers.
  type: bool
containers:
  description: By container of ours, drained ones too, the image that it was made from.
  type: dict
held:
  description: The digests of the images that the engine holds.
  type: list
note:
  description: What the note says; empty where there is none.
  type: dict
"""
OURS = urllib.parse.quote('{"label":["io.dask-hostnet.kind"]}')


def containers(engine: Any) -> dict[str, str]:
    """Return the image of each of our containers, by the reference that it was made from."""
    found = {}
    for each in engine.ask(f"/containers/json?all=1&filters={OURS}"):
        # one that is gone meanwhile has none
        if (one := engine.ask(f"/containers/{each['Id']}/json")) is not None:
            found[one["Name"].lstrip("/")] = one["Config"]["Image"]
    return found


def held(engine: Any) -> list[str]:
    """Return the digests of the images of this engine."""
    references = [name for each in engine.ask("/images/json") for name in each["RepoDigests"] or []]
    return sorted({name.partition("@")[2] for name in references} - {""})


def noted(path: Path) -> dict[str, Any]:
    """Return what the note says; one that nobody can read says nothing."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) and {"from", "to", "since"} <= set(said) else {}


def look(engine: Any, note: str) -> dict[str, Any]:
    """Return all of it."""
    try:
        seen = {"answers": True, "containers": containers(engine), "held": held(engine)}
    except (OSError, http.client.HTTPException, ValueError):
        seen = {"answers": False, "containers": {}, "held": []}
    return seen | {"note": noted(Path(note))}


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(argument_spec={"note": {"type": "path", "required": True}}, supports_check_mode=True)
    module.exit_json(changed=False, **look(Engine(), module.params["note"]))


if __name__ == "__main__":
    main()
