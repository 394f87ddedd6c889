"""The lab on this machine: nodes, image and cluster, made and removed by the playbooks that tests and operators use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostnet import progress, runner
from hostnet.become import root_access
from hostnet.errors import DONE, FAILED, HostnetError
from hostnet.lock import only_one

INVENTORY = "inventory/lab"
VERIFICATION = "Show the verification"
KEPT_LOGS = 20
MINUTE = 60.0


@dataclass(frozen=True)
class Step:
    """One playbook of `up` or `down`; `local` ones make nodes on this machine and need root here."""

    name: str
    playbook: str
    deadline: float
    local: bool = False
    extra_vars: Mapping[str, object] = field(default_factory=dict)


def up(checkout: Path, display: progress.Progress) -> int:
    """Make nodes, image and cluster; print the verification and what to use next. Returns an exit status."""
    steps = (
        Step("nodes", "molecule/default/create.yml", 30 * MINUTE, local=True, extra_vars={"node_set": "lab"}),
        Step("image", "playbooks/image.yml", 60 * MINUTE),
        # an idle lab takes another image like any other change
        Step("site", "site.yml", 45 * MINUTE, extra_vars={"hostnet_upgrade": True}),
    )
    result = None
    with only_one(checkout, "lab"), root_access() as become:
        for step in steps:
            result = _run(checkout, step, become, display)
            if not result.ok:
                return result.status
    table = result.shown.get(VERIFICATION) if result else None
    if not table:
        display.say(f"site.yml ended without a verification (no task '{VERIFICATION}')")
        return FAILED
    display.say()
    for line in [*table, "", *next_lines(checkout)]:
        display.say(line)
    return DONE


def down(checkout: Path, display: progress.Progress) -> int:
    """Remove what `up` made, and say what stays. Returns an exit status."""
    step = Step("down", "molecule/default/destroy.yml", 10 * MINUTE, local=True, extra_vars={"node_set": "lab"})
    with only_one(checkout, "lab"), root_access() as become:
        result = _run(checkout, step, become, display)
    if result.ok:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dask-hostnet"
        display.say(f"Removed: nodes, network, volumes and {INVENTORY}.")
        display.say(f"Kept: .venv, logs, the cache {cache}, node images, installed packages, the Docker engine.")
    return result.status


def next_lines(checkout: Path) -> list[str]:
    """Return what to do with the cluster that runs: its address, the dashboard, commands to try."""
    answer = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-inventory"), "-i", INVENTORY, "--list"],
        cwd=checkout,
        env={**os.environ, "ANSIBLE_CONFIG": str(checkout / "ansible.cfg"), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if answer.returncode:
        raise HostnetError(f"cannot read {INVENTORY}: {(answer.stderr.strip().splitlines() or ['no message'])[-1]}")
    inventory = json.loads(answer.stdout)
    scheduler = inventory["dask_scheduler"]["hosts"][0]
    values = inventory["_meta"]["hostvars"][scheduler]
    address = values.get("ansible_host", scheduler)
    ssh = f"ssh -i {INVENTORY}/ssh/id_ed25519 -o UserKnownHostsFile={INVENTORY}/ssh/known_hosts"
    login = f"{values.get('ansible_user', 'deploy')}@{address}"
    return [
        f"scheduler   tls://{address}:8786",
        f"dashboard   https://{address}:8443/status, user dask, password in {INVENTORY}/pki/dashboard.password",
        "a client    .venv/bin/ansible-playbook playbooks/client.yml -e hostnet_client=me",
        f"a node      {ssh} {login}",
        "converge    .venv/bin/ansible-playbook site.yml",
        "verify      .venv/bin/ansible-playbook playbooks/verify.yml",
        "remove      make down",
    ]


def _run(checkout: Path, step: Step, become: Mapping[str, str], display: progress.Progress) -> runner.Result:
    log = _log(checkout, step.name)
    on_event = display.start(step.name)
    summary = None
    try:
        result = runner.run(
            runner.Run(
                checkout=checkout,
                playbook=step.playbook,
                inventory="," if step.local else INVENTORY,
                log=log,
                deadline=step.deadline,
                extra_vars=step.extra_vars,
                environment=become if step.local else {},
            ),
            on_event,
        )
        summary = progress.summary(result)
    finally:
        display.end(summary)
    if not result.ok:
        for line in progress.report(result):
            display.say(line)
    return result


def _log(checkout: Path, step: str) -> Path:
    folder = checkout / ".hostnet" / "log"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in sorted(folder.glob("[0-9]*-*.log"))[: -(KEPT_LOGS - 1)]:
        old.unlink()
    return folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{step}.log"
