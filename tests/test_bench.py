import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hostnet.errors import HostnetError
from loading import load

ROOT = Path(__file__).parents[1]


bench = load(ROOT / "benchmarks" / "run.py")
PLAN = bench.Plan("probe", "ours", "theirs", 1.5, "it does more")
# as `docker inspect` describes what site.yml deploys
WORKER = {
    "Mounts": [
        {"Source": "/etc/dask-hostnet/worker", "Destination": "/etc/dask"},
        {"Source": "/var/lib/dask-hostnet/spill/0", "Destination": "/var/spill"},
    ],
    "HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": 16384, "Hard": 16385}]},
    "Config": {
        "User": "10786:10787",
        "Env": ["DASK_CONFIG=/etc/dask", "PATH=/opt/dask/bin:/usr/bin"],
        "Cmd": [
            *("dask", "worker", "tls://172.30.81.11:8786", "--name", "worker1-0", "--host", "172.30.81.12"),
            *("--worker-port", "10000", "--nanny-port", "10100", "--dashboard-address", "127.0.0.1:10200"),
            *("--nthreads", "2", "--memory-limit", "1073741824", "--local-directory", "/var/spill"),
        ],
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "FOLDER", tmp_path / "bench")
    monkeypatch.setattr(bench, "LOG", tmp_path / "bench" / "run.log")
    (tmp_path / "bench").mkdir()
    return tmp_path


def test_the_ratio_is_the_median_of_the_pairs_ratios() -> None:
    # the machine was ten times slower during the second pair: of the medians of the sides the ratio would be 3 / 2
    made = bench.Comparison(PLAN, ((3.0, 2.0), (20.0, 20.0), (2.6, 2.0)))
    assert made.ratios == [1.5, 1.0, 1.3]
    assert made.ratio == 1.3


@pytest.mark.parametrize(("ours", "met"), [(1.49, True), (1.5, True), (1.51, False)])
def test_the_target_itself_is_met(ours: float, met: bool) -> None:
    assert bench.Comparison(PLAN, ((ours, 1.0),)).met is met


def test_the_table_says_target_spread_and_the_reason_of_a_miss() -> None:
    met = bench.Comparison(PLAN, ((30.0, 20.0), (20.0, 20.0), (26.0, 20.0)))
    missed = bench.Comparison(replace(PLAN, target=1.2), met.pairs, {"less the verification": 1.1})
    lines = bench.table([met, missed])
    assert lines[1].split() == ["probe", "1.30", "1.00-1.50", "≤", "1.5", "met", "26.0", "s", "20.0", "s", "3"]
    assert lines[2].split() == ["probe", "1.30", "1.00-1.50", "≤", "1.2", "MISSED", "26.0", "s", "20.0", "s", "3"]
    assert [line.strip() for line in lines[3:]] == ["less the verification: 1.10", "reason: it does more"]


def test_every_plan_has_a_measure_and_the_one_known_to_miss_a_reason() -> None:
    assert [plan.name for plan in bench.PLANS] == list(bench.MEASURES)
    assert [plan.target for plan in bench.PLANS] == [1.5, 20, 1.1]
    assert bench.PLANS[0].reason


def test_the_alternatives_take_turns_and_ours_is_the_last() -> None:
    turns: list[str] = []

    def turn(name: str, seconds: float) -> Callable[[], float]:
        return lambda: turns.append(name) or seconds  # type: ignore[func-returns-value]

    assert bench.alternate(2, turn("ours", 3.0), turn("theirs", 2.0), "probe") == [(3.0, 2.0), (3.0, 2.0)]
    assert turns == ["theirs", "ours", "theirs", "ours"]


def test_a_process_beside_its_container_differs_in_ports_and_folders_alone() -> None:
    folders = {mount["Destination"]: mount["Source"] for mount in WORKER["Mounts"]}
    assert bench.beside(WORKER["Config"]["Cmd"], folders) == [
        *("/opt/dask/bin/dask", "worker", "tls://172.30.81.11:28786", "--name", "worker1-0", "--host", "172.30.81.12"),
        *("--worker-port", "30000", "--nanny-port", "30100", "--dashboard-address", "127.0.0.1:30200"),
        *("--nthreads", "2", "--memory-limit", "1073741824", "--local-directory", "/var/lib/dask-hostnet/spill/0"),
    ]


def test_a_bare_process_has_its_containers_user_limits_and_environment() -> None:
    command = bench.bare_unit(WORKER)
    assert command[: command.index("/opt/dask/bin/dask")] == [
        *("systemd-run", "--unit=dask-bench-bare", "--property=LimitNOFILE=16384:16385"),
        *("--setenv=DASK_CONFIG=/etc/dask-hostnet/worker", "--setenv=PATH=/opt/dask/bin:/usr/bin"),
        *("setpriv", "--reuid=10786", "--regid=10787", "--clear-groups"),
    ]


