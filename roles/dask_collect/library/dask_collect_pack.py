#!/usr/bin/python
"""Write one archive of what hosts and the control machine know, masked once more; its name appears when it is whole."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tarfile
import tempfile
import time
import tomllib
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_collect_mask import Mask

DOCUMENTATION = r"""
module: dask_collect_pack
short_description: Writes what dask_collect_host gathered into one archive
options:
  path:
    description: The archive, a .tar.gz; its folder is there.
    type: path
    required: true
  cluster:
    description: The cluster's name.
    type: str
    required: true
  project:
    description: The checkout of this project.
    type: path
    required: true
  ansible:
    description: Ansible's version.
    type: str
    required: true
  hosts:
    description: What was gathered, by host; one without texts was not reached.
    type: dict
    required: true
  variables:
    description: The inventory's variables, by host.
    type: dict
    required: true
  secrets:
    description: Secrets to mask, a JSON list in base64.
    type: str
    required: true
"""

README = """\
What dask-hostnet collected of the cluster {cluster!r}, {date}.

dask-hostnet {version}, ansible-core {ansible}

hosts:
{hosts}
{problems}
A folder a host: journals (journal/), the engine's settings (docker/), our containers' settings and logs (containers/),
Dask's configuration and a list of the files beside it (configuration/), facts (host/), and variables.json: the
inventory's variables of that host. Of journals and logs the end is here. "could not: ..." says why one is missing.

*** stands for what was masked, on the host before it was sent: vaulted values; values of variables, settings and
options that are named like a secret (password, token, secret, key, credential); the registry's password; what stands in
files of the configuration that not everyone on the host may read; each of these in base64, URL and JSON spelling too;
private keys; Authorization headers; logins in URLs. What only one host keeps secret is not known to the others, and a
program can print a secret that none of these rules knows: look before you send this to others.
"""


def project_version(project: Path) -> str:
    """Return the project's version and commit, as far as its checkout tells them."""
    version = "of unknown version"
    with suppress(OSError, KeyError, tomllib.TOMLDecodeError):
        version = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(project), "rev-parse", "--short=12", "HEAD"]
        version += (
            f" ({subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()})"
        )
    return version


def texts_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts that a host's result holds, by name; {} when it was not reached."""
    if not result.get("texts"):
        return {}
    texts: dict[str, str] = json.loads(zlib.decompress(base64.b64decode(result["texts"])))
    return texts


def why(result: Mapping[str, Any]) -> str:
    """Return in one line why a host gave nothing."""
    return " ".join(str(result.get("msg") or "it was not asked").split())


def contents(given: Mapping[str, Any], mask: Mask) -> dict[str, str]:
    """Return everything that goes into the archive, by path."""
    hosts, problems = [], []
    files: dict[str, str] = {}
    for host, result in sorted(given["hosts"].items()):
        texts = texts_of(result)
        hosts.append(f"  {host}: " + (f"{len(texts)} files" if texts else f"nothing, {why(result)}"))
        problems += [f"  {host}: {problem}" for problem in result.get("problems") or ()]
        files |= {f"{host}/{name}": text for name, text in texts.items()}
    for host, variables in given["variables"].items():
        # escaped text is masked as it is written
        files[f"{host}/variables.json"] = mask(json.dumps(variables, indent=2, sort_keys=True, default=str) + "\n")
    files["README.txt"] = mask(
        README.format(
            cluster=given["cluster"],
            date=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            version=project_version(Path(given["project"])),
            ansible=given["ansible"],
            hosts="\n".join(hosts),
            problems="\ncould not:\n" + "\n".join(problems) + "\n" if problems else "",
        )
    )
    return files


def write(path: Path, files: Mapping[str, str]) -> int:
    """Write the archive, readable by its owner alone; a run that is killed leaves no half of it under its name.

    Returns:
        Its size in bytes.
    """
    top = path.name.removesuffix(".tar.gz")
    now = int(time.time())
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as output, tarfile.open(fileobj=output, mode="w:gz") as archive:
            for inside, text in sorted(files.items()):
                data = text.encode(errors="replace")
                entry = tarfile.TarInfo(f"{top}/{inside}")
                entry.size, entry.mtime, entry.mode = len(data), now, 0o600
                archive.addfile(entry, io.BytesIO(data))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path.stat().st_size


def main() -> None:
    """Pack; in check mode write nothing, and say what would be written."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "cluster": {"type": "str", "required": True},
            "project": {"type": "path", "required": True},
            "ansible": {"type": "str", "required": True},
            "hosts": {"type": "dict", "required": True},
            "variables": {"type": "dict", "required": True},
            "secrets": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["path"])
    mask = Mask(json.loads(base64.b64decode(given["secrets"])))
    reached = sum(bool(result.get("texts")) for result in given["hosts"].values())
    empty = {host: result for host, result in sorted(given["hosts"].items()) if not result.get("texts")}
    silent = [mask(f"{host}: nothing was collected: {why(result)}") for host, result in empty.items()]
    about = f"{reached} of {len(given['hosts'])} hosts"
    try:
        files = contents(given, mask)
        if module.check_mode:
            module.exit_json(changed=False, lines=[*silent, f"would write {path}: {len(files)} files, {about}"])
        size = write(path, files)
    except OSError as error:
        module.fail_json(msg=f"{path}: {error.strerror}; choose another with dask_collect_file")
    module.exit_json(changed=True, lines=[*silent, f"{path}: {size} bytes, {about}"])


if __name__ == "__main__":
    main()
