"""The engine on every host: its settings by its own word, held, and a restart that leaves containers running."""

import json

import pytest

testinfra_hosts = ["ansible://all"]
NAME = "test-long-runner"
# systemd allows three starts a minute
RESTART = "systemctl reset-failed docker.service docker.socket; systemctl restart docker.service"


def engine(host):
    return json.loads(host.check_output("docker info --format '{{json .}}'"))


def test_the_engine_is_set_up(host):
    info = engine(host)
    assert info["LoggingDriver"] == "json-file"
    assert info["LiveRestoreEnabled"] is True
    assert info["Driver"] == "overlay2"
    assert info["RegistryConfig"]["InsecureRegistryCIDRs"] == ["127.0.0.0/8"]
    assert all(index["Secure"] for index in info["RegistryConfig"]["IndexConfigs"].values())

    service = host.service("docker")
    assert service.is_running
    assert service.is_enabled

    file = host.file("/etc/docker/daemon.json")
    assert (file.user, file.group, oct(file.mode)) == ("root", "root", "0o644")
    assert json.loads(file.content_string) == {
        "log-driver": "json-file",
        "log-opts": {"max-size": "10m", "max-file": "3"},
        "live-restore": True,
    }


def test_its_files_and_sockets_are_roots(host):
    paths = "/etc/docker /etc/docker/daemon.json /run/docker.sock /run/containerd/containerd.sock"
    lines = host.check_output(f"stat --format '%n %U %G %a' {paths}").splitlines()
    seen = {name: (user, group, int(mode, 8)) for name, user, group, mode in map(str.split, lines)}
    # who is in the group is root: Debian's package puts nobody there
    assert seen.pop("/run/docker.sock") == ("root", "docker", 0o660)
    assert host.group("docker").members == []
    for name, (user, group, mode) in seen.items():
        assert (user, group) == ("root", "root"), name
        assert mode & (0o022 if name.startswith("/etc") else 0o117) == 0, name


def test_upgrades_leave_the_engine_alone(host):
    assert {"docker.io", "containerd", "runc"} <= set(host.check_output("apt-mark showhold").split())
    upgrade = host.check_output("apt-get --simulate --quiet=2 dist-upgrade")
    assert "Inst docker.io" not in upgrade


def test_ansible_can_drive_it(host):
    host.check_output("python3 -c 'import requests'")


def pid(host):
    return host.check_output("systemctl show --property=MainPID docker.service")


def write(host, settings):
    host.check_output(
        "echo %s >/etc/docker/daemon.json", settings if isinstance(settings, str) else json.dumps(settings)
    )


@pytest.fixture
def long_runner(node):
    """A container on worker1, from an image of one file and its libraries: there is no other image yet."""
    host = node("worker1")
    files = "$(readlink -f /usr/bin/sleep) $(ldd /usr/bin/sleep | grep -o '/[^ ]*')"
    host.check_output(f"tar --create --dereference --absolute-names {files} | docker import - {NAME}")
    host.check_output(f"docker run --detach --network none --name {NAME} {NAME} /usr/bin/sleep 3600")
    yield host
    host.check_output(f"docker rm --force {NAME} {NAME}-later")
    host.check_output(f"docker rmi {NAME}")


@pytest.fixture
def somebodys(node, converge):
    """worker1's engine as its owner had it: private settings of their own, no live-restore, nothing of ours."""
    host, note = node("worker1"), "/etc/dask-hostnet/before.json"
    host.check_output(f"rm -f /etc/dask-hostnet/docker-daemon.json && mv {note} {note}.kept")
    write(host, {"debug": True, "log-opts": {"labels": "theirs"}})
    host.check_output("chmod 0600 /etc/docker/daemon.json")
    host.check_output(RESTART)
    yield host
    host.check_output(f"rm -f /etc/docker/daemon.json && mv --force {note}.kept {note}")
    converge("--limit", "worker1")


def test_somebodys_engine_keeps_its_settings_and_its_containers(somebodys, long_runner, inspect, play, converge):
    host, process = somebodys, pid(somebodys)
    before = inspect(host, NAME)["State"]
    assert before["Running"]
    assert engine(host)["LiveRestoreEnabled"] is False

    foreseen = converge("--limit", "worker1", "--check", "--diff")
    assert foreseen.changed["worker1"] > 0
    assert '"theirs"' not in foreseen.text
    assert json.loads(host.file("/etc/docker/daemon.json").content_string).keys() == {"debug", "log-opts"}

    converge("--limit", "worker1")
    assert pid(host) != process
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {
        "debug": True,
        "log-driver": "json-file",
        "log-opts": {"labels": "theirs", "max-size": "10m", "max-file": "3"},
        "live-restore": True,
    }
    # whatever of it was private stays so
    for name in "/etc/docker/daemon.json", "/etc/dask-hostnet/before.json":
        assert '"theirs"' in host.file(name).content_string
        assert oct(host.file(name).mode) == "0o600", name
    after = inspect(host, NAME)["State"]
    assert (after["Running"], after["Pid"], after["StartedAt"]) == (True, before["Pid"], before["StartedAt"])
    assert converge("--limit", "worker1").changed == {"worker1": 0}


