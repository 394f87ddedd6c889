#!/usr/bin/python
"""Have this host's containers of ours gone, whatever the cluster was called when they were made."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_cluster_engine import Engine, installed

DOCUMENTATION = r"""
module: dask_container_remove
short_description: Has our containers gone
options:
  kind:
    description: Those of this kind alone, as their label has it; all when empty.
    type: str
    default: ""
"""
RETURN = r"""
removed:
  description: Which went, or would go in check mode.
  type: list
running:
  description: By name, the kind of those that ran.
  type: dict
"""

KIND = "io.dask-hostnet.kind"
# of the cluster, of a verification, of a trial of an image; the tests' nodes, which a host may run, have the kind alone
LABELS = ("io.dask-hostnet.cluster", "io.dask-hostnet.verify", "io.dask-hostnet.trial")
# a kill waits for the kernel
DEADLINE = 120


def ours(engine: Engine, kind: str) -> list[dict[str, Any]]:
    """Return our containers, by their names."""
    found: dict[str, dict[str, Any]] = {}
    for label in LABELS:
        wanted = urllib.parse.quote(json.dumps({"label": [label]}))
        for each in engine.ask(f"/containers/json?all=1&filters={wanted}") or []:
            if not kind or each["Labels"].get(KIND) == kind:
                found[each["Names"][0].lstrip("/")] = each
    return [found[name] | {"Name": name} for name in sorted(found)]


def main() -> None:
    """Remove, and say what."""
    module = AnsibleModule(argument_spec={"kind": {"type": "str", "default": ""}}, supports_check_mode=True)
    if not installed():
        module.exit_json(changed=False, removed=[], running={})
    try:
        engine = Engine()
        engine.timeout = DEADLINE
        found = ours(engine, module.params["kind"])
        for each in found if not module.check_mode else []:
            engine.remove(f"/containers/{each['Id']}?force=1&v=1")
    except (OSError, http.client.HTTPException, ValueError) as error:
        module.fail_json(
            msg=f"the engine does not say what it runs: {error}. Start it (systemctl start docker), and run again"
        )
    removed = [f"container {each['Name']}" for each in found]
    at_work = [each for each in found if each["State"] in {"running", "restarting", "paused"}]
    running = {each["Name"]: each["Labels"].get(KIND, "") for each in at_work}
    diff = {"before": "".join(f"{each}\n" for each in removed), "after": ""}
    module.exit_json(changed=bool(removed), removed=removed, running=running, diff=diff)


if __name__ == "__main__":
    main()
