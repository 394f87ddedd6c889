"""The archive for a helper: no spelling of a secret comes through, what is no secret does, and nothing is unbounded."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from loading import load

ROLE = Path(__file__).parent.parent / "roles/dask_collect"
CANARY = "hv/p:Q8'z\"k\\é &w+9"
KEY_LINES = [f"{'MIIEvQ' + chr(65 + i) * 58}" for i in range(5)]
KEY = "\n".join(["-----BEGIN PRIVATE KEY-----", *KEY_LINES, "-----END PRIVATE KEY-----"])


@pytest.fixture(scope="session")
def masking() -> ModuleType:
    return load(ROLE / "module_utils/dask_collect_mask.py")


@pytest.fixture(scope="session")
def modules() -> dict[str, ModuleType]:
    shared = ROLE / "module_utils/dask_collect_mask.py"
    return {name: load(ROLE / f"library/dask_collect_{name}.py", shared) for name in ("host", "pack")}


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "spelling",
    [
        CANARY,
        json.dumps(CANARY)[1:-1],
        json.dumps(CANARY, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(CANARY))[1:-1],
        repr(CANARY)[1:-1],
        quote(CANARY, safe=""),
        quote(CANARY),
        quote_plus(CANARY),
        quote(CANARY, safe="").replace("%C3%A9", "%c3%a9").replace("%2F", "%2f").lower().replace("q8", "Q8"),
        CANARY.replace("'", "''"),
        coded(CANARY),
        coded(CANARY + "\n"),
        coded(f"dask:{CANARY}"),
        coded(f"a:{CANARY}"),
        coded(f"me:{CANARY} ok"),
        base64.urlsafe_b64encode(CANARY.encode()).decode(),
        coded(CANARY).rstrip("="),
    ],
)
def test_a_known_secret_is_masked_however_it_is_spelt(masking: ModuleType, spelling: str) -> None:
    text = f"before {spelling} after {spelling}"
    masked = masking.Mask([CANARY])(text)
    assert masked.startswith("before ")
    assert " after " in masked
    assert "***" in masked
    # less its ends, where base64 shares a letter with what stands beside it
    for start in range(8, len(spelling) - 8, 4):
        assert spelling[start : start + 6] not in masked


def test_a_long_secret_is_masked_line_by_line(masking: ModuleType) -> None:
    secret = "\n".join(f"row {i} of the secret {i * 7919}" for i in range(9))
    mask = masking.Mask([{"DATA": secret}])
    logged = "\n".join(f"12:00:0{i} worker1 | {line}" for i, line in enumerate(secret.splitlines()))
    assert "of the secret" not in mask(logged)
    assert "12:00:08 worker1 | ***" in mask(logged)
    wrapped = base64.encodebytes(secret.encode()).decode()
    masked = mask(wrapped)
    for line in wrapped.splitlines():
        assert line[:20] not in masked


def test_secrets_that_overlap_leave_nothing_over(masking: ModuleType) -> None:
    assert masking.Mask(["alpha-beta", "beta-gamma", "alpha"])("x alpha-beta-gamma x alpha x") == "x *** x *** x"


def test_what_stands_anywhere_by_chance_is_not_looked_for(masking: ModuleType) -> None:
    text = "true 8786 abc none tcp"
    assert masking.Mask([True, "true", 8786, "8786", "abc", None, "none", ""])(text) == text
    assert masking.Mask([123456])("pin 123456") == "pin ***"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ('{"Authorization": "Basic ZGFzazpw", "a": 1}', '{"Authorization": "Basic ***", "a": 1}'),
        ("curl -H 'Proxy-Authorization: zzz' https://h", "curl -H 'Proxy-Authorization: ***' https://h"),
        ('authorization: Digest username="u", response="r"\nnext', "authorization: ***\nnext"),
        ("https://me:pa:ss@w@host:1/x y", "https://me:***@host:1/x y"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("https://ghp_abc@host/x", "https://***@host/x"),
        ("password=hunter2 user=me", "password=*** user=me"),
        ("DB_PASSWORD_OLD: 'hunter two'", "DB_PASSWORD_OLD: '***'"),
        (r"{\"api_key\": \"hunter\"}", r"{\"api_key\": \"***\"}"),
        ("run --token hunter2 --x", "run --token *** --x"),
        ("run --access-key=hunter2", "run --access-key=***"),
        ("dask:$2b$10$" + "a" * 53, "dask:***"),
        ("jwt eyJhbGciOiJI.eyJzdWIiOiIx.sig", "jwt ***"),
        ("key-data: LS0tLS1CRUdJTiBSU0E=", "key-data: ***"),
        # no secrets
        ("tcp://192.0.2.1:8786 to me@example", "tcp://192.0.2.1:8786 to me@example"),
        ("docker://192.0.2.1:5000/dask@sha256:ab", "docker://192.0.2.1:5000/dask@sha256:ab"),
        ("DB_PASSWORD_FILE=/run/secrets/db", "DB_PASSWORD_FILE=/run/secrets/db"),
        ('"token": null, "secret": false', '"token": null, "secret": false'),
        ("password:\n  next: 1", "password:\n  next: 1"),
    ],
)
def test_what_shows_itself_as_a_secret_is_masked_and_nothing_else(masking: ModuleType, text: str, masked: str) -> None:
    assert masking.Mask([])(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        f"one\n{KEY}\ntwo",
        "one\n" + "".join(f"Nov 24 host app[1]: {line}\n" for line in KEY.splitlines()) + "two",
        f"one {json.dumps(KEY)} two",
        f"one {KEY.replace(chr(10), '#012')} two",
        # its beginning or its end was cut off
        "one\n" + KEY.partition("\n")[2] + "\ntwo",
        "one\n" + KEY.rpartition("\n")[0] + "\ntwo",
        f"one\n{KEY.replace('PRIVATE', 'ENCRYPTED PRIVATE')}\n{KEY.replace('PRIVATE', 'RSA PRIVATE')}\ntwo",
    ],
    ids=["plain", "prefixed", "json", "syslog", "no beginning", "no end", "two"],
)
def test_a_private_key_is_masked(masking: ModuleType, text: str) -> None:
    masked = masking.Mask([])(text)
    assert "MIIEvQ" not in masked
    assert masked.startswith("one")
    assert masked.endswith("two")
    assert "***" in masked


def test_a_certificate_is_no_secret(masking: ModuleType) -> None:
    certificate = KEY.replace("PRIVATE KEY", "CERTIFICATE")
    assert masking.Mask([])(certificate) == certificate


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("DB_PASSWORD", True),
        ("db_password", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("GITHUB_TOKEN", True),
        ("CREDENTIALS", True),
        ("dask_worker_secrets", True),
        ("ansible_become_pass", True),
        ("DB_PASSWORD_FILE", False),
        ("ansible_ssh_private_key_file", False),
        ("dask_worker_nthreads", False),
        ("PATH", False),
    ],
)
def test_which_names_hold_secrets(masking: ModuleType, name: str, secret: bool) -> None:
    assert masking.is_secret(name) is secret


def test_secrets_are_found_by_name_however_deep(masking: ModuleType) -> None:
    settings = {
        "plain": "x-plain",
        "dask_worker_secrets": {"A": "x-one", "B": ["x-two"]},
        "deep": [{"token": "x-three", "url": "s3://me:x-four@host"}],
    }
    assert set(masking.found(settings)) == {"x-one", "x-two", "x-three", "x-four"}
    shown = json.dumps(masking.hidden(settings))
    assert "x-plain" in shown
    assert not [value for value in ("x-one", "x-two", "x-three") if value in shown]


def test_a_containers_variables_and_options_are_masked_and_learnt(modules: dict[str, ModuleType]) -> None:
    container = {
        "Config": {
            "Env": ["A=b=c", "DB_PASSWORD=x-one", "WHERE=s3://me:x-two@h", "OF_FILE=/x"],
            "Cmd": ["run", "--token", "x-three", "--auth-key=x-four", "--port", "1"],
        }
    }
    masked, secrets = modules["host"].hide(container)
    assert sorted(secrets) == ["x-four", "x-one", "x-three", "x-two"]
    assert masked["Config"]["Env"][:2] == ["A=b=c", "DB_PASSWORD=***"]
    assert masked["Config"]["Cmd"] == ["run", "--token", "***", "--auth-key=***", "--port", "1"]


def test_a_cut_text_begins_with_a_whole_line(modules: dict[str, ModuleType]) -> None:
    whole_lines = modules["host"].whole_lines
    assert whole_lines(b"one\ntwo\n", 100) == "one\ntwo\n"
    text = whole_lines(b"secret-0123456789\nnext\nlast\n", 15)
    assert text.splitlines()[1:] == ["next", "last"]
    assert "only the end" in text
    # half of a line is half of a secret
    assert "x" not in whole_lines(b"x" * 99, 15).partition("\n")[2]


def test_a_source_is_bounded_and_may_fail(modules: dict[str, ModuleType]) -> None:
    host = modules["host"]
    assert len(host.tail(["seq", "200000"], 20, 5000)) < 5100
    assert host.tail(["seq", "200000"], 20, 5000).endswith("\n200000\n")
    for command, why in (
        (["no-such-program"], "no-such-program is not installed"),
        (["sh", "-c", "echo because; exit 3"], "sh -c: exit status 3: because"),
        (["sh", "-c", "sleep 60 & sleep 60"], "sh -c: not done in 0.2 s"),
    ):
        with pytest.raises(host.UnavailableError, match=why):
            host.tail(command, 0.2 if "60" in command[-1] else 20, 5000)


def test_a_program_that_hangs_is_waited_for_once(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    gatherer = modules["host"].Gatherer(str(tmp_path), 10, 10_000, 0.2, [])
    assert gatherer.keep("first", gatherer.run, ["sleep", "60"]) == "could not: sleep 60: not done in 0.2 s\n"
    assert (
        gatherer.keep("next", gatherer.run, ["sleep", "0"]) == "could not: sleep 0: sleep was not done in time before\n"
    )
    assert [problem.partition(":")[0] for problem in gatherer.problems] == ["first", "next"]


def test_logins_are_left_out_of_the_journal(modules: dict[str, ModuleType]) -> None:
    journal = "T h dockerd[1]: a\nT h sshd[2]: b\n   more of b\nT h sudo: c\nT h kernel: d\n   more of d\n"
    assert modules["host"].without_logins(journal) == "T h dockerd[1]: a\nT h kernel: d\n   more of d\n"


def test_files_that_not_all_may_read_are_learnt_and_not_shown(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    files = {
        "dask.yaml": ("where: x-file-secret and x-login-secret and x-inside\n", 0o644),
        "secret": ("x-file-secret\n", 0o400),
        "docker/config.json": (json.dumps({"auths": {"h": {"auth": coded("dask:x-login-secret")}}}), 0o600),
        "account.json": ('{"deep": [{"id": "x-inside"}]}', 0o400),
        "tls.key": (KEY, 0o644),
        "large": ("x" * 70_000, 0o600),
        # names of packages are no secrets, whoever may read the note of them
        "before.json": ('{"packages": ["docker.io", "python3-requests"]}', 0o600),
    }
    for name, (text, mode) in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    gatherer = modules["host"].Gatherer(str(tmp_path), 10, 10_000, 20, [])
    gatherer.gather_configuration()
    assert sorted(gatherer.texts) == ["configuration/FILES.txt", "configuration/dask.yaml"]
    (problem,) = gatherer.problems
    assert problem.startswith("configuration/large: not masked elsewhere: ")
    mask = modules["host"].Mask(gatherer.secrets)
    assert mask(gatherer.texts["configuration/dask.yaml"]) == "where: *** and *** and ***\n"
    assert mask("here: " + KEY_LINES[2] + " x") == "here: *** x"
    assert mask("python3-requests 2.28") == "python3-requests 2.28"
    for name in files:
        assert name in gatherer.texts["configuration/FILES.txt"]


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    texts = base64.b64encode(zlib.compress(json.dumps({"host/kernel.txt": "Linux\n"}).encode())).decode()
    return {
        "path": str(tmp_path / "report.tar.gz"),
        "cluster": "lab",
        "project": str(tmp_path),
        "ansible": "2.19",
        "hosts": {"w1": {"texts": texts, "problems": ["docker: x"]}, "w2": {"msg": "no route, x-secret"}},
        "variables": {"w1": {"dask_a": 'say "x-secret"'}, "w2": {}},
    }


def unpack(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        assert all(member.mode == 0o600 for member in members)
        return {member.name: archive.extractfile(member).read().decode() for member in members}  # type: ignore[union-attr]


def test_the_archive_is_whole_private_and_masked(modules: dict[str, ModuleType], given: dict[str, Any]) -> None:
    pack, path = modules["pack"], Path(given["path"])
    size = pack.write(path, pack.contents(given, pack.Mask(["x-secret"])))
    assert size == path.stat().st_size
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    files = unpack(path)
    assert sorted(files) == [
        "report/README.txt",
        "report/w1/host/kernel.txt",
        "report/w1/variables.json",
        "report/w2/variables.json",
    ]
    assert files["report/w1/host/kernel.txt"] == "Linux\n"
    for line in ("w1: 1 files", "w2: nothing, no route, ***", "w1: docker: x", "ansible-core 2.19"):
        assert line in files["report/README.txt"]
    assert "x-secret" not in "".join(files.values())


def test_a_failed_write_leaves_the_older_archive(
    modules: dict[str, ModuleType], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(given["path"])
    path.write_text("older")

    def full(*_: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(OSError, match="No space"):
        modules["pack"].write(path, {"a": "b"})
    assert [(entry.name, entry.read_text()) for entry in path.parent.iterdir()] == [(path.name, "older")]


HOSTS = """
dask_workers:
  hosts:
    w1:
      ansible_host: 192.0.2.1
      dask_worker_nthreads: 2
      dask_cluster_name: "{{ dask_worker_nthreads }}-x"
      dask_worker_config: "{{ {'a': {'token': words.one}} }}"
      dask_worker_environment: {DB_PASSWORD: x-environment, TZ: UTC, URL: "s3://me:x-in-url@host"}
      dask_worker_secrets: {A: x-named}
      dask_broken: "{{ no_such_name }}"
      words: {one: x-template}
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """Evaluate an expression over an inventory with two vaulted files."""
    variables = tmp_path / "group_vars/all"
    variables.mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "word").write_text("vault-word")
    environment = {**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "word"), "ANSIBLE_NOCOLOR": "1"}
    environment |= {
        "ANSIBLE_FILTER_PLUGINS": str(ROLE / "filter_plugins"),
        "ANSIBLE_CONFIG": str(ROLE.parents[1] / "ansible.cfg"),
    }

    def run(*command: str, status: int = 0) -> str:
        tool = Path(sys.executable).parent / command[0]
        done = subprocess.run([tool, *command[1:]], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr if status else done.stdout

    inline = run("ansible-vault", "encrypt_string", "x-inline", "--name", "dask_plainly")
    (variables / "one.yml").write_text(f"{inline}\ndask_uses_it: 'at {{{{ dask_plainly }}}}'\n")
    (variables / "whole.yml").write_text("dask_harmless: {a: [x-whole-file]}\n")
    run("ansible-vault", "encrypt", str(variables / "whole.yml"))

    def evaluate(expression: str, status: int = 0) -> Any:
        message = "-amsg={{ " + expression + " | to_json }}"
        hosts = str(tmp_path / "hosts.yml")
        said = run("ansible", "-i", hosts, "w1", "-c", "local", "-o", "-m", "debug", message, status=status)
        return said if status else json.loads(json.loads(said.partition("=> ")[2])["msg"])

    return evaluate


def test_the_inventorys_secrets_are_found(ask: Callable[..., Any]) -> None:
    found = set(ask("hostvars | dask_collect_secrets(groups['all'])"))
    assert found == {"x-inline", "x-whole-file", "x-template", "x-environment", "x-in-url", "x-named"}


def test_what_cannot_be_decrypted_stops_the_run(ask: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "group_vars/all/whole.yml").unlink()
    (tmp_path / "word").write_text("another-word")
    said = " ".join(ask("hostvars | dask_collect_secrets(groups['all'])", status=2).split())
    assert "w1: dask_plainly cannot be decrypted, so it could not be masked: give the vault's password" in said


def test_the_inventory_is_shown_without_them(ask: Callable[..., Any]) -> None:
    shown = ask("hostvars | dask_collect_variables(groups['all'], ['x-inline'])")["w1"]
    assert (shown["dask_plainly"], shown["dask_harmless"], shown["dask_worker_secrets"]) == ("***", "***", "***")
    assert (shown["ansible_host"], shown["dask_worker_nthreads"], shown["dask_cluster_name"]) == ("192.0.2.1", 2, "2-x")
    assert shown["dask_worker_config"] == {"a": {"token": "***"}}
    assert shown["dask_worker_environment"]["TZ"] == "UTC"
    assert shown["dask_broken"].startswith("could not: ")
    assert shown["group_names"] == ["dask_workers"]
    # put together from what is vaulted
    assert shown["dask_uses_it"] == "at ***"
