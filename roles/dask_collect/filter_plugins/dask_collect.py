"""What an inventory holds: the secrets that must be masked, and the variables that a helper may see.

A value is a secret when it is vaulted, by itself or with its whole file, or when its name says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible._internal._datatag._tags import Origin, SourceWasEncrypted
from ansible.errors import AnsibleFilterError
from ansible.parsing.vault import VaultHelper

SHOWN = ("dask_", "hostnet_")
SHOWN_TOO = ("ansible_host", "ansible_port", "ansible_user", "ansible_connection", "ansible_become", "group_names")
# ours, while it runs
HIDDEN = ("dask_collect_", "hostnet_collect_")
# what Ansible itself adds
FACTS = ("ansible_facts", "ansible_local", "groups", "hostvars", "omit", "vars")
VAULT = b"$ANSIBLE_VAULT"


def _load_mask() -> ModuleType:
    """Load the module that hosts mask with: Ansible finds it for modules only."""
    path = Path(__file__).parents[1] / "module_utils" / "dask_collect_mask.py"
    spec = importlib.util.spec_from_file_location("dask_collect_mask", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MASKING = _load_mask()


def _in_vaulted_file(value: Any, seen: dict[str, bool]) -> bool:
    """Whether a value was read from a file that is vaulted as a whole."""
    if SourceWasEncrypted.is_tagged_on(value):
        return True
    origin = Origin.get_tag(value)
    path = origin.path if origin else None
    if path is None:
        return False
    if path not in seen:
        try:
            with Path(path).open("rb") as file:
                seen[path] = file.read(len(VAULT)) == VAULT
        except OSError:
            seen[path] = False
    return seen[path]


def _vaulted(value: Any, seen: dict[str, bool]) -> Iterator[Any]:
    """Yield what is vaulted in a value, however deep."""
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _vaulted(one, seen)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _vaulted(one, seen)
    elif VaultHelper.get_ciphertext(value, with_tags=False) is not None or _in_vaulted_file(value, seen):
        yield value


def _plain(value: Any) -> Any:
    """Return a value without Ansible's types, so that it can be written as JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Return a plain value with each text in it masked."""
    if isinstance(value, dict):
        return {key: _masked(one, mask) for key, one in value.items()}
    if isinstance(value, list):
        return [_masked(one, mask) for one in value]
    return mask(value) if isinstance(value, str) else value


def _evaluated(view: Mapping[str, Any], name: str) -> Any:
    """Return a host's variable, `view` being its `hostvars`, with its expressions evaluated.

    Raises:
        ValueError: it cannot be, for an undefined name or a missing vault password.
    """
    try:
        return _plain(view[name])
    # whatever Ansible raises: one bad variable is no reason to collect nothing
    except Exception as error:
        raise ValueError(" ".join(str(error).split())) from error


def dask_collect_secrets(hostvars: Any, hosts: Iterable[str]) -> list[Any]:
    """Return the secrets that the inventory holds for any of the hosts, as texts, lists and dicts.

    Args:
        hostvars: Ansible's `hostvars`.
        hosts: names of hosts.

    Raises:
        AnsibleFilterError: a vaulted value cannot be decrypted.
    """
    secrets: set[str] = set()
    seen: dict[str, bool] = {}
    for host in hosts:
        view = hostvars[host]
        for name, raw in hostvars.raw_get(host).items():
            if name in FACTS:
                continue
            for one in _vaulted(raw, seen):
                try:
                    secrets |= set(MASKING.values(_plain(one)))
                except Exception as error:
                    # what is not known cannot be masked
                    said = f"{host}: {name} cannot be decrypted, so it could not be masked: give the vault's password"
                    raise AnsibleFilterError(said) from error
            # one that cannot be evaluated is shown nowhere either
            with suppress(ValueError):
                secrets |= set(MASKING.found({name: _evaluated(view, name)}))
    return sorted(secrets)


def dask_collect_variables(hostvars: Any, hosts: Iterable[str], secrets: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Return each host's variables of ours, as the inventory gives them, without those that are secrets.

    Args:
        hostvars: Ansible's `hostvars`.
        hosts: names of hosts.
        secrets: what to mask in values that were put together from others.
    """
    mask = MASKING.Mask(secrets)
    seen: dict[str, bool] = {}
    shown: dict[str, dict[str, Any]] = {}
    for host in hosts:
        view, shown[host] = hostvars[host], {}
        for name, raw in sorted(hostvars.raw_get(host).items()):
            # a role's or a playbook's picture of other hosts is no variable of this one
            if not (name.startswith(SHOWN) or name in SHOWN_TOO) or name.startswith(HIDDEN):
                continue
            if MASKING.is_secret(name) or any(True for _ in _vaulted(raw, seen)):
                shown[host][name] = MASKING.MASK
                continue
            try:
                shown[host][name] = _masked(MASKING.hidden(_evaluated(view, name)), mask)
            except ValueError as error:
                shown[host][name] = mask(f"could not: {error}")
    return shown


class FilterModule:
    """Ansible's entry to the functions above."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"dask_collect_secrets": dask_collect_secrets, "dask_collect_variables": dask_collect_variables}
