"""The status table: units that people read, and what a check-mode run tells of drift."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loading import load

PLUGIN = Path(__file__).parent.parent / "roles/dask_container/filter_plugins/dask_container_status.py"
DIGEST = "192.0.2.11:5000/dask@sha256:" + "0123456789abcdef" * 4
ROW = {
    "name": "dask-worker-0",
    "state": "running",
    "health": "healthy",
    "image": DIGEST,
    "uptime": 273_661,
    "restarts": 2,
    "memory": 1_610_612_736,
    "memory_limit": 4 * 2**30,
    "stored": 1536,
    "spilled": 0,
    "logs": 31_000_000,
    "drift": [],
}


BUSY = {"tasks": 12, "processing": 3, "bytes": 4096, "clients": 1, "scheduler": "Scheduler-1", "retired": []}


@pytest.fixture(scope="session")
def plugin() -> ModuleType:
    return load(PLUGIN)


def test_an_engine_is_given_text_alone(plugin: ModuleType) -> None:
    given = {"TEXT": "Yes", "THREADS": 1, "SHARE": 0.5, "ON": True, "OFF": False, "NOTHING": None}
    as_text = {"TEXT": "Yes", "THREADS": "1", "SHARE": "0.5", "ON": "true", "OFF": "false", "NOTHING": ""}
    assert plugin.dask_container_environment(given) == as_text
    assert plugin.dask_container_environment(as_text) == as_text
    assert plugin.dask_container_environment({"ODD": [1]}) == {"ODD": [1]}


def test_a_row_is_written_for_people(plugin: ModuleType) -> None:
    heading, row, last = plugin.dask_container_table(plugin.dask_container_status("c", {"host1": [ROW]}, [], BUSY))
    assert heading.split() == list(plugin.HEADING)
    assert " ".join(row.split()) == (
        "host1 dask-worker-0 running healthy 0123456789ab 3 d 4 h 2 1.5 GiB of 4.0 GiB 1.5 KiB 0 B 30 MiB none"
    )
    assert last == "in flight: 12 tasks or stored keys (4096 bytes), of which 3 processing, and 1 clients"
    idle = plugin.dask_container_status("c", {}, [], BUSY | {"tasks": 0, "clients": 0})
    assert plugin.dask_container_table(idle)[-1] == "in flight: nothing, and no client is connected"


def test_a_worker_that_takes_no_tasks_is_named(plugin: ModuleType) -> None:
    status = plugin.dask_container_status("c", {}, [], BUSY | {"retired": ["worker1-0", "worker2-0"]})
    assert plugin.dask_container_table(status)[-2] == (
        "take no tasks: worker1-0, worker2-0: a drain is under way or was cut off; drain.yml goes on with it,"
        " undrain.yml brings them back"
    )


def test_what_cannot_be_told_is_a_dash_and_a_host_without_an_answer_has_a_row(plugin: ModuleType) -> None:
    missing = dict.fromkeys(ROW) | {"name": "dask-worker-1", "state": "missing", "drift": ["missing"]}
    status = plugin.dask_container_status("c", {"host1": [missing]}, ["host2"], None)
    lines = [" ".join(line.split()) for line in plugin.dask_container_table(status)]
    assert lines[1:] == [
        "host1 dask-worker-1 missing - - - - - - - - missing",
        "host2 unreachable",
        "in flight: not known, as the scheduler does not say",
    ]
    assert status["unreachable"] == ["host2"]
    assert status["containers"] == [{"host": "host1", **missing}]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90_000, "1 d 1 h")]
)
def test_times_have_two_units(plugin: ModuleType, seconds: int, text: str) -> None:
    assert plugin._time(seconds) == text


@pytest.mark.parametrize(
    ("result", "drift"),
    [
        ({}, []),
        ({"diff": {"before": {"running": True}, "after": {"running": True}}}, []),
        (
            {"diff": {"before": {"memory": 1, "labels": {"a": "b"}}, "after": {"memory": 2, "labels": {}}}},
            "configuration memory",
        ),
        ({"diff": {"before": {"exists": False}, "after": {"exists": True, "image": "x"}}}, "exists image"),
    ],
)
def test_drift_names_what_would_change(plugin: ModuleType, result: dict[str, Any], drift: Any) -> None:
    expected = drift.split() if isinstance(drift, str) else drift
    foreseen = {"results": [{"item": {"name": "a"}, **result}]}
    assert plugin.dask_container_drift(["a", "b"], foreseen) == {"a": expected, "b": []}
