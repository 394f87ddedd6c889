#!/usr/bin/python
"""Write down what an image holds as a CycloneDX document: one text for one image, whoever writes it and when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL
    from packaging.requirements import InvalidRequirement, Requirement

    MISSING = ""
except ImportError as error:
    MISSING = str(error)

DOCUMENTATION = r"""
module: dask_image_sbom
short_description: Writes a CycloneDX document of an image
options:
  path:
    description: The document; its folder is made.
    type: path
    required: true
  reference:
    description: The image as registry/name@sha256:...
    type: str
    required: true
  packages:
    description: What files/packages.py prints inside the image.
    type: dict
    required: true
"""

Fields = Iterable[tuple[str, str]]


def requirement_is_valid(text: str) -> bool:
    """Return whether cyclonedx-py can read a package's requirement; old packages have some that nobody reads."""
    try:
        Requirement(text)
    except InvalidRequirement:
        return False
    return True


def of_wheels(packages: Iterable[Fields]) -> Bom:
    """Return what cyclonedx-py says of an environment that has these packages' metadata, and nothing else.

    Raises:
        subprocess.CalledProcessError: it could not read them.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, symlinks=True)
        (site,) = Path(folder, "lib").glob("python*/site-packages")
        for i, fields in enumerate(packages):
            lines = [
                f"{key}: {value}\n"
                for key, value in fields
                if key.lower() != "requires-dist" or requirement_is_valid(value)
            ]
            # the folder's name is ours: what an image says of itself is no path
            metadata = site / f"package{i}.dist-info" / "METADATA"
            metadata.parent.mkdir()
            metadata.write_text("".join(lines), encoding="utf-8")
        told = subprocess.run(
            # the whole is validated, once: it takes seconds
            [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate", folder],
            capture_output=True,
            text=True,
            check=True,
            env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SOURCE_DATE_EPOCH")},
        )
    document: Bom = Bom.from_json(json.loads(told.stdout))  # type: ignore[attr-defined]
    return document


def of_debian(packages: Iterable[Mapping[str, str]], system: Mapping[str, str]) -> Iterable[Component]:
    """Yield a component for each of dpkg's packages."""
    vendor, release = system.get("ID", "debian"), system.get("VERSION_ID", "")
    for each in packages:
        qualifiers = {"arch": each["architecture"]} | ({"distro": f"{vendor}-{release}"} if release else {})
        purl = PackageURL("deb", vendor, each["name"], each["version"], qualifiers)
        yield Component(
            type=ComponentType.LIBRARY, name=each["name"], version=each["version"], purl=purl, bom_ref=purl.to_string()
        )


def document_of(reference: str, packages: Mapping[str, Any]) -> str:
    """Return the document of an image as text.

    Raises:
        ValueError: it does not follow CycloneDX's schema.
    """
    name, _, digest = reference.rpartition("/")[2].partition("@")
    bom = of_wheels(packages["python"])
    bom.components.update(of_debian(packages["debian"], packages["system"]))
    image = Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=digest,
        purl=PackageURL("oci", None, name, digest),
        bom_ref=digest,
    )
    bom.metadata.component = image
    bom.register_dependency(image, bom.components)
    for tool in bom.metadata.tools.components:
        # as dear to validate as ours, which files/packages.py leaves out
        tool.external_references.clear()
    # both would differ from run to run
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, digest)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault:
        raise ValueError(str(fault))
    return f"{text}\n"


def write(path: Path, text: str) -> bool:
    """Write a file that is whole or not there; return whether that changed anything."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(part).chmod(0o644)
    Path(part).replace(path)
    return True


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "reference": {"type": "str", "required": True},
            "packages": {"type": "dict", "required": True},
        }
    )
    if MISSING:
        module.fail_json(msg=f"{sys.executable}: {MISSING}: install requirements/control.txt")
    path = Path(module.params["path"])
    try:
        text = document_of(module.params["reference"], module.params["packages"])
        module.exit_json(changed=write(path, text), path=str(path))
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"cyclonedx-py could not read the packages' metadata: {error.stderr.strip()[-500:]}")
    except (ValueError, OSError) as error:
        module.fail_json(msg=f"{path}: {error}")


if __name__ == "__main__":
    main()
