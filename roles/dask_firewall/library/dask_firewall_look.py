#!/usr/bin/python
"""Look at the firewall of this host: whether the kernel has what its file says, and by which port SSH came in."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: dask_firewall_look
short_description: Looks at the firewall of a host without changing it
options:
  file:
    description: The file that the table is loaded from.
    type: path
    required: true
  unit:
    description: The unit that loads it.
    type: str
    required: true
"""

DEADLINE = 20
NFT = "/usr/sbin/nft"
LIST = f"{NFT} --stateless list table inet dask_hostnet"


def run(*command: str) -> str:
    """Return what a command prints; nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def wanted(file: str) -> str:
    """Return how nft lists the table of a file: loaded in a network of its own, which ends with the command."""
    return run("unshare", "--net", "sh", "-c", f'{NFT} --file "$1" && {LIST}', "sh", file)


def unit_state(unit: str) -> dict[str, str]:
    """Return the properties of a unit that say whether it is as it should be."""
    said = run("systemctl", "show", "--property=ActiveState,UnitFileState,NeedDaemonReload", unit)
    return dict(line.split("=", 1) for line in said.splitlines())


def ssh_port(process: int, proc: Path = Path("/proc")) -> int:
    """Return the port of this host by which SSH came in, as a process or its ancestors were told; 0 where none was.

    sudo takes it out of the environment, but its own has it.
    """
    while process > 0:
        try:
            environment = (proc / str(process) / "environ").read_bytes()
            parent = re.search(r"^PPid:\s*(\d+)", (proc / str(process) / "status").read_text(), re.MULTILINE)
        except OSError:
            return 0
        for entry in environment.split(b"\0"):
            # the client's address and port, and this side's
            if entry.startswith(b"SSH_CONNECTION=") and entry.split()[-1].isdigit():
                return int(entry.split()[-1])
        process = int(parent[1]) if parent else 0
    return 0


def main() -> None:
    """Look, and return it."""
    module = AnsibleModule(
        argument_spec={"file": {"type": "path", "required": True}, "unit": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    file, unit = module.params["file"], module.params["unit"]
    unit_file = f"/etc/systemd/system/{unit}"
    table, state = run(*LIST.split()), unit_state(unit)
    # a symbolic link that leads nowhere is there, too
    files = [path for path in (unit_file, file) if os.path.lexists(path)]
    found: dict[str, Any] = {
        "nft": Path(NFT).exists(),
        "ssh_port": ssh_port(os.getpid()),
        "files": files,
        "has_unit": unit_file in files,
        "has_table": table != "",
        "is_current": table != ""
        and table == wanted(file)
        and state == {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"},
    }
    module.exit_json(changed=False, firewall=found)


if __name__ == "__main__":
    main()
