#!/usr/bin/python
"""Look for what of the images and of the engine's trust on this host is ours; nothing is changed."""

from __future__ import annotations

import http.client
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import Engine, installed

DOCUMENTATION = r"""
module: dask_image_ours
short_description: Looks for our images and for the registries whose CA is ours
options:
  registry:
    description: The private registry, as references spell it.
    type: str
    required: true
  login:
    description: The file with the password for pulls.
    type: path
    required: true
  ca:
    description: The cluster's CA, in PEM; empty where it is not known.
    type: str
    required: true
  trust:
    description: The engine's folder of registries' CAs.
    type: path
    default: /etc/docker/certs.d
"""
RETURN = r"""
images:
  description: References to our images, an id where there is none; others' references to the same image stay.
  type: list
trusts:
  description: Registries whose CA in the engine's folder is ours, also those of a scheduler that has moved.
  type: list
"""

LABELS = {"io.dask-hostnet.inputs", "io.dask-hostnet.stage"}
PASSING = ("dask-hostnet-base:", "dask-hostnet-trial:")


def trusts(folder: Path, ca: str, registry: str) -> list[str]:
    """Return the registries of which the engine trusts our CA."""
    found = sorted(folder.glob("*/ca.crt"))
    same = {path.parent.name for path in found if ca and path.read_text(errors="replace").strip() == ca.strip()}
    return sorted(same | {path.parent.name for path in found if path.parent.name == registry})


def logins(path: Path) -> set[str]:
    """Return the registries that the file has a password for."""
    try:
        return set(json.loads(path.read_text(encoding="utf-8"))["auths"])
    except (OSError, ValueError, KeyError):
        return set()


def references(images: Iterable[dict[str, Any]], registries: Collection[str]) -> list[str]:
    """Return the references to our images; an image of our making that has none by its id."""
    starts = (*PASSING, *(f"{registry}/" for registry in sorted(registries)))
    found = list[str]()
    for each in images:
        named = [
            name for name in (each.get("RepoTags") or []) + (each.get("RepoDigests") or []) if "<none>" not in name
        ]
        made = LABELS & (each.get("Labels") or {}).keys()
        found += [name for name in named if made or name.startswith(starts)] or ([each["Id"]] if made else [])
    return found


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "str", "required": True},
            "login": {"type": "path", "required": True},
            "ca": {"type": "str", "required": True},
            "trust": {"type": "path", "default": "/etc/docker/certs.d"},
        },
        supports_check_mode=True,
    )
    registry = module.params["registry"]
    trusted = trusts(Path(module.params["trust"]), module.params["ca"], registry)
    images: list[str] = []
    if installed():
        try:
            listed = Engine().ask("/images/json") or []
        except (OSError, http.client.HTTPException, ValueError) as error:
            module.fail_json(msg=f"the engine does not say which images it has: {error}")
        images = references(listed, {registry, *trusted, *logins(Path(module.params["login"]))})
    module.exit_json(changed=False, images=images, trusts=trusted)


if __name__ == "__main__":
    main()
