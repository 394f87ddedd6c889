#!/usr/bin/python
"""Take, renew, release or read the operators' lock of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_lock_hold import age, change, place, read, renewed

DOCUMENTATION = r"""
module: dask_lock
short_description: Takes, renews, releases or reads the operators' lock
description: Its action of the same name says who asks, and judges whether a holder on the control machine is alive.
options:
  path:
    description: The lock's file.
    type: path
    required: true
  state:
    description: V(held) takes it or renews one's own, V(free) releases one's own, V(read) tells who has it.
    type: str
    choices: [held, free, read]
    required: true
  wish:
    description: Who asks. C(user), C(control), C(boot), C(pid), C(start), C(verb), C(token).
    type: dict
    default: {}
  program:
    description: What lies beside the lock while it is held, as its name with C(.py).
    type: str
    default: ""
  gone:
    description: Token of a holder that is known to be gone.
    type: str
    default: ""
  stale:
    description: Seconds without renewal after which the lock is anybody's.
    type: int
    default: 600
"""
RETURN = r"""
holder:
  description: Who has it now, with C(since) and C(renewed); empty where nobody has.
  type: dict
age:
  description: Seconds since it was renewed, or since that of the one before was where that was taken over.
  type: int
before:
  description: Whom it was taken over from; empty where nobody had it.
  type: dict
"""


def beside(path: Path) -> Path:
    """Return the file of the program."""
    return path.with_name(f"{path.name}.py")


def take(path: Path, wish: dict[str, Any], gone: str, stale: int, program: str) -> dict[str, Any]:
    """Take it or renew one's own, unless another has it."""
    seen: dict[str, Any] = {"before": {}, "age": 0}

    def judge(was: dict[str, Any] | None) -> dict[str, Any]:
        if was and was["token"] == wish["token"]:
            place(beside(path), program)
            # of a playbook within another the outer one's verb stays
            mine: dict[str, Any] = renewed(was)
            return mine
        if was:
            seen["age"] = int(age(was))
            if was["token"] != gone and age(was) <= stale:
                return was
            seen["before"] = was
        place(beside(path), program)
        new: dict[str, Any] = renewed(wish)
        return new | {"since": new["renewed"]}

    seen["holder"] = change(path, judge)
    return seen


def release(path: Path, wish: dict[str, Any]) -> dict[str, Any]:
    """Release it if it is one's own, and was taken for this verb and no outer one."""
    mine = {"token": wish["token"], "verb": wish["verb"]}

    def judge(was: dict[str, Any] | None) -> dict[str, Any] | None:
        if was and was | mine != was:
            return was
        beside(path).unlink(missing_ok=True)
        return None

    holder = change(path, judge)
    return {"holder": holder or {}, "age": int(age(holder)) if holder else 0, "before": {}}


def main() -> None:
    """Do it, and return what is there."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["held", "free", "read"], "required": True},
            "wish": {"type": "dict", "default": {}},
            "program": {"type": "str", "default": ""},
            "gone": {"type": "str", "default": "", "no_log": False},
            "stale": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    path, wish = Path(module.params["path"]), module.params["wish"]
    try:
        if module.params["state"] == "read" or module.check_mode:
            holder = read(path)
            seen = {"holder": holder or {}, "age": int(age(holder)) if holder else 0, "before": {}}
        elif module.params["state"] == "held":
            seen = take(path, wish, module.params["gone"], module.params["stale"], module.params["program"])
        else:
            seen = release(path, wish)
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **seen)


if __name__ == "__main__":
    main()
