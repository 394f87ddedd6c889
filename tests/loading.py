"""What of a role is no package, loaded as the module that it is: plugins, modules of Ansible, scripts."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(path: Path, *shared: Path) -> ModuleType:
    """Return the file as a module; folder and file name it, as roles have plugins and modules of one name.

    What it shares with others by `module_utils` is where Ansible puts it when it sends a module.
    """
    for each in shared:
        sys.modules[f"ansible.module_utils.{each.stem}"] = load(each)
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
