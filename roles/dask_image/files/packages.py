"""Print as one line of JSON what an image holds: its system, its Debian packages, its Python packages' metadata.

Read from its standard input by the Python of a container of the image, of whatever origin; needs nothing else.
"""

import json
import platform
import re
import shutil
import subprocess
from importlib.metadata import distributions

DEBIAN = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"
# of a package's metadata what its component is made of. Left out are texts of licences, which some write into a field,
# and addresses, each of which costs the schema's validation 0.1 s.
FIELDS = {
    "metadata-version", "name", "version", "summary", "license", "license-expression", "classifier", "requires-dist",
}  # fmt: skip
LONGEST = 400


def debian() -> list[dict[str, str]]:
    """Return the installed Debian packages; none where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        return []
    asked = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={DEBIAN}"], capture_output=True, text=True, check=True
    )
    rows = (line.split("\t") for line in asked.stdout.splitlines())
    return [
        dict(zip(("name", "version", "architecture"), row[1:], strict=True)) for row in rows if row[0] == "installed"
    ]


def python() -> list[list[tuple[str, str]]]:
    """Return each Python package's metadata as (field, value); of two of one name the first is what gets imported."""
    found: dict[str, list[tuple[str, str]]] = {}
    for each in distributions():
        fields = [
            (key, " ".join(value.split()))
            for key in sorted(set(each.metadata))
            for value in each.metadata.get_all(key, [])
        ]
        kept = [(key, value) for key, value in fields if key.lower() in FIELDS and len(value) <= LONGEST]
        found.setdefault(re.sub(r"[-_.]+", "-", str(each.metadata["Name"])).lower(), kept)
    return [found[name] for name in sorted(found)]


def system() -> dict[str, str]:
    """Return which system it says it is; empty where it does not say."""
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


if __name__ == "__main__":
    print(json.dumps({"system": system(), "debian": debian(), "python": python()}))
