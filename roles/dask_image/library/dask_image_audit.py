#!/usr/bin/python
"""Hold an image's Python packages against the known vulnerabilities, where somebody can be asked for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_image_audit
short_description: Warns of known vulnerabilities in what a CycloneDX document lists; changes nothing
options:
  sbom:
    description: The document that dask_image_sbom wrote.
    type: path
    required: true
  seconds:
    description: When to give up.
    type: int
    default: 20
  strict:
    description: Fail where one is known, and where it could not be learnt.
    type: bool
    default: false
"""


def pinned(document: Mapping[str, Any]) -> list[str]:
    """Return the document's Python packages as pip's requirements."""
    components = document.get("components", [])
    python = [each for each in components if each.get("purl", "").startswith("pkg:pypi/")]
    return [f"{each['name']}=={each['version']}" for each in python]


def vulnerabilities(dependencies: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each vulnerability that pip-audit tells of."""
    lines = []
    for package in dependencies:
        for each in package.get("vulns", []):
            names = ", ".join([each["id"], *each.get("aliases", [])])
            fixed = ", ".join(each["fix_versions"])
            lines.append(
                f"the image's {package['name']} {package['version']} is vulnerable: {names}; "
                + (f"fixed in {fixed}" if fixed else "no version is known that fixes it")
            )
    return lines


def ask(requirements: list[str], seconds: int) -> tuple[list[str], str]:
    """Return the vulnerabilities that are known, and why that is not all of the answer; empty when it is.

    Args:
        requirements: name==version of each package.
        seconds: when to give up.
    """
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        told = subprocess.run(
            [*command, "--no-deps", "--disable-pip", "--requirement", "/dev/stdin"],
            input="\n".join(requirements),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        dependencies = json.loads(told.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return [], f"no answer within {seconds} s"
    except (ValueError, KeyError):
        said = [line.strip() for line in told.stderr.splitlines() if any(map(str.isalpha, line))]
        return [], said[-1][:200] if said else "pip-audit said nothing"
    # a package that nobody there knows is "skipped", and pip-audit calls the rest clean
    skipped = [each for each in dependencies if "skip_reason" in each]
    unknown = f"nothing is known there of {len(skipped)} of {len(requirements)} packages" if skipped else ""
    if not unknown and len(dependencies) < len(requirements):
        unknown = f"only {len(dependencies)} of {len(requirements)} packages were looked at"
    return vulnerabilities(dependencies), unknown


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "sbom": {"type": "path", "required": True},
            "seconds": {"type": "int", "default": 20},
            "strict": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["sbom"])
    try:
        requirements = pinned(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{path}: {error}")
    lines, unknown = ask(requirements, module.params["seconds"])
    if unknown:
        lines.append(f"the image's Python packages could not be audited for known vulnerabilities: {unknown}")
    if lines and module.params["strict"]:
        module.fail_json(msg="; ".join([*lines, "dask_image_audit is strict"]))
    for line in lines:
        module.warn(line)
    module.exit_json(changed=False, audited=len(requirements), said=lines)


if __name__ == "__main__":
    main()
