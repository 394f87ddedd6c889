#!/usr/bin/python
"""Gather what a helper needs to know of this host: bounded, masked before it leaves the host; nothing is changed."""

from __future__ import annotations

import base64
import json
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.dask_collect_mask import MASK, Mask, found, is_secret, values

DOCUMENTATION = r"""
module: dask_collect_host
short_description: Gathers journals, logs, settings and facts of a host, masked
options:
  config_dir:
    description: The folder of the cluster's configuration; a file there that not all may read is a secret.
    type: path
    required: true
  lines:
    description: Lines of each journal and log, the newest.
    type: int
    required: true
  bytes:
    description: Bytes of each source, the newest.
    type: int
    required: true
  deadline:
    description: Seconds for each source.
    type: int
    required: true
  secrets:
    description: Secrets to mask, a JSON list in base64.
    type: str
    required: true
"""

LABEL = "io.dask-hostnet."
# all logs of one host together
LOGS = 32 * 2**20
SMALLEST_LOG = 2**16
LARGEST_SECRET = 2**16
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
PACKAGES = [
    "docker*",
    "containerd*",
    "runc",
    "python3",
    "python3-requests",
    "nftables",
    "systemd",
    "libc6",
    "linux-image-*",
]
CONTAINERS = "table {{.ID}}\t{{.Image}}\t{{.Names}}\t{{.Status}}"
# who logged in, and what they typed, helps nobody
LOGINS = re.compile(r"^\S+ \S+ (?:sshd|sshd-session|sudo|su|login|systemd-logind|CRON)(?:\[|:)")
COMMANDS = {
    "host/kernel.txt": ["uname", "--all"],
    "host/uptime.txt": ["uptime"],
    "host/cpu.txt": ["lscpu"],
    "host/memory.txt": ["free", "--mebi", "--wide"],
    "host/disks.txt": ["df", "--print-type", "--human-readable"],
    "host/inodes.txt": ["df", "--inodes"],
    "host/mounts.txt": ["findmnt", "--list"],
    "host/addresses.txt": ["ip", "-brief", "address"],
    "host/routes.txt": ["ip", "route"],
    "host/sockets.txt": ["ss", "--listening", "--tcp", "--numeric", "--processes"],
    # not timedatectl: that starts a service with a folder of its own in /tmp
    "host/clock.txt": ["date", "--utc", "--iso-8601=ns"],
    "host/units.txt": ["systemctl", "list-units", "--failed", "--plain", "--no-pager"],
    "host/services.txt": ["systemctl", "status", "docker", "docker-registry", "containerd", "--lines=0", "--no-pager"],
    "host/packages.txt": ["dpkg-query", "--show", *PACKAGES],
    "host/nftables.txt": ["nft", "list", "ruleset"],
    "docker/version.txt": ["docker", "version"],
    "docker/info.txt": ["docker", "info"],
    "docker/images.txt": ["docker", "images", "--digests"],
    # no commands: other people's may hold their secrets
    "docker/containers.txt": ["docker", "ps", "--all", "--no-trunc", "--format", CONTAINERS],
}
JOURNALS = {
    "journal/docker.txt": ["--unit", "docker.service"],
    "journal/docker-registry.txt": ["--unit", "docker-registry.service"],
    "journal/dask-hostnet.txt": ["--unit", "dask-hostnet-*"],
    "journal/containerd.txt": ["--unit", "containerd.service"],
    "journal/kernel.txt": ["--dmesg"],
    "journal/warnings.txt": ["--priority", "warning"],
}
FILES = {
    "host/system.txt": "/etc/os-release",
    "host/limits.txt": "/proc/1/limits",
    "host/ephemeral-ports.txt": "/proc/sys/net/ipv4/ip_local_port_range",
    "docker/daemon.json": "/etc/docker/daemon.json",
    "docker/registry.yml": "/etc/docker/registry/config.yml",
}
# exit statuses that are an answer: systemctl's and dpkg-query's for what is not there
ANSWERS = {"systemctl": (0, 3, 4), "dpkg-query": (0, 1)}


class UnavailableError(Exception):
    """A source that cannot be read; the text says why."""


class LateError(UnavailableError):
    """A source that takes too long."""


