"""Run on a node as root: print as JSON where the given secrets can be seen by who should not see them.

leaks.py NEEDLE...          the secrets in hexadecimal, so that neither this command nor the journal has them
leaks.py --all NEEDLE...    also journals, containers' logs, and what Ansible left on the host
"""

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OPEN = ("/etc", "/run", "/var/lib/dask-hostnet", "/var/log", "/tmp", "/var/tmp", "/home", "/srv")  # noqa: S108  # read, not written
LEFT = ("/root", "/etc/ansible", "/var/log", "/tmp", "/var/tmp", "/home")  # noqa: S108  # as above
# what is larger is an image's layer or a task's data
LARGEST = 8 * 2**20


def spellings(secret: bytes) -> set[bytes]:
    """Return the secret as it is, and in base64 wherever it begins in what was encoded."""
    found = {secret}
    for shift in range(3):
        text = base64.b64encode(b"." * shift + secret)
        # the ends depend on what stands beside it
        end = -(-(shift + len(secret)) % 3) % 3
        found.add(text[(0, 2, 3)[shift] : len(text) - (4 if end else 0)])
    return found


def said(*command: str) -> bytes:
    """Return a command's whole output."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout


def status(path: Path) -> os.stat_result:
    """Return what the path is; nothing at all where it is gone meanwhile."""
    try:
        return path.lstat()
    except OSError:
        return os.stat_result([0] * 10)


def text_of(path: Path) -> bytes:
    """Return what a file has; nothing where it is gone meanwhile."""
    with suppress(OSError):
        return path.read_bytes()
    return b""


def files(tops: tuple[str, ...], open_to_all: bool) -> Iterator[Path]:
    """Yield files below the folders; of those that everybody may read, in folders that everybody may enter."""
    for top in tops:
        for folder, folders, names in os.walk(top):
            if open_to_all:
                folders[:] = [name for name in folders if status(Path(folder, name)).st_mode & stat.S_IXOTH]
            for path in (Path(folder, name) for name in names):
                seen = status(path)
                wanted = not open_to_all or seen.st_mode & stat.S_IROTH
                if stat.S_ISREG(seen.st_mode) and wanted and seen.st_size <= LARGEST:
                    yield path


def places(everything: bool) -> Iterator[tuple[str, bytes]]:
    """Yield each place by its name, with what stands there."""
    containers = said("docker", "ps", "--all", "--quiet").decode().split()
    images = said("docker", "images", "--quiet").decode().split()
    yield "docker inspect", said("docker", "inspect", *containers, *images)
    for image in set(images):
        yield f"docker history {image}", said("docker", "history", "--no-trunc", image)
    for process in Path("/proc").glob("[0-9]*"):
        yield f"{process}/cmdline", text_of(process / "cmdline")
        yield f"{process}/environ", text_of(process / "environ")
    for path in files(OPEN, open_to_all=True):
        yield str(path), text_of(path)
    if everything:
        yield "the journal", said("journalctl", "--no-pager", "--output", "export")
        for container in containers:
            yield f"docker logs {container}", said("docker", "logs", container)
        for path in files(LEFT, open_to_all=False):
            yield str(path), text_of(path)


def main(arguments: list[str]) -> int:
    """Look everywhere once."""
    everything = arguments[:1] == ["--all"]
    secrets = [bytes.fromhex(text) for text in arguments[everything:]]
    needles = [(i, needle) for i, secret in enumerate(secrets) for needle in spellings(secret)]
    found, looked = set(), 0
    for name, text in places(everything):
        looked += 1
        found |= {(name, i) for i, needle in needles if needle in text}
    print(json.dumps({"looked": looked, "found": sorted(found)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
