"""The cluster as its operator lives with it, in this order, once in the nodes' life."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from at_work import (
    INVENTORY,
    LOG,
    ROOT,
    Run,
    ask_cluster,
    containers,
    identities,
    image,
    on,
    playbook,
    process,
    scheduler_address,
    verification,
    wait_until,
)

pytestmark = pytest.mark.timeout(1200)

RESULT = "333283335000"
CHANGES = ROOT / ".hostnet" / "log" / "changes.jsonl"
FIRST = ("scheduler1", "worker1", "worker2")
WORKERS = ("worker1-0", "worker2-0", "worker3-0")
NEW = "worker3"
# Docker's 10m is 10 MB; it rotates once a file has reached that, so the last entry of each may stand past it
LOG_FILE = 10_000_000
ENTRY = 1200


@dataclass(frozen=True)
class Addition:
    """What was seen while worker3 was added: the others before and after, and the three runs."""

    before: dict[tuple[str, str], tuple[str, str, int]]
    installing: Run
    starting: Run
    mending: Run
    after: dict[tuple[str, str], tuple[str, str, int]]


@pytest.fixture(scope="module")
def addition() -> Addition:
    """Make worker3, write it into the inventory, and converge it alone: killed twice, then to the end."""
    assert f"{NEW}:" not in (INVENTORY / "hosts.yml").read_text(encoding="utf-8"), (
        f"{NEW} is there from an earlier run: `molecule destroy -s cluster` first"
    )
    before = identities(*FIRST)
    sets = yaml.safe_load((ROOT / "molecule/default/vars/nodes.yml").read_text(encoding="utf-8"))["node_sets"]
    nodes = [*sets["cluster"]["list"], {"name": NEW, "inventory_groups": ["dask_workers"], "layer": "bare"}]
    edit = json.dumps({"node_set": "cluster", "node_list": nodes})
    created = playbook("molecule/default/create.yml", "-e", edit, inventory="localhost,")
    assert created.status == 0
    limited = ("site.yml", "--limit", NEW)
    installing = playbook(*limited, until=lambda: on(NEW).run("pgrep -x dpkg").rc == 0)
    starting = playbook(*limited, until=lambda: on(NEW).run("docker inspect dask-worker-0").rc == 0)
    mending = playbook(*limited)
    return Addition(before, installing, starting, mending, identities(*FIRST))


def changes(record: Path, *, check: bool) -> set[tuple[str, str]]:
    """Return (host, file or container) that site.yml changed, or in check mode announced."""
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    return {(line["host"], line["what"]) for line in lines if line["playbook"] == "site.yml" and line["check"] == check}


def test_a_rehearsal_on_bare_hosts_announced_the_files_and_containers_that_were_made() -> None:
    announced, made = (changes(CHANGES, check=check) for check in (True, False))
    assert announced == made
    for host in ("worker1", "worker2"):
        assert {
            (host, "container dask-worker-0"),
            (host, "file /etc/docker/daemon.json"),
            (host, "file /etc/dask-hostnet/tls/host.key"),
            (host, "file /etc/dask-hostnet/worker/dask.yaml"),
        } <= made
        files = [what.removeprefix("file ") for where, what in made if where == host and what.startswith("file ")]
        held = on(host).check_output("find /etc/dask-hostnet /etc/docker/daemon.json /etc/docker/certs.d").splitlines()
        # that one task does not say its files' names: one of them is the registry's password
        said_by_task = {"/etc/dask-hostnet/docker/config.json", *(path for path in held if path.endswith("0/ca.crt"))}
        # that one copies a folder, and says the folder
        said_by_task |= {path for path in held if path.startswith("/etc/dask-hostnet/preload")}
        # parents that a deeper folder brought along
        bare = {"/etc/docker/certs.d"}
        assert set(held) - said_by_task - bare <= set(files)
    assert ("scheduler1", "container dask-scheduler") in made


def test_a_tag_is_refused_before_anything_is_touched() -> None:
    before = identities(*FIRST)
    tag = image().partition("@")[0] + ":latest"
    run = playbook("site.yml", "-e", f"dask_cluster_image={tag}")
    assert run.status == 2
    assert run.says("1 problem; nothing was changed")
    assert run.says(f"{', '.join(FIRST)} dask_cluster_image '{tag}' it must be registry/name@sha256:")
    assert run.says("run playbooks/image.yml")
    assert set(run.changed.values()) == {0}
    assert identities(*FIRST) == before


def test_the_image_is_not_built_again() -> None:
    pin = INVENTORY / "group_vars" / "all" / "image.yml"

    def held() -> tuple[object, ...]:
        layers = on("scheduler1").check_output("docker images --all --quiet --no-trunc | sort")
        pushed = on("scheduler1").check_output("find /var/lib/docker-registry -type f -printf '%p %T@\\n' | sort")
        assert layers
        assert pushed
        return layers, pushed, pin.read_bytes(), pin.stat().st_mtime_ns

    before = held()
    run = playbook("playbooks/image.yml")
    assert run.status == 0
    assert run.changed["scheduler1"] == 0
    assert not any(run.changed.values())
    assert held() == before


def test_a_task_that_prints_100_mb_leaves_30_mb_of_log() -> None:
    code = f"""