def tail(command: list[str], deadline: float, largest: int) -> str:
    """Run a command and return the end of what it prints, whole lines, at most `largest` bytes.

    Raises:
        UnavailableError: it is not there, fails, or is not done in `deadline` seconds.
    """
    where = shutil.which(command[0], path=PATH)
    if not where:
        raise UnavailableError(f"{command[0]} is not installed")
    child = subprocess.Popen(
        [where, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "SYSTEMD_COLORS": "0", "COLUMNS": "200"},
        start_new_session=True,
    )
    assert child.stdout is not None  # noqa: S101 # for the type checker
    end, kept, cut = time.monotonic() + deadline, b"", False
    try:
        with selectors.DefaultSelector() as ready, child.stdout as output:
            ready.register(output, selectors.EVENT_READ)
            while True:
                if not ready.select(max(0.0, end - time.monotonic())):
                    raise LateError(f"{' '.join(command[:2])}: not done in {deadline:g} s")
                part = os.read(output.fileno(), 2**16)
                if not part:
                    break
                kept += part
                # room for twice as much, so that not each part is copied
                if len(kept) > 2 * largest:
                    kept, cut = kept[-largest:], True
        try:
            status = child.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise LateError(f"{' '.join(command[:2])}: not done in {deadline:g} s") from None
    finally:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    text = whole_lines(kept, largest, cut=cut)
    if status not in ANSWERS.get(command[0], (0,)):
        raise UnavailableError(f"{' '.join(command[:2])}: exit status {status}: {text.strip()[-500:]}")
    return text


def whole_lines(data: bytes, largest: int, *, cut: bool = False) -> str:
    """Return the last `largest` bytes as text, less the line that was cut: half a secret is not found."""
    if cut or len(data) > largest:
        _, _, data = data[-largest:].partition(b"\n")
        return f"(only the end, {len(data)} bytes)\n" + data.decode(errors="replace")
    return data.decode(errors="replace")


def last_bytes(path: str, largest: int) -> str:
    """Return the end of a file, whole lines.

    Raises:
        UnavailableError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - largest))
            return whole_lines(file.read(largest), largest, cut=size > largest)
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}") from error


def without_logins(text: str) -> str:
    """Leave out the journal's lines about logins and what follows on from them."""
    kept, leave_out = [], False
    for line in text.splitlines(keepends=True):
        if not line.startswith(" "):
            leave_out = bool(LOGINS.match(line))
        if not leave_out:
            kept.append(line)
    return "".join(kept)


