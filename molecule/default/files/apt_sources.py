#!/usr/bin/env python3
"""Print, as JSON, the Debian entries of this machine's apt sources for each suite given.

A node image is made from the mirrors that the machine already uses, so the project names none. Apt itself says what its
sources are, whatever their format; entries of other origins are left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

FIELDS = "$(REPO_URI)|$(CODENAME)|$(COMPONENT)|$(SOURCESENTRY)"
# of the machine's apt settings, those without which its mirrors may not answer a node either
SETTINGS = re.compile(r'^(Acquire::(?:https?::Proxy\S*|Check-\S+|ForceIPv[46])) "(.+)";$', re.MULTILINE)


def main(suites: list[str]) -> int:
    """Print the sources of each suite, apt's settings, and the files that the sources refer to."""
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    here = re.findall(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)[0]
    targets = run("apt-get", "indextargets", "--format", FIELDS, "Created-By: Packages", "Origin: Debian")
    entries: dict[tuple[str, str, str], list[str]] = {}
    for line in targets.splitlines():
        uri, codename, component, entry = line.split("|")
        components = entries.setdefault((uri, codename, signed_by(entry)), [])
        if component not in components:
            components.append(component)
    files = {key for _, _, key in entries if key}
    files |= {path for uri, _, _ in entries for path in re.findall(r"^mirror\+file:(?://)?(/\S+?)/?$", uri)}
    sources = {
        suite: [
            # this machine's release, its updates and its security, as those of the other suite
            f"deb {f'[signed-by={key}] ' if key else ''}{uri} {codename.replace(here, suite, 1)} {' '.join(components)}"
            for (uri, codename, key), components in entries.items()
        ]
        for suite in suites
    }
    settings = [f'{name} "{value}"' for name, value in SETTINGS.findall(run("apt-config", "dump"))]
    print(json.dumps({"sources": sources, "settings": settings, "files": sorted(files)}))
    return 0


def run(*command: str) -> str:
    """Return what a command printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def signed_by(entry: str) -> str:
    """Return the key file of a source's entry (`file:N`, N counting lines or stanzas), or nothing."""
    name, _, number = entry.rpartition(":")
    text = Path(name).read_text(encoding="utf-8")
    if name.endswith(".sources"):
        parts = [part for part in re.split(r"\n\s*\n", text) if re.search(r"^\w", part, re.MULTILINE)]
    else:
        parts = text.splitlines()
    found = re.search(r"signed-by[:=]\s*(/[^\s\]]+)", parts[int(number) - 1], re.IGNORECASE)
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
