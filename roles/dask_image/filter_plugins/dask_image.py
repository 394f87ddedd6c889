"""What an upgrade is about, whether it failed, and what is said of it in the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Plan = dict[str, Any]


def dask_image_plan(looks: Mapping[str, Mapping[str, Any]], scheduler: str, wanted: str) -> Plan:
    """Return what an upgrade would do.

    `from` is the image to roll back to: the last one that was verified. That is what a run that was killed noted, never
    what such a run left half done; without a note it is what the scheduler runs now.

    Args:
        looks: by host, what dask_image_look returned.
        scheduler: the scheduler's host.
        wanted: the pinned reference.
    """
    note, runs = looks[scheduler]["note"], looks[scheduler]["containers"].get("dask-scheduler", "")
    order = [scheduler, *(host for host in looks if host != scheduler)]
    stale = {
        host: {name: image for name, image in sorted(looks[host]["containers"].items()) if image != wanted}
        for host in order
    }
    other = [image for images in stale.values() for image in images.values()]
    return {
        "from": note["from"] if note else runs or wanted,
        "to": wanted,
        "since": note.get("since", 0),
        "resumed": bool(note),
        # what runs is of the image that failed, and was about to go
        "resumes_back": bool(note) and note["from"] == wanted != runs,
        # what runs was started by the run that was killed
        "unverified": bool(note) and runs not in ("", note["from"]),
        "needed": bool(note or other),
        # no scheduler, no cluster; but a run may have been killed between the old one and the new
        "runs": bool(note or runs),
        "stale": {host: images for host, images in stale.items() if images},
    }


def dask_image_foreseen(plan: Plan) -> list[str]:
    """Return the lines that say what an upgrade would do, or that there is nothing to do."""
    if not plan["needed"]:
        return [f"every container was made from {plan['to']} already: nothing to do"]
    lines = [
        f"{host}: {name} would be replaced: {image} -> {plan['to']}"
        for host, images in plan["stale"].items()
        for name, image in images.items()
    ]
    if plan["resumed"]:
        lines.append(f"an upgrade from {plan['from']} has not ended yet: it would be gone on with, and verified")
    return lines


def dask_image_error(result: Mapping[str, Any], task: str) -> str:
    """Return what a failed task says, in one line; of a loop, what its items say.

    Args:
        result: the task's, `ansible_failed_result`.
        task: its name.
    """
    items = [item for item in result.get("results", []) if item.get("failed")]
    said = [str(each.get("msg") or each.get("stderr") or "failed") for each in items or [result]]
    return f"{task}: {'; '.join(' '.join(text.split()) for text in dict.fromkeys(said))}"


def dask_image_failures(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], answering: Collection[str]
) -> list[str]:
    """Return a line for each host that failed or that no longer answers.

    Args:
        hostvars: of all hosts; a host notes its error as `hostnet_replace_error`.
        hosts: those that it is about.
        answering: those of them that still answer.
    """
    lines = []
    for host in hosts:
        if host not in answering:
            lines.append(f"{host} does not answer any more")
        elif error := hostvars[host].get("hostnet_replace_error"):
            lines.append(f"{host}: {error}")
    return lines


def dask_image_outcome(plan: Plan, came: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether the upgrade is done, whether the cluster is verified, and the lines that say so.

    Args:
        plan: what it was about.
        came: `failed`, why it did not succeed (empty when it did); `back`, whether it was rolled back; `failed_back`,
            why that did not succeed; `lost`, the hosts that no longer answer; `ended`, when the last verification did,
            in seconds since the epoch by the control machine's clock; `touched`, whether the scheduler was replaced.
    """
    failed, back, failed_back, lost = (came[name] for name in ("failed", "back", "failed_back", "lost"))
    seconds = f"{max(0, round(float(came['ended']) - plan['since']))} s without a verified cluster"
    if not failed:
        return {
            "done": True,
            "verified": True,
            "lines": [f"upgraded: {plan['from']} -> {plan['to']}, verified; {seconds}"],
        }
    lines = [f"the upgrade to {plan['to']} failed: {reason}" for reason in failed]
    # a host that went away leaves the others' verification standing
    verified = back and not [reason for reason in failed_back if not reason.endswith(" does not answer any more")]
    if not back and not came["touched"] and plan["from"] != plan["to"]:
        lines.append(f"nothing was replaced, {plan['from']} runs as before. Run upgrade.yml again when that is mended")
        return {"done": False, "verified": not lost, "lines": lines}
    if not back:
        alone = plan["from"] == plan["to"]
        cause = "there is no other image to go back to" if alone else "the scheduler's host is not there"
        lines.append(f"nothing was rolled back, as {cause}; the cluster is NOT verified. {_again('that is mended')}")
    elif verified:
        lines.append(f"rolled back to {plan['from']}, which is pinned again and verified; {seconds}")
    else:
        lines += [f"the way back to {plan['from']} failed: {reason}" for reason in failed_back]
        lines.append(
            f"{plan['from']} is pinned again, and NOT verified: see docker logs there. {_again('that is mended')}"
        )
    if verified and lost:
        lines.append(f"{', '.join(lost)}: left as it was. {_again('it answers')}")
    return {"done": False, "verified": verified and not lost, "lines": lines}


def _again(when: str) -> str:
    return f"Run upgrade.yml again when {when}: it goes on from here"


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "dask_image_plan": dask_image_plan,
            "dask_image_foreseen": dask_image_foreseen,
            "dask_image_error": dask_image_error,
            "dask_image_failures": dask_image_failures,
            "dask_image_outcome": dask_image_outcome,
        }
