"""The refusals, as an operator meets them: ansible-playbook on real hosts, which stay as they are."""

from pathlib import Path

import pytest
import yaml

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
PREFLIGHT = PLAYBOOKS / "preflight.yml"
IMAGE = "192.0.2.11:5000/dask@sha256:" + "0" * 64
# what no boot, login or timer writes to
KEPT = "/etc /usr /opt /srv /var/lib/dpkg /var/lib/dask-hostnet /var/lib/docker-registry"
HOLDER = "import http.server as s; s.HTTPServer(('0.0.0.0', 10201), s.SimpleHTTPRequestHandler).serve_forever()"


@pytest.fixture
def refuse(node, addresses, play):
    """Run a playbook that must be refused in these words, and not one file or container may change on any node."""

    def containers(host):
        return host.run("docker ps --all --no-trunc --format '{{.ID}} {{.Status}}' | cut -d' ' -f1,2").stdout

    def run(*lines, arguments=(), playbook=PREFLIGHT, **options):
        before = {}
        for name in addresses:
            node(name).check_output("touch /run/before-refusal")
            before[name] = containers(node(name))
        done = play(*arguments, playbook=playbook, **options)
        assert done.status == 2
        done.says(*lines, "nothing was changed")
        assert set(done.changed.values()) <= {0}
        for name in addresses:
            newer = node(name).run(f"find {KEPT} -xdev -newer /run/before-refusal 2>/dev/null").stdout
            assert newer == "", name
            assert containers(node(name)) == before[name]

    return run


@pytest.fixture
def edit(scratch):
    """Edit the copied inventory: a function of its groups, or of its variables for all."""

    def change(name, function):
        file = scratch / name
        content = yaml.safe_load(file.read_text())
        function(content)
        file.write_text(yaml.safe_dump(content))

    return change


@pytest.mark.parametrize("playbook", [PREFLIGHT, PLAYBOOKS / "site.yml"], ids=["preflight", "site"])
def test_a_tag_is_refused_on_every_host_in_one_line(refuse, addresses, playbook):
    refuse(
        "1 problem; nothing was changed",
        f"{', '.join(addresses)} dask_cluster_image '192.0.2.11:5000/dask:latest' it must be registry/name@sha256:"
        "<64 hex digits>, never a tag: run playbooks/image.yml",
        playbook=playbook,
        dask_cluster_image="192.0.2.11:5000/dask:latest",
    )


def test_every_bad_variable_is_in_one_table(refuse, scratch, edit):
    def spoil(settings):
        del settings["dask_cluster_networks"], settings["dask_cluster_scheduler_host"]
        settings |= {
            "dask_cluster_client_networks": ["172.30.300.0/24"],
            "dask_cluster_http_address": "0.0.0.0",  # noqa: S104  # that is what is refused
            "dask_worker_memory_limit": "24 gigs",
            "dask_worker_count": 101,
            "dask_worker_nthreads": "auto",
            "dask_worker_mount": [],
            "dask_docker_daemon_config": {},
            "dask_quuxquuxquux": 1,
        }

    edit("group_vars/all/lab.yml", spoil)
    refuse(
        "dask_cluster_image not set run playbooks/image.yml, which writes it",
        "dask_cluster_scheduler_host not set write the address that workers dial",
        "dask_cluster_networks not set write a list of networks, for example [192.0.2.0/24]",
        "dask_cluster_client_networks '172.30.300.0/24'",
        "dask_cluster_http_address 0.0.0.0, every address write 127.0.0.1, or this host's address",
        "dask_worker_memory_limit '24 gigs' write a size such as 24GiB",
        "dask_worker_count 101 it must be a whole number from 0 to 100",
        "dask_worker_nthreads 'auto' it must be a whole number above 0, or '' to be derived",
        "dask_worker_mount no variable of any role do you mean dask_worker_mounts?",
        "dask_docker_daemon_config an old name write dask_docker_daemon_options instead",
        "dask_quuxquuxquux no variable of any role see docs/variables.md",
        inventory=scratch,
    )


def test_networks_that_are_no_list_are_refused(refuse):
    refuse(
        "worker1 dask_cluster_networks '172.30.0.0/16' write a list of networks, for example [192.0.2.0/24]",
        arguments=("--limit", "worker1"),
        dask_cluster_image=IMAGE,
        dask_cluster_networks="172.30.0.0/16",
    )


def test_groups_that_cannot_work_are_refused_together(refuse, scratch, edit):
    def spoil(groups):
        groups["dask_scheduler"]["hosts"]["worker1"] = {}
        groups["dask_workers"] = {"hosts": {}}

    edit("hosts.yml", spoil)
    refuse(
        "inventory group dask_scheduler 2 hosts (scheduler1, worker1) write exactly one host into it",
        "inventory group dask_registry 2 hosts (scheduler1, worker1) write exactly one host into it",
        "inventory group dask_workers empty or missing write at least one host into it",
        inventory=scratch,
        dask_cluster_image=IMAGE,
    )


def test_a_misspelt_group_and_an_address_given_twice_are_refused(refuse, scratch, edit, addresses):
    def spoil(groups):
        groups["dask_schedulers"] = groups.pop("dask_scheduler")
        groups["dask_registry"] = {"hosts": {"worker1": {}}}
        groups["dask_workers"]["hosts"]["worker2"]["ansible_host"] = addresses["worker1"]

    edit("hosts.yml", spoil)
    refuse(
        "group dask_scheduler empty or missing write exactly one host into it",
        f"dask_cluster_address {addresses['worker1']} of worker1, worker2 give each host its own address",
        inventory=scratch,
        dask_cluster_image=IMAGE,
    )