def hide(container: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a container's settings with the values of secret variables and options masked, and those values."""
    secrets: list[str] = []
    config = container.get("Config") or {}
    environment = dict(entry.partition("=")[::2] for entry in config.get("Env") or [])
    secrets += found(environment)
    config["Env"] = [f"{name}={MASK if is_secret(name) else value}" for name, value in environment.items()]
    commands: list[list[str]] = [config.get("Cmd") or [], config.get("Entrypoint") or [], container.get("Args") or []]
    for words in commands:
        for i, word in enumerate(words):
            name, given, value = word.partition("=")
            if not name.startswith("-") or not is_secret(name):
                continue
            if given:
                secrets.append(value)
                words[i] = f"{name}={MASK}"
            elif i + 1 < len(words) and not words[i + 1].startswith("-"):
                secrets.append(words[i + 1])
                words[i + 1] = MASK
    return container, secrets


def secret_file(path: Path) -> list[str]:
    """Return what of a file that not all may read must not be seen: its text, or the values of its JSON.

    Raises:
        UnavailableError: it is larger than any secret.
    """
    if path.stat().st_size > LARGEST_SECRET:
        raise UnavailableError(f"{path} is too large to look for in other texts")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        return [text]
    if not isinstance(content, dict):
        return [text]
    passwords = []
    # Docker's login: base64 of user:password
    for login in values(content.get("auths")):
        with suppress(ValueError):
            passwords.append(base64.b64decode(login).decode(errors="replace").partition(":")[2])
    return [*values(content), *passwords]


class Gatherer:
    """Gathers the texts of one host by their names; what cannot be had is a line and no failure."""

    def __init__(self, config_dir: str, lines: int, largest: int, deadline: float, secrets: list[Any]) -> None:
        """Take the folder of the configuration, the bounds, and the secrets that are known from elsewhere."""
        self.config_dir = Path(config_dir)
        self.lines = lines
        self.largest = largest
        self.deadline = deadline
        self.secrets = list(secrets)
        self.texts: dict[str, str] = {}
        self.problems: list[str] = []
        self.silent: set[str] = set()

    def keep(self, name: str, read: Any, *arguments: Any) -> str:
        """Keep what `read` returns under a name, or why there is nothing."""
        try:
            text: str = read(*arguments)
        except (UnavailableError, OSError, ValueError) as error:
            text = f"could not: {error}\n"
            self.problems.append(f"{name}: {error}")
        self.texts[name] = text
        return text

    def run(self, command: list[str], largest: int | None = None) -> str:
        """Return the end of what a command prints; a program that was once not done in time is not asked again."""
        if command[0] in self.silent:
            raise UnavailableError(f"{' '.join(command[:2])}: {command[0]} was not done in time before")
        try:
            return tail(command, self.deadline, largest or self.largest)
        except LateError:
            self.silent.add(command[0])
            raise

    def inspected(self, attempts: int = 3) -> list[dict[str, Any]]:
        """Return what the engine says of all containers; one that goes meanwhile makes it ask again."""
        listed = self.run(["docker", "ps", "--all", "--quiet", "--no-trunc"], LOGS).split()
        if not listed:
            return []
        try:
            text = self.run(["docker", "inspect", "--type", "container", *listed], LOGS)
        except UnavailableError:
            if attempts == 1:
                raise
            return self.inspected(attempts - 1)
        found_ones: list[dict[str, Any]] = json.loads(text)
        return found_ones

    def containers(self) -> list[dict[str, Any]]:
        """Return the settings of all containers of the host; their secrets are learnt."""
        shown = []
        for container in self.inspected():
            masked, secrets = hide(container)
            self.secrets += secrets
            labels = (masked.get("Config") or {}).get("Labels") or {}
            if any(label.startswith(LABEL) for label in labels):
                shown.append(masked)
        return shown

    def configuration(self) -> Iterator[tuple[str, Path, os.stat_result]]:
        """Yield the files of the cluster's configuration by their names in the archive."""
        for path in sorted(self.config_dir.rglob("*")):
            with suppress(OSError):
                status = path.lstat()
                yield f"configuration/{path.relative_to(self.config_dir)}", path, status

    def gather_configuration(self) -> None:
        """Keep the files that all may read, learn the others, and list both."""
        listing = [f"could not: {self.config_dir} is not there\n"] if not self.config_dir.is_dir() else []
        for name, path, status in self.configuration():
            listing.append(
                f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid} {status.st_size:>9} {path}\n"
            )
            # our own programs stand in the checkout
            if not stat.S_ISREG(status.st_mode) or path.suffix == ".py":
                continue
            closed = not status.st_mode & stat.S_IROTH
            # as the engine's settings are that it has: learnt, it would mask the names of all packages
            if closed and path.name == "before.json":
                continue
            if closed or path.suffix == ".key":
                try:
                    self.secrets += secret_file(path)
                except (UnavailableError, OSError) as error:
                    self.problems.append(f"{name}: not masked elsewhere: {error}")
            else:
                self.keep(name, last_bytes, str(path), self.largest)
        self.texts["configuration/FILES.txt"] = "".join(listing)

    def gather(self) -> dict[str, str]:
        """Return all texts by name, masked with every secret that was met on the way."""
        self.gather_configuration()
        for name, path in FILES.items():
            # what is not there on most hosts is no news
            if Path(path).exists():
                self.keep(name, last_bytes, path, self.largest)
        for name, command in COMMANDS.items():
            self.keep(name, self.run, command)
        for name, which in JOURNALS.items():
            command = ["journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={self.lines}", *which]
            self.texts[name] = without_logins(self.keep(name, self.run, command))
        containers: list[dict[str, Any]] = []
        try:
            containers = self.containers()
        except (UnavailableError, ValueError) as error:
            self.problems.append(f"containers: {error}")
            self.texts["containers/FAILED.txt"] = f"could not: {error}\n"
        share = max(SMALLEST_LOG, min(self.largest, LOGS // max(1, len(containers))))
        for container in containers:
            name = re.sub(r"[^\w.-]", "_", container["Name"].lstrip("/"))
            self.texts[f"containers/{name}.json"] = json.dumps(container, indent=2, sort_keys=True) + "\n"
            command = ["docker", "logs", "--timestamps", "--tail", str(self.lines), container["Id"]]
            self.keep(f"containers/{name}.log", self.run, command, share)
        mask = Mask(self.secrets)
        self.problems = [mask(problem) for problem in self.problems]
        return {name: mask(text) for name, text in self.texts.items()}


def main() -> None:
    """Gather, and return the texts compressed: `texts` is base64 of the zlib of a JSON object of text by name."""
    module = AnsibleModule(
        argument_spec={
            "config_dir": {"type": "path", "required": True},
            "lines": {"type": "int", "required": True},
            "bytes": {"type": "int", "required": True},
            "deadline": {"type": "int", "required": True},
            # coded, because Ansible would cut each of them out of the result, and has no shortest length
            "secrets": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    secrets = json.loads(base64.b64decode(given["secrets"]))
    gatherer = Gatherer(given["config_dir"], given["lines"], given["bytes"], given["deadline"], secrets)
    texts = gatherer.gather()
    packed = base64.b64encode(zlib.compress(json.dumps(texts).encode())).decode()
    module.exit_json(changed=False, texts=packed, files=len(texts), problems=gatherer.problems)


if __name__ == "__main__":
    main()
