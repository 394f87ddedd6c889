"""daemon.json on a host that has one: the owner's keys stay, ours come and go, a contradiction is named."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loading import load

ROLES = Path(__file__).parent.parent / "roles"
ENGINE = ROLES / "dask_cluster/module_utils/dask_cluster_engine.py"
PLUGIN = ROLES / "dask_docker/filter_plugins/dask_docker.py"
OURS = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}, "live-restore": True}


@pytest.fixture(scope="session")
def plugin() -> ModuleType:
    return load(PLUGIN)


@pytest.fixture(scope="session")
def looker() -> ModuleType:
    return load(ROLES / "dask_docker/library/dask_docker_look.py", ENGINE)


@pytest.mark.parametrize(
    ("own", "kept"), [(0o600, "0600"), (0o640, "0640"), (0o644, "0644"), (0o666, "0644"), (None, "0644")]
)
def test_what_was_private_stays_so(looker: ModuleType, tmp_path: Path, own: int | None, kept: str) -> None:
    file = tmp_path / "daemon.json"
    if own is not None:
        file.write_text("{}")
        file.chmod(own)
    assert looker.mode(str(file)) == kept


@pytest.mark.parametrize(
    ("found", "ours", "recorded", "expected"),
    [
        ({}, OURS, {}, OURS),
        (OURS, OURS, OURS, OURS),
        ({"debug": False, "hosts": []}, {}, {}, {"debug": False, "hosts": []}),
        ({"data-root": "/big", "debug": True}, OURS, {}, {"data-root": "/big", "debug": True} | OURS),
        (
            {"log-opts": {"labels": "a"}},
            {"log-opts": {"max-file": "3"}},
            {},
            {"log-opts": {"labels": "a", "max-file": "3"}},
        ),
        # ours changed
        (
            {"log-opts": {"max-file": "3"}},
            {"log-opts": {"max-file": "4"}},
            {"log-opts": {"max-file": "3"}},
            {"log-opts": {"max-file": "4"}},
        ),
        # ours no more
        ({"live-restore": True, "debug": True}, {}, {"live-restore": True}, {"debug": True}),
        (
            {"log-opts": {"labels": "a", "max-file": "3"}},
            {},
            {"log-opts": {"max-file": "3"}},
            {"log-opts": {"labels": "a"}},
        ),
        ({"log-opts": {"max-file": "3"}, "debug": True}, {}, {"log-opts": {"max-file": "3"}}, {"debug": True}),
        # ours once, the owner's since
        ({"live-restore": False}, {}, {"live-restore": True}, {"live-restore": False}),
    ],
)
def test_the_owners_settings_stay(
    plugin: ModuleType, found: dict[str, Any], ours: dict[str, Any], recorded: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert plugin.dask_docker_merge(found, ours, recorded) == expected
    assert plugin.dask_docker_merge(expected, ours, ours) == expected


@pytest.mark.parametrize(
    ("found", "recorded", "expected"),
    [
        ({}, {}, []),
        (OURS, {}, []),
        ({"debug": True}, {}, []),
        ({"log-driver": "journald"}, {}, ['log-driver is "journald", and would become "json-file"']),
        ({"live-restore": False}, {}, ["live-restore is false, and would become true"]),
        ({"log-opts": {"max-size": "1g"}}, {}, ['log-opts.max-size is "1g", and would become "10m"']),
        ({"log-opts": "none"}, {}, None),
        # what we wrote is ours to change; what somebody wrote over it is not
        ({"log-opts": {"max-size": "7m"}}, {"log-opts": {"max-size": "7m"}}, []),
        (
            {"log-opts": {"max-size": "8m"}},
            {"log-opts": {"max-size": "7m"}},
            ['log-opts.max-size is "8m", and would become "10m"'],
        ),
    ],
)
def test_a_contradiction_is_named(
    plugin: ModuleType, found: dict[str, Any], recorded: dict[str, Any], expected: list[str] | None
) -> None:
    lines = plugin.dask_docker_contradictions(found, OURS, recorded)
    if expected is None:
        assert lines[0].startswith('log-opts is "none", and would become {')
    else:
        assert lines == expected