def test_addresses_that_are_not_the_hosts_are_refused(refuse, scratch, edit, addresses):
    def spoil(groups):
        workers = groups["dask_workers"]["hosts"]
        workers["worker1"]["dask_cluster_address"] = "127.0.0.1"
        workers["worker2"]["dask_cluster_address"] = "192.0.2.22"
        workers["worker2"]["dask_cluster_scheduler_host"] = "127.0.1.1"
        groups["dask_scheduler"]["hosts"]["scheduler1"]["dask_cluster_address"] = "2001:db8::11"

    edit("hosts.yml", spoil)
    refuse(
        "worker1 dask_cluster_address 127.0.0.1, a loopback address write the address of this host",
        f"worker2 dask_cluster_address 192.0.2.22, not on this host, which has {addresses['worker2']} write",
        "scheduler1 dask_cluster_address 2001:db8::11 write this host's IPv4 address: Dask takes no other",
        "worker2 dask_cluster_scheduler_host 127.0.1.1, reached through this host's own lo write an address",
        inventory=scratch,
        dask_cluster_image=IMAGE,
    )


def test_the_bridge_of_the_containers_is_no_address_of_a_host(refuse, scratch, edit):
    def spoil(groups):
        groups["dask_workers"]["hosts"]["worker1"]["dask_cluster_address"] = "172.17.0.1"

    edit("hosts.yml", spoil)
    refuse(
        "worker1 dask_cluster_address 172.17.0.1, of the container bridge docker0 write the address of this host",
        "without 172.17.0.1 add the network that this host is in",
        inventory=scratch,
        dask_cluster_image=IMAGE,
    )


@pytest.fixture
def hostile(node):
    """A worker on which a great deal stands in the way; all of it is taken away again."""
    host = node("worker1")
    undo = (
        "systemctl stop test-holder.service",
        "docker rm --force test-other",
        "docker rmi test-other",
        "docker swarm leave --force",
        "rm -rf /etc/ufw /var/snap/docker /srv/a-file",
        "rmdir /var/snap",
        "sysctl --write net.ipv4.ip_local_port_range='32768 60999'",
    )
    try:
        host.check_output("systemd-run --collect --unit=test-holder python3 -c %s", HOLDER)
        host.check_output("echo | tar --create --files-from=/dev/null | docker import - test-other")
        host.check_output("docker create --name test-other --label io.dask-hostnet.cluster=theirs test-other true")
        host.check_output("docker swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1")
        host.check_output("mkdir -p /etc/ufw /var/snap/docker")
        host.check_output("echo ENABLED=yes >/etc/ufw/ufw.conf; echo x >/srv/a-file")
        host.check_output("sysctl --write net.ipv4.ip_local_port_range='10000 60999'")
        yield host
    finally:
        for command in undo:
            host.run(command)


def test_what_stands_in_the_way_on_a_host_is_named(hostile, refuse, wait):
    wait(lambda: "10201" in hostile.check_output("ss -Htln"), "a process holds port 10201")
    one = {"arguments": ("--limit", "worker1"), "dask_cluster_image": IMAGE}
    refuse(
        "dask_cluster_worker_http_port 10201, held by python3 end that, or plan another port",
        "dask_cluster_nanny_port 10100, 10101, in the host's range for outgoing connections 10000-60999",
        "dask_worker_nthreads 198 on 2 workers, of ",
        "dask_worker_memory_limit 2048512 MiB with what the containers need besides, of ",
        "dask_worker_local_directory /run/spill, on tmpfs name a folder on a local disk",
        "dask_worker_mounts /no/such:/data:ro: /no/such is not there make it on this host",
        "dask_container_nofile 1073741817, above this host's hard limit ",
        "its disk ",
        "its engine a snap, which sees other folders than the host snap remove docker",
        "its engine in swarm mode (active) docker swarm leave",
        "its firewall ufw is active ufw disable, or open the ports of docs/ports.md",
        "but test-other of cluster theirs are on this host a host belongs to one cluster: write theirs",
        **one,
        dask_worker_count=2,
        dask_worker_nthreads=99,
        dask_worker_memory_limit="1000GiB",
        dask_worker_local_directory="/run/spill",
        dask_worker_mounts=["/no/such:/data:ro"],
        dask_container_nofile=1073741817,
    )
    refuse(
        "dask_worker_local_directory /srv/a-file/spill, below a file name a folder",
        "dask_cluster_nanny_port, dask_cluster_worker_port 10000 more than once plan each port once",
        "dask_worker_mounts 'data' write source:destination:mode with absolute paths, mode ro or rw",
        "dask_worker_mounts /run/docker.sock:/s, which opens /run/docker.sock mount a folder of data",
        "dask_worker_memory_limit 100 MiB for each of 1 it must be at least 256 MiB",
        **one,
        dask_worker_local_directory="/srv/a-file/spill",
        dask_cluster_nanny_port=10000,
        dask_worker_mounts=["data", "/run/docker.sock:/s"],
        dask_worker_memory_limit="100MiB",
    )


def test_a_good_inventory_passes_and_changes_nothing(play, addresses, scratch, edit):
    run = play(playbook=PREFLIGHT, dask_cluster_image=IMAGE)
    assert run.status == 0, run.text
    assert run.changed == dict.fromkeys(addresses, 0)
    # also as a rehearsal, and where a problem is accepted on the host that has it
    assert play("--check", playbook=PREFLIGHT, dask_cluster_image=IMAGE).status == 0
    accepted = {"dask_preflight_ignore": ["networks"], "dask_cluster_networks": ["198.51.100.0/24"]}
    edit("hosts.yml", lambda groups: groups["dask_workers"]["hosts"]["worker1"].update(accepted))
    assert play(playbook=PREFLIGHT, inventory=scratch, dask_cluster_image=IMAGE).status == 0
