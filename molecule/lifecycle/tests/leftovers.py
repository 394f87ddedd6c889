"""What of ours a host still has."""

from testinfra.host import Host

LABELS = ("cluster", "verify", "trial")


def leftovers(host: Host) -> dict[str, list[str]]:
    """Return files, units, tables of the firewall and containers that are ours, and whom of our users it knows."""
    units = "systemctl list-units --all --plain --no-legend 'dask-hostnet*' 'docker-registry*'"
    files = (
        r"find /etc /opt /root /run /srv /usr/local /var -xdev \( -name '*dask-hostnet*' -o -name '*dask_hostnet*' \)"
    )
    commands = {
        "files": f"{files} -not -path '/var/lib/docker/*' -not -path '/var/lib/containerd/*' -not -path '/var/log/*'",
        "trust": "find /etc/docker/certs.d -name ca.crt",
        "registry": "find /etc/docker/registry /var/lib/docker-registry -maxdepth 1",
        "units": units,
        "masks": "find /etc/systemd/system -lname /dev/null -name nginx.service",
        "tables": "nft list tables | grep dask_hostnet",
        "containers": "; ".join(
            f"docker ps --all --format '{{{{.Names}}}}' --filter label=io.dask-hostnet.{label}" for label in LABELS
        ),
        "users": "getent passwd docker-registry dask",
    }
    found = {
        what: sorted(host.run(f"{{ {command}; }} 2>/dev/null").stdout.splitlines())
        for what, command in commands.items()
    }
    return {what: lines for what, lines in found.items() if lines}
