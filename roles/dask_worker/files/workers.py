"""Stop this host's workers with notice before the engine or the host stops, and start them again after it.

`workers.py stop NOTES` has them hand their results over, one after another, as `docker stop` does. What was stopped so
stays off, also at boot: so each is noted first, and `start` starts those again. With live-restore the engine stops
alone, and the workers go on; then only the host's own stop counts.

A unit of systemd runs it: it does what it can, says what it could not, and ends with 0.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

LABEL = "label=io.dask-hostnet.kind=dask-worker"
ANSWER_SECONDS = 30
# what Docker takes beyond a container's own stop timeout
KILL_SECONDS = 30


def said(*command: str, seconds: float = ANSWER_SECONDS) -> str | None:
    """Return what a command prints; None where it fails, after saying so."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{' '.join(command)}: {error}", flush=True)
        return None
    if done.returncode != 0:
        print(f"{' '.join(command)}: {done.stderr.strip()}", flush=True)
        return None
    return done.stdout.strip()


def host_stops() -> bool:
    """Whether the host is on its way down; systemctl's status is not 0 then."""
    with suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(
            ["systemctl", "is-system-running"], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
        return asked.stdout.strip() == "stopping"
    return True


def stop(record: Path) -> None:
    """Stop the workers that run, each noted before."""
    if not host_stops() and said("docker", "info", "--format", "{{.LiveRestoreEnabled}}") == "true":
        return
    names = (said("docker", "ps", "--filter", LABEL, "--format", "{{.Names}}") or "").split()
    noted = record.read_text(encoding="utf-8").split() if record.exists() else []
    for name in sorted(names):
        record.parent.mkdir(parents=True, exist_ok=True)
        noted.append(name)
        record.write_text("".join(f"{each}\n" for each in dict.fromkeys(noted)), encoding="utf-8")
        own = said("docker", "inspect", "--format", "{{.Config.StopTimeout}}", name) or ""
        seconds = (int(own) if own.isdigit() else 10) + KILL_SECONDS
        if said("docker", "stop", name, seconds=seconds) is not None:
            print(f"{name} is stopped", flush=True)


def start(record: Path) -> None:
    """Start those that were noted, unless they are drained, which their restart policy says; who fails stays noted."""
    noted = record.read_text(encoding="utf-8").split() if record.exists() else []
    left = []
    for name in noted:
        policy = said("docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", name)
        # one that is gone is nobody's to start
        if policy in {None, "no"}:
            continue
        if said("docker", "start", name) is None:
            left.append(name)
        else:
            print(f"{name} is started", flush=True)
    if left:
        record.write_text("".join(f"{each}\n" for each in left), encoding="utf-8")
    else:
        record.unlink(missing_ok=True)


def main() -> int:
    """Do what the first argument says; the second is the file of the notes."""
    verb, record = sys.argv[1:]
    {"stop": stop, "start": start}[verb](Path(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
