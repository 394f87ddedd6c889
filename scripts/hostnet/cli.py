"""The command line: `hostnet up`, `hostnet down`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hostnet import lab
from hostnet.errors import ended
from hostnet.progress import Progress

CHECKOUT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit statuses are those of hostnet.errors, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="hostnet", description="A Dask cluster on four nodes of this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="make nodes, image and cluster, and verify them; run again to go on")
    commands.add_parser("down", help="remove what `up` made")
    command = {"up": lab.up, "down": lab.down}[parser.parse_args(argv).command]
    return ended("hostnet", lambda: command(CHECKOUT, Progress(sys.stdout)))
