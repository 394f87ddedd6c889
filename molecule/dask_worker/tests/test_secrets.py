"""No secret is shown: not by Docker, process lists, logs, Ansible's output, or files that everybody may read."""

import json
import os
import re
import secrets
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
INVENTORY = ROOT / "molecule" / "inventory"
SITE = ROOT / "site.yml"
LEAKS = Path(__file__).with_name("leaks.py").read_text()
# every container of ours has it in its environment: a search that misses it did not search
SHOWN = "PYTHONUNBUFFERED=1"
NODES = ("scheduler1", "worker1", "worker2")


def core(text):
    """A line of a private key that no other key has; the key may stand in YAML or JSON."""
    body = re.search(r"PRIVATE KEY-----(.*?)-----END", text, re.DOTALL)[1]
    lines = [line for line in re.split(r"\\n|\s+", body) if line]
    return max(lines[1:] or lines, key=len)


def kept():
    """The secrets that the control machine keeps, by file; nobody else may read one."""
    found = {}
    folder = INVENTORY / "pki"
    for path in (each for each in folder.rglob("*") if each.is_file()):
        text, name = path.read_text(errors="replace"), str(path.relative_to(folder))
        if "PRIVATE KEY-----" in text:
            found[name] = core(text)
        elif "password" in path.name:
            found[name] = text.strip()
        else:
            continue
        assert path.stat().st_mode & 0o077 == 0, path
    return found


@pytest.fixture
def leaks(node):
    """Search a node; returns (secret's name, place) for each that was found."""

    def search(name, named, *options):
        names = [*named, SHOWN]
        needles = [text.encode().hex() for text in (*named.values(), SHOWN)]
        command = "python3 -c %s" + " %s" * len(options) + " %s" * len(needles)
        report = json.loads(node(name).check_output(command, LEAKS, *options, *needles))
        found = {(names[i], place) for place, i in report["found"]}
        assert (SHOWN, "docker inspect") in found
        assert report["looked"] > 100
        return {each for each in found if each[0] != SHOWN}

    return search


@pytest.mark.parametrize("name", NODES)
def test_what_a_cluster_keeps_secret_shows_nowhere(node, leaks, name):
    """The cluster's own keys and passwords, searched in what runs."""
    named = kept() | {"host.key": core(node(name).file("/etc/dask-hostnet/tls/host.key").content_string)}
    assert {"ca.key", "registry-password", "host.key"} <= set(named)
    assert leaks(name, named) == set()


def open_files(*tops):
    """Files below the folders that everybody may read, less what is installed or Git's own."""
    for top in tops:
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if name not in (".venv", ".git", "node_modules")]
            for path in (Path(folder, name) for name in names):
                if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o004:
                    yield path


@pytest.mark.thorough
@pytest.mark.timeout(3000)
def test_canaries_are_seen_by_nobody(play, leaks, tmp_path):
    """Every secret that an operator can give is a canary, and the cluster is converged with them."""
    canaries = {
        "dask_cluster_registry_password": secrets.token_hex(12),
        "dask_dashboard_password": secrets.token_hex(12),
        "dask_tls_ca_passphrase": secrets.token_hex(12),
    }
    worker = secrets.token_hex(12)
    named = {**canaries, "dask_worker_secrets": worker}
    canaried = tmp_path / "inventory"
    shutil.copytree(INVENTORY, canaried)
    given = canaried / "group_vars" / "all" / "canaries.yml"
    given.touch(mode=0o600)
    given.write_text(yaml.safe_dump({**canaries, "dask_worker_secrets": {"CANARY": worker}}))
    spoken = {}
    try:
        # what changes and what stays are told by different lines
        for options in (("--check", "--diff"), ("--diff",), ("-vvv", "--diff")):
            run = play(*options, playbook=SITE, inventory=canaried, dask_cluster_allow_interrupt=True)
            spoken[" ".join(options)] = run.text
            assert run.status == 0, f"{options}: {run.text[-3000:]}"
        seen = {(name, f"{host}: {place}") for host in NODES for name, place in leaks(host, named, "--all")}
    finally:
        back = play(playbook=SITE, dask_cluster_allow_interrupt=True)
    assert back.status == 0, back.text[-3000:]
    assert seen == set()
    for name, canary in named.items():
        for options, text in spoken.items():
            assert canary not in text, (name, options)
        for path in open_files(ROOT, Path.home() / ".ansible"):
            assert canary.encode() not in path.read_bytes(), (name, path)
