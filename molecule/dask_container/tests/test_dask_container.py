"""What Docker says of a container that the role made, and what makes the role replace, keep, mend or remove it.

In the order of the file: each test leaves the stand-in running, the last one without.
"""

import json
from pathlib import Path

testinfra_hosts = ["ansible://worker1"]
NAME = "dask-probe-0"


def test_docker_shows_the_promised_settings(host, inspect, image):
    container = inspect(host, NAME)
    config, limits = container["Config"], container["HostConfig"]
    assert config["Image"] == image
    assert limits["NetworkMode"] == "host"
    assert limits["RestartPolicy"] == {"Name": "unless-stopped", "MaximumRetryCount": 0}
    assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert limits["ReadonlyRootfs"] is True
    assert list(limits["Tmpfs"]) == ["/tmp"]  # noqa: S108  # the container's own
    assert config["User"] == "10786:10786"
    assert limits["CapDrop"] == ["ALL"]
    assert not limits["CapAdd"]
    assert limits["SecurityOpt"] == ["no-new-privileges:true"]
    assert limits["Privileged"] is False
    assert limits["PidsLimit"] == 4096
    assert limits["Ulimits"] == [{"Name": "nofile", "Soft": 16384, "Hard": 16384}]
    assert (limits["Memory"], limits["MemorySwap"]) == (2**29, 2**29)
    assert config["StopTimeout"] == 120
    assert sorted(limits["Binds"]) == [
        "/etc/dask-hostnet/preload:/opt/dask-hostnet/preload:ro",
        "/etc/dask-hostnet/probe:/etc/dask:ro",
        "/etc/dask-hostnet/tls:/etc/dask-tls:ro",
        "/srv:/data:ro",
    ]
    assert {"PROBE=7", "PROBE_FLAG=true", "DASK_CONFIG=/etc/dask"} <= set(config["Env"])
    assert config["Labels"]["io.dask-hostnet.kind"] == "dask-probe"
    assert len(config["Labels"]["io.dask-hostnet.config-hash"]) == 64
    assert container["State"]["Health"]["Status"] == "healthy"
    assert config["Healthcheck"]["Test"][-2:] == ["127.0.0.1", "18787"]


def test_it_shares_the_network_and_nothing_else(host, inspect):
    container = inspect(host, NAME)
    limits = container["HostConfig"]
    assert (limits["PidMode"], limits["UTSMode"], limits["UsernsMode"], limits["IpcMode"]) == ("", "", "", "private")
    assert not limits["Devices"]
    assert not limits["VolumesFrom"]
    binds = [mount for mount in container["Mounts"] if mount["Type"] == "bind"]
    assert binds
    assert {mount["Propagation"] for mount in binds} == {"rprivate"}


def test_seen_from_inside_there_is_nothing_to_take(host):
    code = Path(__file__).with_name("inside.py").read_text()
    seen = json.loads(host.check_output(f"docker exec {NAME} python -c %s", code))
    assert seen["ids"] == [10786] * 6
    assert set(seen["groups"]) <= {10786}
    assert set(seen["capabilities"]) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert not any(seen["capabilities"].values())
    assert seen["no_new_privileges"] == "1"
    # the engine's filter of system calls
    assert seen["seccomp"] == "2"
    assert seen["open_files"] == [16384, 16384]
    assert seen["root_is_read_only"] is True
    assert seen["writing"] == {
        "/tmp/mine": "written",  # noqa: S108  # the container's own
        "/opt/dask/mine": "Read-only file system",
        "/etc/dask/mine": "Read-only file system",
    }
    for nothing in ("privileged", "sockets", "compilers", "caches", "installers"):
        assert seen[nothing] == [], nothing


def test_it_comes_back_when_its_process_is_killed(host, inspect, wait):
    state = inspect(host, NAME)["State"]
    host.check_output("kill -KILL %s", str(state["Pid"]))

    def back():
        now = inspect(host, NAME)["State"]
        return now["Pid"] not in (0, state["Pid"]) and now["Health"]["Status"] == "healthy"

    wait(back, f"{NAME} is healthy again", 60)


