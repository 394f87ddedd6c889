"""The cluster made from nothing, as after a reset or on another host."""

from pathlib import Path
from typing import Any

from conftest import INVENTORY, ROOT, Play, Run

IMAGE, SITE = ROOT / "playbooks" / "image.yml", ROOT / "site.yml"
ARCHIVE = ROOT / ".hostnet" / "carried" / "dask.tar"
# what stands in for the old registry; without it the image is built again
CARRIED: dict[str, Any] = {"dask_image_load_from": str(ARCHIVE)} if ARCHIVE.exists() else {}


def made(play: Play, inventory: Path = INVENTORY) -> list[Run]:
    """Return the runs of image.yml and of site.yml, which must succeed."""
    runs = []
    for playbook, variables in ((IMAGE, CARRIED), (SITE, {})):
        runs.append(play(playbook=playbook, inventory=inventory, **variables))
        assert runs[-1].status == 0, runs[-1].text
    return runs