def test_a_contradiction_is_refused_by_its_key(somebodys, play):
    host, process = somebodys, pid(somebodys)
    theirs = {"log-driver": "journald", "log-opts": {"max-size": "1g"}}
    for settings, *words in (
        (
            theirs,
            'worker1: /etc/docker/daemon.json: log-driver is "journald", and would become "json-file"; log-opts.',
            "Take that out of it, or write its value into dask_docker_daemon_options",
        ),
        ("{no json", "worker1: /etc/docker/daemon.json: Expecting property name", "Mend it"),
    ):
        write(host, settings)
        content = host.file("/etc/docker/daemon.json").content_string
        run = play("--limit", "worker1")
        assert run.status != 0
        run.says(*words)
        assert run.changed == {"worker1": 0}
        assert host.file("/etc/docker/daemon.json").content_string == content
        assert pid(host) == process


def test_where_live_restore_cannot_be_had_the_containers_are_named(somebodys, long_runner, inspect, play):
    host, process = somebodys, pid(somebodys)
    before = inspect(host, NAME)["State"]["Pid"]
    unit = "/run/systemd/system/docker.service.d"
    host.check_output(f"mkdir -p {unit}")
    host.check_output(f"printf '[Service]\\nExecReload=\\nExecReload=/bin/true\\n' >{unit}/no-reload.conf")
    host.check_output("systemctl daemon-reload")
    try:
        run = play("--limit", "worker1")
        assert run.status != 0
        run.says(
            "worker1: live-restore could not be switched on",
            f"the engine's restart would end {NAME}. End them, or let them be ended with -e dask_docker_allow_restart",
        )
        # a restart by somebody else must not find what was refused
        assert "live-restore" not in host.file("/etc/docker/daemon.json").content_string
        assert (pid(host), inspect(host, NAME)["State"]["Pid"]) == (process, before)
    finally:
        host.check_output(f"rm {unit}/no-reload.conf && systemctl daemon-reload")


def test_without_live_restore_no_setting_is_changed_under_running_containers(long_runner, inspect, play, converge):
    host, process = long_runner, pid(long_runner)
    before = inspect(host, NAME)["State"]["Pid"], host.file("/etc/docker/daemon.json").content_string
    without = json.loads(before[1]) | {"live-restore": False}
    for arguments in (), ("--check",):
        run = play("--limit", "worker1", *arguments, dask_docker_daemon_options=without)
        assert run.status != 0
        run.says("without live-restore ends", NAME, "with -e dask_docker_allow_restart=true")
        assert run.changed == {"worker1": 0}
    assert (inspect(host, NAME)["State"]["Pid"], host.file("/etc/docker/daemon.json").content_string) == before
    assert pid(host) == process
    # written by somebody, who then leaves the restart to us
    host.check_output("sed --in-place '/live-restore/s/true/false/' /etc/docker/daemon.json")
    run = play("--limit", "worker1", dask_docker_daemon_options=without)
    assert run.status != 0
    run.says("without live-restore ends", NAME)
    assert pid(host) == process

    allowed = {"dask_docker_daemon_options": without, "dask_docker_allow_restart": True}
    converge("--limit", "worker1", **allowed)
    assert pid(host) != process
    assert engine(host)["LiveRestoreEnabled"] is False
    # as nothing runs, nothing is refused
    converge("--limit", "worker1")
    assert engine(host)["LiveRestoreEnabled"] is True


def test_swarm_mode_is_refused(somebodys, play):
    """Live-restore would be taken up, and the engine would not start again."""
    host, process = somebodys, pid(somebodys)
    host.check_output("docker swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1")
    try:
        run = play("--limit", "worker1")
        assert run.status != 0
        run.says("worker1: its engine is in swarm mode, which excludes live-restore: docker swarm leave")
        assert run.changed == {"worker1": 0}
        assert pid(host) == process
    finally:
        host.check_output("docker swarm leave --force")


def test_a_changed_setting_restarts_the_engine_and_no_container(long_runner, inspect, play, converge):
    host = long_runner
    before = inspect(host, NAME)
    assert before["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    started = pid(host)

    changed = {"log-driver": "json-file", "log-opts": {"max-size": "7m", "max-file": "4"}, "live-restore": True}
    # a run that ends between the file and the engine is made good by the next
    failing = {"dask_docker_daemon_options": changed, "dask_docker_module_packages": ["test-no-such"]}
    assert play("--limit", "worker1", **failing).status != 0
    assert pid(host) == started
    converge("--limit", "worker1", dask_docker_daemon_options=changed)
    assert pid(host) != started
    after = inspect(host, NAME)
    assert after["State"]["Running"]
    assert (after["State"]["Pid"], after["State"]["StartedAt"]) == (
        before["State"]["Pid"],
        before["State"]["StartedAt"],
    )
    # what is created from now on has the new limits
    host.check_output(f"docker create --name {NAME}-later {NAME} /usr/bin/sleep 1")
    assert inspect(host, f"{NAME}-later")["HostConfig"]["LogConfig"]["Config"] == {"max-file": "4", "max-size": "7m"}

    assert converge("--limit", "worker1").changed["worker1"] > 0
    assert inspect(host, NAME)["State"]["Pid"] == before["State"]["Pid"]
