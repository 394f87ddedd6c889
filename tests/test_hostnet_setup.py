"""scripts/setup.sh on a made-up checkout with empty locks: what it makes, what it leaves alone, what it mends."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "setup.sh"


@pytest.fixture
def setup(tmp_path):
    """Runs the script in a checkout whose path has a space."""
    folder = tmp_path / "a checkout"
    (folder / "scripts").mkdir(parents=True)
    (folder / "requirements").mkdir()
    shutil.copy(SCRIPT, folder / "scripts")
    (folder / "scripts" / "probe.py").write_text("FOUND = True\n")
    for name in ("control", "dev"):
        (folder / "requirements" / f"{name}.txt").write_text(f"# {name}\n")

    def run(name, path=os.environ["PATH"]):
        return subprocess.run(
            [folder / "scripts" / "setup.sh", name],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            # asks nobody: what there is to install is made up
            env={**os.environ, "PATH": path, "PIP_NO_INDEX": "1"},
        )

    run.folder = folder
    return run


def test_a_first_run_makes_it_a_second_does_nothing_and_a_killed_one_is_mended(setup):
    first = setup("control")
    assert first.returncode == 0, first.stderr
    assert "making .venv" in first.stdout
    python = setup.folder / ".venv/bin/python"
    assert subprocess.run([python, "-c", "import probe"], check=False).returncode == 0
    assert setup("control").stdout == ""

    stamp = setup.folder / ".venv/hostnet-setup"
    stamp.unlink()
    (setup.folder / ".venv/half-done").touch()
    assert "making .venv" in setup("control").stdout
    assert not (setup.folder / ".venv/half-done").exists()

    # wider in place, and never narrowed again, also when a lock changes
    assert "making .venv" not in setup("dev").stdout
    assert stamp.read_text().startswith("dev ")
    assert setup("control").stdout == ""
    (setup.folder / "requirements/dev.txt").write_text("# changed\n")
    assert "requirements/dev.txt" in setup("control").stdout


def test_a_failed_install_shows_the_last_lines_and_is_no_success_later(setup):
    (setup.folder / "requirements/control.txt").write_text("surely-not-there==1.0\n")
    for _ in range(2):
        answer = setup("control")
        assert answer.returncode == 1
        assert "surely-not-there" in answer.stderr
        assert answer.stderr.splitlines()[-1].startswith("set-up  FAILED: installing requirements/control.txt")


def test_too_old_a_python_is_one_clear_line(setup, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "sha256sum", "cut", "mkdir", "flock", "env", "bash"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").write_text("#!/bin/bash\nexit 1\n")
    (tools / "python3").chmod(0o755)
    answer = setup("control", str(tools))
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert "no Python 3.11 or newer" in line