def test_a_page_that_does_not_answer_yet_is_waited_for_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def page(*said: str) -> bench.Nodes:
        turns = iter(said)

        def on(_nodes: object, *_command: str) -> str:
            answer = next(turns, said[-1])
            if answer == "refused":
                raise HostnetError("status 1: connection refused")
            return answer

        monkeypatch.setattr(bench.Nodes, "on", on)
        monkeypatch.setattr(bench.Nodes, "scheduler", "192.0.2.11")
        return bench.Nodes({})

    page("refused", "refused", "3").until_listed(3, deadline=30)
    with pytest.raises(HostnetError, match="not 3 workers at the scheduler after 0 s: its page does not answer"):
        page("refused").until_listed(3, deadline=0)
    with pytest.raises(HostnetError, match="not 3 workers at the scheduler after 0 s: it lists 2"):
        page("2").until_listed(3, deadline=0)


def test_no_time_is_taken_from_a_hello_world_that_failed() -> None:
    def said(result: str) -> str:
        return json.dumps({"checks": [{"check": "hello-world", "result": result, "seconds": 4.25, "detail": "late"}]})

    assert bench.hello_seconds(said("ok")) == 4.25
    with pytest.raises(HostnetError, match="the hello-world is failed: late"):
        bench.hello_seconds(said("failed"))
    with pytest.raises(HostnetError, match="the hello-world is missing"):
        bench.hello_seconds('{"checks": []}')


def test_a_command_that_fails_is_named_with_its_last_lines(folder: Path) -> None:
    with pytest.raises(HostnetError, match=r"(?s)status 3: sh -c .*\n  last\n  log: "):
        bench.run(["sh", "-c", "echo first; echo last; exit 3"])
    assert "first" in bench.LOG.read_text(encoding="utf-8")


def test_a_command_that_hangs_is_ended(folder: Path) -> None:
    with pytest.raises(HostnetError, match=r"not done after 0 s: sleep 1077"):
        bench.run(["sleep", "1077"], deadline=0.2)
    assert subprocess.run(["pgrep", "-f", "^sleep 1077$"], check=False).returncode == 1


@pytest.mark.usefixtures("folder")
def test_a_missed_target_is_written_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda _options: [bench.Comparison(PLAN, ((4.0, 2.0), (5.0, 2.0)))])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    file = tmp_path / "figures.json"
    assert bench.main(["--json", str(file)]) == 0
    (written,) = json.loads(file.read_text(encoding="utf-8"))["comparisons"]
    assert written["ratio"] == {"median": 2.25, "lowest": 2.0, "highest": 2.5}
    assert written["seconds"] == [{"ours": 4.0, "theirs": 2.0}, {"ours": 5.0, "theirs": 2.0}]
    assert (written["met"], written["reason"]) == (False, "it does more")
    assert "MISSED" in capsys.readouterr().out


def test_where_to_write_is_known_before_it_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(["--json", "/no/such/figures.json"])
    assert caught.value.code == 2
    assert "--json: /no/such is no folder" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_failure_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_options: object) -> None:
        raise HostnetError("no node")

    monkeypatch.setattr(bench, "measure", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert bench.main([]) == 1
    assert capsys.readouterr().err == "bench: no node\n"


def test_nodes_that_fail_to_come_up_are_removed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / ".hostnet").mkdir()
    did: list[str] = []

    def lifecycle(_nodes: object, verb: str, **_variables: object) -> None:
        did.append(verb)
        if verb == "create":
            raise HostnetError("no engine")

    monkeypatch.setattr(bench.Nodes, "_lifecycle", lifecycle)
    monkeypatch.setattr(bench, "root_access", bench.suppress)
    options = bench.argparse.Namespace(keep=False, only=[], repeat=None)
    with pytest.raises(HostnetError, match="no engine"):
        bench.measure(options)
    assert did == ["destroy", "create", "destroy"]


@pytest.mark.parametrize("wrong", [["--repeat", "0"], ["--repeat", "x"], ["--only", "lunch"]])
def test_bad_usage_is_status_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(wrong)
    assert ended.value.code == 2


def test_the_nodes_have_names_and_a_network_of_their_own() -> None:
    sets = yaml.safe_load((ROOT / "molecule/default/vars/nodes.yml").read_text(encoding="utf-8"))["node_sets"]
    for name in ("prefix", "subnet", "inventory"):
        assert len({nodes[name] for nodes in sets.values()}) == len(sets)
    assert sets["bench"]["inventory"] == "{{ node_checkout }}/" + str(bench.INVENTORY.relative_to(ROOT))
