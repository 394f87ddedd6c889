#!/usr/bin/python
"""Delete the manifests of a registry's repository that nobody needs; their layers go when it collects its garbage."""

from __future__ import annotations

import http.client
import json
import ssl
from base64 import b64encode
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_image_forget
short_description: Deletes the manifests of a registry's repository that nobody needs
options:
  registry:
    description: The registry, as C(address:port).
    type: str
    required: true
  repository:
    description: The repository in it; no other is looked at.
    type: str
    required: true
  keep:
    description: Digests of the manifests that stay.
    type: list
    elements: str
    required: true
  ca:
    description: File with the certificates that the registry's is signed by.
    type: path
    required: true
  user:
    description: The registry's user.
    type: str
    required: true
  password:
    description: The user's password.
    type: str
    required: true
  marker:
    description: File that is made before the first is deleted, so that a run that was killed is made good.
    type: path
    required: true
"""
RETURN = r"""
forgotten:
  description: The tags whose manifests were deleted, or would be.
  type: list
"""
DEADLINE = 20
MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


class Repository:
    """A repository of a registry over TLS with a password."""

    def __init__(self, connection: Any, path: str, login: str) -> None:
        """Ask over the connection; path and login (user:password) as the registry takes them."""
        self.connection = connection
        self.path = path
        self.headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}", "Accept": MANIFESTS}

    def ask(self, method: str, path: str, accepted: Collection[int]) -> tuple[int, Any, bytes]:
        """Return status, headers and body.

        Raises:
            OSError: the status is none of those accepted, or the registry does not answer.
        """
        self.connection.request(method, f"/v2/{self.path}/{path}", headers=self.headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status not in accepted:
            raise OSError(f"{method} {path}: {answer.status} {answer.reason}")
        return answer.status, answer.headers, body

    def tags(self) -> dict[str, str]:
        """Return the digest of each tag."""
        status, _, body = self.ask("GET", "tags/list", (200, 404))
        names = (json.loads(body)["tags"] or []) if status == http.client.OK else []
        found = {}
        for name in sorted(names):
            status, headers, _ = self.ask("HEAD", f"manifests/{name}", (200, 404))
            if status == http.client.OK:
                found[name] = headers["Docker-Content-Digest"]
        return found

    def delete(self, digest: str) -> None:
        """Delete a manifest, and with it the tags that name it; one that is gone is no fault."""
        self.ask("DELETE", f"manifests/{digest}", (202, 404))


def forget(repository: Repository, keep: Collection[str], marker: Path, rehearse: bool) -> list[str]:
    """Return the tags whose manifests were deleted, or would be."""
    found = {name: digest for name, digest in repository.tags().items() if digest not in keep}
    if found and not rehearse:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        for digest in sorted(set(found.values())):
            repository.delete(digest)
    return list(found)


def main() -> None:
    """Forget, and say what."""
    module = AnsibleModule(
        argument_spec={
            "registry": {"type": "str", "required": True},
            "repository": {"type": "str", "required": True},
            "keep": {"type": "list", "elements": "str", "required": True},
            "ca": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "marker": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        context = ssl.create_default_context(cafile=given["ca"])
        connection = http.client.HTTPSConnection(given["registry"], context=context, timeout=DEADLINE)
        repository = Repository(connection, given["repository"], f"{given['user']}:{given['password']}")
        forgotten = forget(repository, given["keep"], Path(given["marker"]), module.check_mode)
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        module.fail_json(msg=f"the registry {given['registry']} cannot be rid of older images: {error}")
    module.exit_json(changed=bool(forgotten), forgotten=forgotten)


if __name__ == "__main__":
    main()
