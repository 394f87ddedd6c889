"""Whether patch.yml reboots a host: never the one that Ansible runs on, which it refuses to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# a rehearsal, so that nothing is rebooted whatever comes of it
PLAY = """
- hosts: worker1
  gather_subset: [min]
  tasks:
    - include_role: {name: dask_patch, tasks_from: reboot.yml}
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("reboot", ["always", "never"])
def test_the_machine_that_ansible_runs_on_is_rebooted_by_hand(tmp_path: Path, reboot: str) -> None:
    (tmp_path / "play.yml").write_text(PLAY, encoding="utf-8")
    here = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    (tmp_path / "hosts").write_text(f"worker1 {here} dask_patch_reboot={reboot}\n", encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "hosts", "--check", "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, text
    said = "worker1: a reboot is due, as it is always rebooted, and must be done by hand: Ansible runs on this host"
    assert (said in text) == (reboot == "always")
