"""Which workers a verification asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleUndefinedVariable


def _count(variables: Mapping[str, Any]) -> int:
    """Return how many workers a host is to have: one, as by default, where that is not known of the host."""
    try:
        return int(variables.get("dask_worker_count", 1))
    except AnsibleUndefinedVariable:
        return 1


def hostnet_expected(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], judged: Collection[str], running: bool = False
) -> dict[str, list[str]]:
    """Return names of workers: `present` must be there, `optional` may be, `absent` must not be.

    Args:
        hostvars: of all hosts. What dask_worker's look.yml found there is `__dask_worker_look`; where it was not asked,
            no worker is known to be drained, or to run beside the inventory's.
        hosts: those of workers.
        judged: those of them whose workers are judged. Others' are optional.
        running: whether those are, too, that run on others and are not in the inventory.
    """
    expected: dict[str, list[str]] = {"present": [], "optional": [], "absent": []}
    for host in hosts:
        look = hostvars[host].get("__dask_worker_look") or {}
        drained = list(look.get("drained") or [])
        wanted = [f"{host}-{number}" for number in range(_count(hostvars[host]))]
        if host in judged:
            expected["present"] += [name for name in wanted if name not in drained]
            expected["absent"] += drained
        else:
            found = (look.get("running") or []) if running else []
            expected["optional"] += dict.fromkeys(wanted + [name.replace("dask-worker", host, 1) for name in found])
    return expected


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"hostnet_expected": hostnet_expected}
