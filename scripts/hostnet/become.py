"""How playbooks on this machine become root: nothing to do, sudo without a password, or a password asked for once."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hostnet.errors import RefusedError

TRIES = 3


@contextmanager
def root_access() -> Iterator[dict[str, str]]:
    """Yield the environment with which Ansible becomes root here; a password lives in a 0600 file until the end.

    Raises RefusedError when there is no way.
    """
    if os.geteuid() == 0:
        yield {}
        return
    if shutil.which("sudo") is None:
        raise RefusedError("this needs root for Docker: run it as root, or install sudo and allow it to you")
    # -k: a password remembered for this terminal does not help Ansible, which has none
    if _sudo("-n"):
        yield {}
        return
    if not sys.stdin.isatty():
        raise RefusedError("sudo asks for a password and there is no terminal: use one, or root, or NOPASSWD")
    password = _ask()
    with tempfile.TemporaryDirectory(prefix="hostnet-") as folder:
        file = Path(folder) / "become"
        file.touch(mode=0o600)
        file.write_text(password, encoding="utf-8")
        yield {"ANSIBLE_BECOME_PASSWORD_FILE": str(file)}


def _ask() -> str:
    for _ in range(TRIES):
        password = getpass.getpass(f"sudo password of {getpass.getuser()} (for Docker on this machine): ")
        if _sudo("-S", "-p", "", password=password):
            return password
    raise RefusedError(f"sudo refused the password {TRIES} times")


def _sudo(*options: str, password: str | None = None) -> bool:
    answer = subprocess.run(
        ["sudo", "-k", *options, "true"],
        input=None if password is None else password + "\n",
        stdin=subprocess.DEVNULL if password is None else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return answer.returncode == 0
