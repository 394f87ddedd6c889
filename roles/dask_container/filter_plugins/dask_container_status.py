"""An environment as an engine takes it; what runs, held against what the inventory wants; the table of all hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

HEADING = (
    *("host", "container", "state", "health", "digest", "uptime", "restarts"),
    *("memory", "stored", "spilled", "logs", "drift"),
)
# columns of numbers
RIGHT = {"uptime", "restarts", "memory", "stored", "spilled", "logs"}


def dask_container_environment(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment with numbers, true, false and nothing as text, which is all that an engine takes.

    What cannot be meant, as a list, stays for docker_container to refuse by its name.
    """
    as_text = {name: str(value).lower() for name, value in variables.items() if isinstance(value, (int, float))}
    return {**variables, **as_text, **{name: "" for name, value in variables.items() if value is None}}


def dask_container_drift(names: Sequence[str], foreseen: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, by container, the names of what site.yml would change of it; none where nothing could be foreseen.

    Args:
        names: of the containers that the inventory wants.
        foreseen: the registered result of docker_container in check mode over them; {} when there was none.
    """
    results = {result["item"]["name"]: result for result in foreseen.get("results", [])}
    return {name: _differing(results.get(name, {})) for name in names}


def _differing(result: Mapping[str, Any]) -> list[str]:
    said = result.get("diff") or {}
    sides = [said.get(side) or {} for side in ("before", "after")]
    names = sorted(name for name in set(sides[0]) | set(sides[1]) if sides[0].get(name) != sides[1].get(name))
    # the hash of Dask's configuration is a label; the others are a cluster's name and a kind
    return ["configuration" if name == "labels" else name for name in names]


def dask_container_status(
    cluster: str, rows: Mapping[str, Sequence[Row]], unreachable: Iterable[str], in_flight: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the status of all hosts as plain data; bytes and seconds, null for what cannot be told.

    Args:
        cluster: its name.
        rows: by host.
        unreachable: hosts that did not answer.
        in_flight: what in_flight.py printed; None when the scheduler does not say.
    """
    containers = [{"host": host, **row} for host, listed in rows.items() for row in listed]
    return {
        "cluster": cluster,
        "containers": containers,
        "in_flight": dict(in_flight) if in_flight else None,
        "unreachable": list(unreachable),
    }


def dask_container_table(status: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table for people, one of what is in flight, and of workers that take no tasks."""
    cells = [_cells(row) for row in status["containers"]]
    cells += [{**dict.fromkeys(HEADING, ""), "host": host, "state": "unreachable"} for host in status["unreachable"]]
    table = [dict(zip(HEADING, HEADING, strict=True)), *cells]
    wide = {name: max(len(row[name]) for row in table) for name in HEADING}
    lines = [
        "  ".join(
            row[name].rjust(wide[name]) if name in RIGHT else row[name].ljust(wide[name]) for name in HEADING
        ).rstrip()
        for row in table
    ]
    retired = (status["in_flight"] or {}).get("retired")
    if retired:
        lines.append(
            f"take no tasks: {', '.join(retired)}: a drain is under way or was cut off; drain.yml goes on with it,"
            " undrain.yml brings them back"
        )
    return [*lines, f"in flight: {_flight(status['in_flight'])}"]


def _flight(counts: Mapping[str, Any] | None) -> str:
    if counts is None:
        return "not known, as the scheduler does not say"
    if not counts["tasks"] and not counts["clients"]:
        return "nothing, and no client is connected"
    return dask_container_flight(counts)


def dask_container_flight(counts: Mapping[str, Any]) -> str:
    """Return in words what the scheduler has in flight: as in_flight.py prints it, bytes in B."""
    return (
        f"{counts['tasks']} tasks or stored keys ({counts['bytes']} bytes), of which {counts['processing']} processing,"
        f" and {counts['clients']} clients"
    )


def _cells(row: Row) -> dict[str, str]:
    used, limit = row["memory"], row["memory_limit"]
    return {
        "host": str(row["host"]),
        "container": str(row["name"]),
        "state": str(row["state"]),
        "health": row["health"] or "-",
        "digest": row["image"].rpartition("@sha256:")[2][:12] if row["image"] else "-",
        "uptime": _time(row["uptime"]),
        "restarts": "-" if row["restarts"] is None else str(row["restarts"]),
        "memory": f"{_size(used)} of {_size(limit)}" if used is not None else "-",
        "stored": _size(row["stored"]),
        "spilled": _size(row["spilled"]),
        "logs": _size(row["logs"]),
        "drift": ", ".join(row["drift"]) or "none",
    }


def _size(number: int | None) -> str:
    if number is None:
        return "-"
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _time(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    for length, unit, less, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= length:
            return f"{seconds // length} {unit} {seconds % length // less} {smaller}"
    return f"{seconds} s"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "dask_container_drift": dask_container_drift,
            "dask_container_environment": dask_container_environment,
            "dask_container_flight": dask_container_flight,
            "dask_container_status": dask_container_status,
            "dask_container_table": dask_container_table,
        }
