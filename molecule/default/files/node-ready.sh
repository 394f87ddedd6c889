#!/bin/sh
# Run in a node: waits for systemd and sshd, lets the public key $key in, and prints the node's own.
set -eu
# a degraded node runs: a unit of a role under test may have failed
state=$(timeout 60 systemctl is-system-running --wait || :)
case $state in
  running | degraded) ;;
  *) echo "systemd is $state" >&2 && exit 1 ;;
esac
ss -Hltn sport = :22 | grep -q . || { echo "sshd does not listen" >&2 && exit 1; }
: "${key:?the public key to let in}"
file=/home/deploy/.ssh/authorized_keys
if [ "$(cat $file 2>/dev/null || :)" != "$key" ]; then
  echo "$key" >$file
  chown deploy:deploy $file
  chmod 0600 $file
  echo "key added"
fi
tail -n 1 /etc/ssh/ssh_host_ed25519_key.pub
