"""Stop this host's workers with notice before the engine or the host stops, and start them again after it.

`workers.py stop NOTES` has them hand their results over, one after another, as `docker stop` does. What was stopped so
stays off, also at boot: so each is noted first, and `start` starts those again. With live-restore the engine stops
alone, and the workers go on; then only the host's own stop counts.

A host on its way down is not held up for ever: who has had no turn within STOP_SECONDS is stopped at once, with the
others that are left. A unit of systemd runs it: it does what it can, says what it could not, and ends with 0.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LABEL = "label=io.dask-hostnet.kind=dask-worker"
ANSWER_SECONDS = 30
# what Docker takes beyond a container's own stop timeout
KILL_SECONDS = 30
# of all workers; systemd forces a reboot after 30 minutes
STOP_SECONDS = 600
# what an idle worker needs, of those that had no turn
SHORT_SECONDS = 10
# for an engine that does not answer at boot
START_SECONDS = 120
RETRY_SECONDS = 5


def done(*command: str, seconds: float = ANSWER_SECONDS) -> tuple[int, str, str]:
    """Return a command's status, what it prints, and what is wrong, after saying that."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        status, said, wrong = ran.returncode, ran.stdout.strip(), ran.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        status, said, wrong = 1, "", str(error)
    if status != 0:
        print(f"{' '.join(command)}: {wrong}", flush=True)
    return status, said, wrong


def said(*command: str) -> str:
    """Return what a command prints; nothing where it fails."""
    status, text, _ = done(*command)
    return text if status == 0 else ""


def host_stops() -> bool:
    """Whether the host is on its way down; systemctl's status is not 0 then."""
    with suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(
            ["systemctl", "is-system-running"], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
        return asked.stdout.strip() == "stopping"
    return True


def noted(record: Path) -> list[str]:
    """Return the names in the file of the notes."""
    return record.read_text(encoding="utf-8").split() if record.exists() else []


def note(record: Path, names: list[str]) -> None:
    """Have these names in the file, whole or not at all; without names there is no file."""
    if not names:
        record.unlink(missing_ok=True)
        return
    record.parent.mkdir(parents=True, exist_ok=True)
    part = record.with_name(f".{record.name}")
    part.write_text("".join(f"{each}\n" for each in dict.fromkeys(names)), encoding="utf-8")
    part.replace(record)


def stop(record: Path) -> None:
    """Stop the workers that run, each noted before."""
    end = time.monotonic() + STOP_SECONDS
    if not host_stops() and said("docker", "info", "--format", "{{.LiveRestoreEnabled}}") == "true":
        return
    names = sorted(said("docker", "ps", "--filter", LABEL, "--format", "{{.Names}}").split())
    while names:
        asked = said("docker", "inspect", "--format", "{{.Config.StopTimeout}}", names[0])
        own = int(asked) if asked.isdigit() else SHORT_SECONDS
        left = int(end - time.monotonic()) - SHORT_SECONDS - 2 * KILL_SECONDS
        # at the end of the time all that are left; the engine's client stops several at once
        turn, seconds = (names[:1], min(own, left)) if left > SHORT_SECONDS else (names, SHORT_SECONDS)
        note(record, noted(record) + turn)
        status, _, _ = done("docker", "stop", "--time", str(seconds), *turn, seconds=seconds + KILL_SECONDS)
        if status == 0:
            print(f"{', '.join(turn)} stopped", flush=True)
        names = names[len(turn) :]


def policy(name: str, end: float) -> str | None:
    """Return a container's restart policy, `gone` where there is none, None when the engine does not say in time."""
    while True:
        status, text, wrong = done("docker", "inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", name)
        if status == 0:
            return text
        if "no such object" in wrong.lower() or "no such container" in wrong.lower():
            return "gone"
        if time.monotonic() + RETRY_SECONDS > end:
            return None
        time.sleep(RETRY_SECONDS)


def start(record: Path) -> None:
    """Start those that were noted, unless they are drained, which their restart policy says; who fails stays noted."""
    end = time.monotonic() + START_SECONDS
    left = []
    for name in noted(record):
        what = policy(name, end)
        # one that is gone is nobody's to start
        if what in {"gone", "no"}:
            continue
        if what is None or done("docker", "start", name)[0] != 0:
            left.append(name)
        else:
            print(f"{name} is started", flush=True)
    note(record, left)


def main() -> int:
    """Do what the first argument says; the second is the file of the notes."""
    verb, record = sys.argv[1:]
    {"stop": stop, "start": start}[verb](Path(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