from distributed import Client

def shout(lines):
    for i in range(lines):
        print(f"{{i:09}} " + "x" * 989)
    print("it is said", flush=True)
    return lines * 1000

print(Client("{scheduler_address()}").submit(shout, 100_000, workers=["worker1-0"]).result(timeout=300))
"""
    assert ask_cluster("python", "-c", code).strip() == "100000000"
    host = on("worker1")
    docker_logs = "docker logs --tail 100 dask-worker-0"
    wait_until(lambda: "it is said" in host.check_output(docker_logs), "the last line in docker logs", 60)
    folder = containers("worker1")["dask-worker-0"]["LogPath"].rpartition("/")[0]
    sizes = [int(size) for size in host.check_output(f"stat -c %s {folder}/*.log*").split()]
    LOG.info("the log's files: %s, %s bytes in all", sizes, sum(sizes))
    assert len(sizes) == 3
    assert max(sizes) <= LOG_FILE + ENTRY
    # two full files are kept, and docker logs reads across the rotation
    assert sum(sizes) > 2 * LOG_FILE
    assert int(host.check_output("docker logs dask-worker-0 | grep -c '^[0-9]\\{9\\} x'")) > 2 * LOG_FILE // ENTRY


def test_a_killed_run_is_mended_by_running_it_again(addition: Addition) -> None:
    for killed in (addition.installing, addition.starting):
        assert killed.status == -9
        assert not killed.says("PLAY RECAP")
    assert not addition.installing.says("PLAY [Run the workers]")
    assert addition.starting.says("PLAY [Run the workers]")
    assert addition.mending.status == 0


def test_a_new_host_leaves_the_others_untouched(addition: Addition) -> None:
    assert addition.after == addition.before
    assert set(addition.mending.changed) == {NEW}
    for run in (addition.installing, addition.starting, addition.mending):
        assert not run.shows(r"changed: \[(?!worker3\b)")


def test_a_new_host_takes_part(addition: Addition) -> None:
    assert addition.mending.says(RESULT)
    assert addition.mending.shows(r"pinned +ok .*each of 3 workers")
    assert addition.mending.says("3 present: worker1-0, worker2-0, worker3-0")


@pytest.mark.usefixtures("addition")
@pytest.mark.parametrize(
    ("host", "container"),
    [("scheduler1", "dask-scheduler"), *((name.removesuffix("-0"), "dask-worker-0") for name in WORKERS)],
)
def test_a_host_runs_the_digest_on_its_network_with_bounded_logs(host: str, container: str) -> None:
    said = containers(host)
    assert list(said) == [container]
    settings = said[container]
    assert settings["Config"]["Image"] == image()
    held = on(host).check_output(f"docker image inspect --format '{{{{json .RepoDigests}}}}' {settings['Image']}")
    assert image() in json.loads(held)
    assert settings["State"]["Health"]["Status"] == "healthy"
    assert settings["HostConfig"]["NetworkMode"] == "host"
    assert settings["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert settings["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-file": "3", "max-size": "10m"},
    }
    # what somebody else runs there is bounded too
    assert on(host).check_output("docker info --format '{{.LoggingDriver}}'") == "json-file"
    assert json.loads(on(host).file("/etc/docker/daemon.json").content_string)["log-opts"] == {
        "max-file": "3",
        "max-size": "10m",
    }


@pytest.mark.usefixtures("addition")
def test_a_killed_scheduler_comes_back_and_the_workers_with_it() -> None:
    hosts = (*FIRST, NEW)
    before = identities(*hosts)
    pid = process("scheduler1", "dask-scheduler", r"python \S+ scheduler ")
    on("scheduler1").check_output(f"kill -9 {pid}")
    wait_until(
        lambda: all(now[2] > before[where][2] for where, now in identities(*hosts).items()),
        "the scheduler and every worker started again",
        120,
    )
    assert {where: now[0] for where, now in identities(*hosts).items()} == {
        where: was[0] for where, was in before.items()
    }
    assert RESULT in verification(*WORKERS)


@pytest.mark.usefixtures("addition")
def test_killed_workers_come_back() -> None:
    nanny, worker = r"python \S+ worker ", r"--multiprocessing-fork"
    before = identities("worker1", "worker2")
    # worker1 loses its nanny, and so the container; worker2 loses the worker alone, which its nanny starts again
    old = process("worker2", "dask-worker-0", worker)
    on("worker1").check_output(f"kill -9 {process('worker1', 'dask-worker-0', nanny)}")
    on("worker2").check_output(f"kill -9 {old}")
    wait_until(
        lambda: identities("worker1")["worker1", "dask-worker-0"][2] > before["worker1", "dask-worker-0"][2],
        "worker1's container started again",
        120,
    )
    wait_until(
        lambda: process("worker2", "dask-worker-0", worker) not in (None, old), "a new worker process on worker2", 120
    )
    assert identities("worker2") == {where: was for where, was in before.items() if where[0] == "worker2"}
    assert RESULT in verification(*WORKERS)


@pytest.mark.usefixtures("addition")
def test_every_suite_of_the_verification_passes() -> None:
    run = playbook(
        "playbooks/verify.yml",
        "-e",
        json.dumps({"dask_container_verify_arguments": ["--suite", "collections", "--suite", "memory", "--strict"]}),
    )
    assert run.status == 0
    assert run.says(RESULT)
    for check in (
        "hello-world",
        "transfers",
        "array",
        "dataframe",
        "bag",
        "delayed",
        "futures",
        "scikit-learn",
        "spill",
    ):
        assert run.shows(rf"{check} +ok ")
    assert set(run.changed.values()) == {0}


@pytest.fixture
def no_mirror() -> Iterator[None]:
    """Hosts whose lists of packages are old, and whose mirror is not there."""
    sources = "/etc/apt/sources.list"
    try:
        for host in (*FIRST, NEW):
            on(host).check_output(f"mv {sources} /root && echo 'deb file:/no/mirror stable main' > {sources}")
            on(host).check_output("rm -f /var/lib/apt/periodic/* && touch --date '2 days ago' /var/lib/apt/lists")
        yield
    finally:
        for host in (*FIRST, NEW):
            on(host).run(f"mv /root/sources.list {sources}")


@pytest.mark.usefixtures("addition", "no_mirror")
def test_a_run_that_changes_nothing_runs_few_modules_on_a_worker_and_asks_no_mirror(tmp_path: Path) -> None:
    counted = tmp_path / "runs.json"
    run = playbook(
        "site.yml",
        ANSIBLE_CALLBACK_PLUGINS=str(ROOT / "molecule/cluster/callback_plugins"),
        ANSIBLE_CALLBACKS_ENABLED="module_runs",
        MODULE_RUNS=str(counted),
    )
    assert run.status == 0
    assert set(run.changed.values()) == {0}
    runs = json.loads(counted.read_text(encoding="utf-8"))
    for host in ("worker1", "worker2", NEW):
        LOG.info("%s: %s modules ran: %s", host, sum(runs[host].values()), runs[host])
        # the least of a run that looks at anything
        assert 10 < sum(runs[host].values()) <= 36


@pytest.mark.usefixtures("addition")
def test_a_host_that_is_away_is_named_and_the_others_are_finished(tmp_path: Path) -> None:
    away = tmp_path / "inventory"
    shutil.copytree(INVENTORY, away)
    hosts = yaml.safe_load((away / "hosts.yml").read_text(encoding="utf-8"))
    hosts["dask_workers"]["hosts"]["worker2"]["ansible_port"] = 1
    (away / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
    before = identities(*FIRST)
    edit = ("-e", json.dumps({"dask_worker_environment": {"PROBE": "7"}}))

    run = playbook("site.yml", *edit, inventory=str(away))
    assert run.status == 4
    assert run.shows(r"worker2 +: ok=\d+ +changed=0 +unreachable=1")
    assert run.changed["worker1"] > 0
    assert run.changed[NEW] > 0
    assert run.says(RESULT)
    assert identities("scheduler1", "worker2") == {
        where: was for where, was in before.items() if where[0] in ("scheduler1", "worker2")
    }
    assert identities("worker1") != {where: was for where, was in before.items() if where[0] == "worker1"}

    rehearsed, done = tmp_path / "rehearsed.jsonl", tmp_path / "done.jsonl"
    noted = {
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "molecule/cluster/callback_plugins"),
        "ANSIBLE_CALLBACKS_ENABLED": "announced",
    }
    waiting = identities(*FIRST)
    mend = ("--limit", "worker2", *edit)
    assert playbook("site.yml", "--check", "--diff", *mend, CHANGES=str(rehearsed), **noted).status == 0
    assert identities(*FIRST) == waiting
    mending = playbook("site.yml", *mend, CHANGES=str(done), **noted)
    # what a rehearsal on a running cluster announces is what the run then does, and no more
    announced = changes(rehearsed, check=True)
    # which verifies from the first of its hosts
    first = {("worker2", f"file /etc/dask-hostnet/verify{name}") for name in ("", "/verify_cluster.py")}
    assert announced == changes(done, check=False) == {("worker2", "container dask-worker-0")} | first
    assert mending.status == 0
    after = identities(*FIRST)
    assert {where for where in after if after[where] != waiting[where]} == {("worker2", "dask-worker-0")}
