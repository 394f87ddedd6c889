"""The vocabulary: what the names come to on each host, and how a wrong value is refused."""

import yaml


def test_each_host_has_its_own_values(converge, addresses, node):
    run = converge()
    assert run.changed == dict.fromkeys(addresses, 0)
    registry = f"{addresses['scheduler1']}:5000"
    run.says("logs 10m x 3", "/molecule/inventory/pki logs")
    for name, address in addresses.items():
        run.says(
            f"{name} at {address} pulls from {registry} serves pages on 127.0.0.1", f"{name} from afar at {address}"
        )
        assert address in node(name).interface("eth0").addresses


def test_a_host_without_ansible_host_is_known_by_its_name(play, scratch):
    groups = yaml.safe_load((scratch / "hosts.yml").read_text())
    groups["dask_workers"]["hosts"]["worker9.example"] = {}
    (scratch / "hosts.yml").write_text(yaml.safe_dump(groups))
    run = play(inventory=scratch)
    assert run.status == 0, run.text
    run.says("worker9.example at worker9.example pulls", "worker9.example from afar at worker9.example")


def test_a_wrong_value_is_refused_by_name_without_telling_secrets(play, scratch):
    (scratch / "pki").mkdir()
    (scratch / "pki" / "registry-password").write_text("not-for-the-screen")
    run = play(inventory=scratch, dask_cluster_registry_port="eight", dask_cluster_networks={"no": "list"})
    assert run.status != 0
    run.says(
        "'dask_cluster_registry_port' is of type",
        "'dask_cluster_networks' is of type",
        "dask_cluster_registry_password",
    )
    assert "not-for-the-screen" not in run.text
    assert "from afar" not in run.text
