#!/usr/bin/python
"""Look at the certificates that this host holds; nothing is changed, and no key is read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_tls_look
short_description: Reads the certificates of a host, says which files are there and whether more can be made
options:
  path:
    description: The folder of the host's key and certificates.
    type: path
    required: true
"""

KEY = "host.key"
PUBLIC = ("host.csr", "host.crt", "ca.crt")


def look(folder: Path) -> dict[str, str]:
    """Return the files that are there by their names, with their content; the key's stays unread."""
    files = {KEY: ""} if (folder / KEY).is_file() else {}
    for name in PUBLIC:
        if (folder / name).is_file():
            # what is no text is no certificate either, which is for the control machine to say
            files[name] = (folder / name).read_text(encoding="ascii", errors="replace")
    return files


def main() -> None:
    """Look, and say what was seen."""
    module = AnsibleModule(argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True)
    module.exit_json(files=look(Path(module.params["path"])), can_make=find_spec("cryptography") is not None)


if __name__ == "__main__":
    main()
