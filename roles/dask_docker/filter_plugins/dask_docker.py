"""The engine's configuration file as it should be: the owner's settings, with ours among them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def dask_docker_merge(
    found: Mapping[str, Any], ours: Mapping[str, Any], recorded: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the file's settings with ours among them; what we wrote once and want no more is taken out.

    Args:
        found: the settings that the file holds.
        ours: the settings that we want, of which a mapping is merged and not replaced.
        recorded: the settings that we wrote the last time.
    """
    recorded = recorded or {}
    merged = {key: value for key, value in found.items() if key in ours or recorded.get(key, not value) != value}
    for key, value in ours.items():
        old = found.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            last = recorded.get(key)
            merged[key] = dask_docker_merge(old, value, last if isinstance(last, Mapping) else {})
        else:
            merged[key] = value
    # of a mapping that is ours no more, the owner's part stays
    for key, last in recorded.items():
        if key not in ours and isinstance(last, Mapping) and isinstance(found.get(key), Mapping):
            rest = dask_docker_merge(found[key], {}, last)
            merged.pop(key, None)
            if rest:
                merged[key] = rest
    return merged


def dask_docker_contradictions(
    found: Mapping[str, Any], ours: Mapping[str, Any], recorded: Mapping[str, Any] | None = None, within: str = ""
) -> list[str]:
    """Return, a line each, the owner's settings that are not what we want, and that we did not write."""
    recorded = recorded or {}
    lines = []
    for key, value in ours.items():
        if key not in found or found[key] == value:
            continue
        old, last = found[key], recorded.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            lines += dask_docker_contradictions(
                old, value, last if isinstance(last, Mapping) else {}, f"{within}{key}."
            )
        elif old != last:
            lines.append(f"{within}{key} is {json.dumps(old)}, and would become {json.dumps(value)}")
    return lines


def dask_docker_restore(
    found: Mapping[str, Any], recorded: Mapping[str, Any], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the file's settings without ours: as they were before, but for what somebody has changed since.

    Args:
        found: the settings that the file holds.
        recorded: the settings that we wrote.
        before: the settings that it held before us; None where there was no file.
    """
    before = before or {}
    restored = dict(found)
    for key, value in recorded.items():
        old, was = found.get(key), before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            restored[key] = dask_docker_restore(old, value, was if isinstance(was, Mapping) else {})
            if not restored[key] and key not in before:
                del restored[key]
        elif key in found and old == value:
            del restored[key]
            if key in before:
                restored[key] = was
    return restored


class FilterModule:
    """Ansible's entry to the functions above."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "dask_docker_contradictions": dask_docker_contradictions,
            "dask_docker_merge": dask_docker_merge,
            "dask_docker_restore": dask_docker_restore,
        }
