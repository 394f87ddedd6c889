#!/usr/bin/python
"""Remove a host's images of our repositories, but those to be kept and those that containers have; or those named."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import Engine

DOCUMENTATION = r"""
module: dask_image_prune
short_description: Removes images of a cluster from the engine of a host
options:
  keep:
    description: References that stay, as C(registry/name@sha256:...); the repositories that they are of are ours.
    type: list
    elements: str
  only:
    description: References, or ids, that go and no others; one that a container has stays.
    type: list
    elements: str
"""
RETURN = r"""
removed:
  description: What was removed, or would be, as C(image registry/name@sha256:...).
  type: list
"""
DEADLINE = 600


def surplus(images: Iterable[Mapping[str, Any]], used: set[str], keep: Sequence[str]) -> list[str]:
    """Return the references to remove.

    Args:
        images: as the engine lists them.
        used: ids of the images that containers have, running or not.
        keep: references by digest.
    """
    ours = {reference.partition("@")[0] for reference in keep}
    found = []
    for image in images:
        digests, tags = image["RepoDigests"] or [], image["RepoTags"] or []
        if image["Id"] in used or set(digests) & set(keep):
            continue
        found += [name for name in tags if name.rpartition(":")[0] in ours]
        found += [name for name in digests if name.partition("@")[0] in ours]
    return found


def remove(engine: Any, reference: str) -> bool:
    """Remove a reference, and its image when it has no other; return whether it was there.

    Raises:
        OSError: the engine refuses, or does not answer.
    """
    engine.request("DELETE", f"/images/{urllib.parse.quote(reference, safe='/:@')}")
    answer = engine.getresponse()
    body = answer.read()
    # the last tag takes the digests of its repository with it; a container may have come meanwhile
    if answer.status in (http.client.NOT_FOUND, http.client.CONFLICT):
        return False
    if answer.status != http.client.OK:
        raise OSError(f"{answer.status} {json.loads(body or b'{}').get('message', '')}")
    return True


def prune(engine: Any, keep: Sequence[str], rehearse: bool) -> list[str]:
    """Return what was removed, or would be."""
    used = {each["ImageID"] for each in engine.ask("/containers/json?all=1")}
    return gone(engine, surplus(engine.ask("/images/json"), used, keep), rehearse)


def gone(engine: Any, references: Sequence[str], rehearse: bool) -> list[str]:
    """Return which of them were removed, or would be."""
    return [reference for reference in references if rehearse or remove(engine, reference)]


def main() -> None:
    """Prune, and say what."""
    names = {"type": "list", "elements": "str"}
    module = AnsibleModule(
        argument_spec={"keep": names, "only": names},
        mutually_exclusive=[("keep", "only")],
        required_one_of=[("keep", "only")],
        supports_check_mode=True,
    )
    keep, only, engine = module.params["keep"], module.params["only"], Engine()
    # it deletes an image's layers before it answers
    engine.timeout = DEADLINE
    try:
        removed = prune(engine, keep, module.check_mode) if only is None else gone(engine, only, module.check_mode)
    except (OSError, http.client.HTTPException, ValueError) as error:
        module.fail_json(msg=f"the engine cannot remove images: {error}")
    module.exit_json(changed=bool(removed), removed=[f"image {name}" for name in removed])


if __name__ == "__main__":
    main()
