"""playbooks/status.yml: what an operator sees of what runs, and how it differs from the inventory."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
INVENTORY = ROOT / "molecule" / "inventory"
STATUS = ROOT / "playbooks" / "status.yml"
MIB = 2**20
STORE = """
import json
kept = client.scatter(b"x" * 20_000_000, workers=["worker1-0"])
client.publish_dataset(kept=kept)
print(json.dumps("stored"))
"""
FORGET = """
client.unpublish_dataset("kept")
print(json.dumps("forgotten"))
"""


@pytest.fixture
def status(play):
    """Run status.yml; return its rows by host and container from its JSON."""

    def ask(*arguments, **variables):
        run = play(*arguments, playbook=STATUS, hostnet_status_format="json", **variables)
        assert run.status == 0, run.text
        assert set(run.changed.values()) == {0}
        said = json.loads(re.search(r'\{"cluster": .*?"unreachable": \[.*?\]\}', run.text)[0])
        assert (said["cluster"], said["unreachable"]) == ("test", [])
        return {(row["host"], row["name"]): row for row in said["containers"]}

    return ask


def test_the_table_has_a_row_for_each_container(play, image):
    run = play(playbook=STATUS)
    assert run.status == 0, run.text
    assert set(run.changed.values()) == {0}
    digest = image.rpartition(":")[2][:12]
    run.says("host container state health digest uptime restarts memory stored spilled logs drift", "in flight: ")
    size = r"[\d.]+ (?:B|KiB|MiB)"
    for host, name, limit, held in (
        ("scheduler1", "dask-scheduler", "1.0", "- -"),
        ("worker1", "dask-worker-0", "1.2", f"{size} {size}"),
        ("worker2", "dask-worker-0", "1.2", f"{size} {size}"),
    ):
        row = rf"{host} {name} running healthy {digest} \d+ \w+( \d+ \w+)? \d+ {size} of {limit} GiB {held} {size} none"
        assert re.search(row, run.text), run.text


def test_numbers_are_bytes_and_seconds(status, client, image):
    assert client(STORE) == "stored"
    try:
        rows = status()
    finally:
        assert client(FORGET) == "forgotten"
    assert sorted(rows) == [
        ("scheduler1", "dask-scheduler"),
        ("worker1", "dask-worker-0"),
        ("worker2", "dask-worker-0"),
    ]
    worker = rows["worker1", "dask-worker-0"]
    assert (worker["image"], worker["memory_limit"], worker["spilled"]) == (image, 1280 * MIB, 0)
    assert 20_000_000 <= worker["stored"] < 21_000_000
    assert 20 * MIB < worker["memory"] < 1280 * MIB
    assert worker["logs"] > 0
    assert worker["uptime"] > 0
    assert rows["worker2", "dask-worker-0"]["stored"] < 20_000_000
    assert rows["scheduler1", "dask-scheduler"]["stored"] is None


def test_what_differs_from_the_inventory_is_named(status):
    rows = status(
        dask_worker_memory_limit="768MiB",
        dask_worker_count=2,
        dask_scheduler_config={"distributed": {"scheduler": {"worker-ttl": "9 minutes"}}},
    )
    assert rows["worker1", "dask-worker-0"]["drift"] == ["command", "memory", "memory_swap"]
    assert rows["scheduler1", "dask-scheduler"]["drift"] == ["configuration"]
    missing = rows["worker1", "dask-worker-1"]
    assert (missing["state"], missing["drift"], missing["uptime"]) == ("missing", ["missing"], None)
    surplus = status(dask_worker_count=0)["worker1", "dask-worker-0"]
    assert (surplus["state"], surplus["drift"]) == ("running", ["not in the inventory"])


def test_a_stopped_container_and_a_host_that_is_away_have_rows(node, play, status, wait, tmp_path):
    host = node("worker1")
    host.check_output("docker stop --time 10 dask-worker-0")
    try:
        stopped = status("--limit", "worker1")["worker1", "dask-worker-0"]
    finally:
        host.check_output("docker start dask-worker-0")
        health = "docker inspect --format '{{.State.Health.Status}}' dask-worker-0"
        wait(lambda: host.check_output(health) == "healthy", "the worker is healthy again", 90)
    assert (stopped["state"], stopped["health"], stopped["uptime"]) == ("exited", None, None)
    assert "running" in stopped["drift"]

    away = tmp_path / "inventory"
    shutil.copytree(INVENTORY, away)
    groups = yaml.safe_load((away / "hosts.yml").read_text(encoding="utf-8"))
    groups["dask_workers"]["hosts"]["worker2"]["ansible_port"] = 1
    (away / "hosts.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    run = play(playbook=STATUS, inventory=away)
    assert run.status != 0
    run.says("worker1 dask-worker-0 running healthy", "worker2 unreachable")


def test_a_format_that_is_none_is_refused(play):
    run = play(playbook=STATUS, hostnet_status_format="xml")
    assert run.status != 0
    run.says("hostnet_status_format is 'xml'; it must be table or json")
