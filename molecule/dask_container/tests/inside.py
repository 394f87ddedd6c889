"""Run inside a container: print as JSON what the kernel lets its process do, and what lies in its reach."""

import json
import os
import re
import resource
import stat
from contextlib import suppress
from pathlib import Path

COMPILER = re.compile(r"(.+-)?(cc|c\+\+|cpp|gcc|g\+\+|clang|clang\+\+|tcc|as|ld|go|rustc)(-[0-9.]+)?")
OTHER_TREES = ("/proc", "/sys")
PLACES = ("/tmp/mine", "/opt/dask/mine", "/etc/dask/mine")  # noqa: S108  # the container's own


def written(path: str) -> str:
    """Return how an attempt to write there ends."""
    try:
        Path(path).touch()
    except OSError as error:
        return os.strerror(error.errno or 0)
    Path(path).unlink()
    return "written"


def found() -> dict[str, list[str]]:
    """Return what no container of ours has, by its kind."""
    kinds: dict[str, list[str]] = {"privileged": [], "sockets": [], "compilers": [], "caches": [], "installers": []}
    for folder, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if str(Path(folder, name)) not in OTHER_TREES]
        kinds["caches"] += [
            f"{folder}/{name}" for name in folders if (folder.rpartition("/")[2], name) == (".cache", "pip")
        ]
        for name in names:
            path = f"{folder}/{name}"
            with suppress(OSError):
                mode = os.lstat(path).st_mode
                if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                    kinds["privileged"].append(path)
                if stat.S_ISSOCK(mode):
                    kinds["sockets"].append(path)
                if mode & 0o111 and folder.endswith("bin") and COMPILER.fullmatch(name):
                    kinds["compilers"].append(path)
                if name in ("pip", "pip3", "ensurepip") or re.fullmatch(r"(pip|setuptools)-.*\.whl", name):
                    kinds["installers"].append(path)
    return kinds


status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
print(
    json.dumps(
        {
            "ids": [*os.getresuid(), *os.getresgid()],
            "groups": os.getgroups(),
            "capabilities": {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")},
            "no_new_privileges": status["NoNewPrivs"],
            "seccomp": status["Seccomp"],
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "root_is_read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
            "writing": {path: written(path) for path in PLACES},
            **found(),
        }
    )
)