def test_a_changed_configuration_replaces_it_and_the_same_does_not(host, inspect, converge):
    def identity():
        container = inspect(host, NAME)
        return container["Id"], container["State"]["StartedAt"]

    first = identity()
    change = {"distributed": {"admin": {"tick": {"limit": "4s"}}}}
    foreseen = converge("--check", "--diff", probe_config=change)
    assert foreseen.changed["worker1"] > 0
    assert identity() == first

    assert converge(probe_config=change).changed["worker1"] > 0
    second = identity()
    assert second[0] != first[0]
    seen = host.check_output(
        f"docker exec {NAME} python -c 'import dask; print(dask.config.get(\"distributed.admin.tick.limit\"))'"
    )
    assert seen == "4s"

    assert converge(probe_config=change).changed == {"worker1": 0}
    assert identity() == second


def test_other_values_are_taken_up_and_what_is_gone_from_the_inventory_is_gone(host, addresses, inspect, converge):
    other = {
        "dask_container_nofile": 8192,
        "dask_container_pids_limit": 512,
        "dask_container_stop_timeout": 7,
        "dask_container_health_interval": "3s",
        "dask_cluster_log_max_size": "1m",
        "dask_cluster_log_max_file": 2,
        "dask_cluster_uid": 12345,
        "dask_cluster_tls_min_version": "1.2",
        "probe_mounts": [],
        "probe_environment": {},
    }
    assert converge(**other).changed["worker1"] > 0
    container = inspect(host, NAME)
    config, limits = container["Config"], container["HostConfig"]
    assert limits["Ulimits"] == [{"Name": "nofile", "Soft": 8192, "Hard": 8192}]
    assert (limits["PidsLimit"], config["StopTimeout"], config["User"]) == (512, 7, "12345:10786")
    assert limits["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "2"}
    assert config["Healthcheck"]["Interval"] == 3 * 10**9
    assert sorted(limits["Binds"]) == [
        "/etc/dask-hostnet/preload:/opt/dask-hostnet/preload:ro",
        "/etc/dask-hostnet/probe:/etc/dask:ro",
        "/etc/dask-hostnet/tls:/etc/dask-tls:ro",
    ]
    assert not any(entry.startswith("PROBE") for entry in config["Env"])
    assert container["State"]["Health"]["Status"] == "healthy"
    # the other TLS by choice, with the host's certificate as a client's; Dask's first bytes may follow, and are no text
    pair = "-CAfile ca.crt -cert host.crt -key host.key </dev/null 2>&1"
    handshake = host.check_output(
        f"cd /etc/dask-hostnet/tls && openssl s_client -connect %s:18786 -tls1_2 {pair} | grep -a 'Verify return code'",
        addresses["worker1"],
    )
    assert handshake.strip() == "Verify return code: 0 (ok)"
    assert converge(**other).changed == {"worker1": 0}


def test_what_does_not_get_healthy_fails_the_run_and_is_mended_by_the_next(host, inspect, play, converge):
    quick = {
        "dask_container_healthy_timeout": 8,
        "dask_container_health_interval": "1s",
        "dask_container_health_start_period": "1s",
        "dask_container_health_retries": 3,
    }
    run = play(probe_http_port=18799, **quick)
    assert run.status != 0
    run.says(f"failed: [worker1] (item={NAME})")
    assert inspect(host, NAME)["State"]["Health"]["Status"] != "healthy"
    converge()
    assert inspect(host, NAME)["State"]["Health"]["Status"] == "healthy"


def test_what_is_no_longer_listed_is_removed_and_nothing_else(host, inspect, converge, image):
    host.check_output("docker create --name test-somebody-elses %s true", image)
    try:
        converge(probe_count=0)
        assert inspect(host, NAME) == {}
        assert inspect(host, "test-somebody-elses") != {}
    finally:
        host.check_output("docker rm test-somebody-elses")
