"""The engine on every host: its settings by its own word, held, and a restart that leaves containers running."""

import json

import pytest

testinfra_hosts = ["ansible://all"]
NAME = "test-long-runner"


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


def test_upgrades_leave_the_engine_alone(host):
    assert {"docker.io", "containerd", "runc"} <= set(host.check_output("apt-mark showhold").split())
    upgrade = host.check_output("apt-get --simulate --quiet=2 dist-upgrade")
    assert "Inst docker.io" not in upgrade


def test_ansible_can_drive_it(host):
    host.check_output("python3 -c 'import requests'")


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


def test_a_changed_setting_restarts_the_engine_and_no_container(long_runner, inspect, play, converge):
    host = long_runner
    before = inspect(host, NAME)
    assert before["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
    started = host.check_output("systemctl show --property=MainPID docker.service")

    changed = {"log-driver": "json-file", "log-opts": {"max-size": "7m", "max-file": "4"}, "live-restore": True}
    # a run that ends between the file and the engine is made good by the next
    assert (
        play("--limit", "worker1", dask_docker_daemon_config=changed, dask_docker_packages=["test-no-such"]).status != 0
    )
    assert host.check_output("systemctl show --property=MainPID docker.service") == started
    converge("--limit", "worker1", dask_docker_daemon_config=changed)
    assert host.check_output("systemctl show --property=MainPID docker.service") != started
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
