"""Which workers a verification asks for: playbooks/filter_plugins/hostnet_expected.py."""

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleUndefinedVariable
from loading import load

expected = load(Path(__file__).parents[1] / "playbooks/filter_plugins/hostnet_expected.py").hostnet_expected
HOSTS = {
    "one": {},
    # a number on the command line is text
    "two": {
        "dask_worker_count": "3",
        "__dask_worker_look": {"drained": ["two-1"], "running": ["dask-worker-0", "dask-worker-2"]},
    },
    # whose worker goes with a later batch
    "three": {"dask_worker_count": 0, "__dask_worker_look": {"drained": [], "running": ["dask-worker-3"]}},
    "four": {"__dask_worker_look": {"drained": ["four-0"], "running": ["dask-worker-0"]}},
    # nobody's host of workers
    "scheduler": {"dask_worker_count": 5},
}
GROUP = ["one", "two", "three", "four"]


def test_who_is_in_service_must_be_there_and_who_is_drained_must_not() -> None:
    assert expected(HOSTS, GROUP, GROUP) == {
        "present": ["one-0", "two-0", "two-2"],
        "optional": [],
        "absent": ["two-1", "four-0"],
    }


@pytest.mark.parametrize(("running", "more"), [(False, []), (True, ["three-3"])])
def test_those_of_other_hosts_may_be_there_and_what_runs_beside_the_inventory_where_it_is_to_go(
    running: bool, more: list[str]
) -> None:
    assert expected(HOSTS, GROUP, ["one", "scheduler"], running) == {
        "present": ["one-0"],
        "optional": ["two-0", "two-1", "two-2", *more, "four-0"],
        "absent": [],
    }


def test_a_host_whose_count_nobody_can_tell_has_one() -> None:
    class Unknown(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            if name == "dask_worker_count":
                raise AnsibleUndefinedVariable("'processor_vcpus' is undefined")
            return default

    assert expected({"away": Unknown()}, ["away"], [])["optional"] == ["away-0"]
