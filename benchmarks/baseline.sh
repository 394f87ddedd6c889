#!/usr/bin/env bash
# What one would write by hand instead of site.yml: brings bare workers into the cluster whose scheduler runs, over ssh, all at once.
#   baseline.sh INVENTORY IMAGE SCHEDULER NAME=ADDRESS…
# INVENTORY is a folder that create.yml and image.yml wrote. Ends when the scheduler lists the workers; verifies nothing.
set -euo pipefail
inventory=$1 image=$2 scheduler=$3
shift 3
registry=${image%%/*}
options=(-F none -i "$inventory/ssh/id_ed25519" -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes
  -o "UserKnownHostsFile=$inventory/ssh/known_hosts" -o ConnectTimeout=10)
ca=$(<"$inventory/pki/ca.crt")
password=$(<"$inventory/pki/registry-password")

install_and_run() { # name, address
  local key certificate
  key=$(openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256)
  certificate=$(openssl req -new -key /dev/stdin -subj "/CN=$1" <<<"$key" |
    openssl x509 -req -days 397 -CA "$inventory/pki/ca.crt" -CAkey "$inventory/pki/ca.key" 2>/dev/null)
  # shellcheck disable=SC2087  # the values are this script's own
  ssh "${options[@]}" "deploy@$2" sudo bash -euo pipefail -s <<HOST
export DEBIAN_FRONTEND=noninteractive
install -d /etc/docker/certs.d/$registry /etc/dask /etc/dask-tls
install -d -o 10786 -g 10786 -m 0700 /var/lib/spill
echo '{"log-driver": "json-file", "log-opts": {"max-file": "3", "max-size": "10m"}, "live-restore": true}' >/etc/docker/daemon.json
echo '$ca' >/etc/docker/certs.d/$registry/ca.crt
echo '$ca' >/etc/dask-tls/ca.crt
echo '$certificate' >/etc/dask-tls/host.crt
install -o root -g 10786 -m 0640 /dev/null /etc/dask-tls/host.key
echo '$key' >/etc/dask-tls/host.key
cat >/etc/dask/dask.yaml <<DASK
distributed:
  comm:
    require-encryption: true
    tls:
      ca-file: /etc/dask-tls/ca.crt
      min-version: 1.3
      worker: {cert: /etc/dask-tls/host.crt, key: /etc/dask-tls/host.key}
DASK
apt-get -q update
apt-get -q -y install --no-install-recommends docker.io apparmor
apt-mark hold docker.io containerd runc
docker login --username dask --password-stdin $registry <<<'$password'
docker pull --quiet $image
docker run --detach --name dask-worker-0 --network host --restart unless-stopped --init --read-only --user 10786:10786 \
  --tmpfs /tmp:rw,nosuid,nodev,mode=1777 --cap-drop ALL --security-opt no-new-privileges --pids-limit 4096 --ulimit nofile=16384:16384 \
  --memory 1280m --memory-swap 1280m --stop-timeout 60 --log-driver json-file --log-opt max-size=10m --log-opt max-file=3 \
  --env DASK_CONFIG=/etc/dask --volume /etc/dask:/etc/dask:ro --volume /etc/dask-tls:/etc/dask-tls:ro \
  --volume /var/lib/spill:/var/spill:rw $image \
  dask worker tls://$scheduler:8786 --name $1-0 --host $2 --worker-port 10000 --nanny-port 10100 --dashboard-address 127.0.0.1:10200 \
  --nworkers 1 --nthreads 2 --memory-limit 1073741824 --local-directory /var/spill
HOST
}

running=()
for worker in "$@"; do
  install_and_run "${worker%%=*}" "${worker#*=}" &
  running+=($!)
done
for one in "${running[@]}"; do wait "$one"; done

ssh "${options[@]}" "deploy@$scheduler" python3 - "$#" <<'WAIT'
import json, sys, time, urllib.request

end = time.monotonic() + 120
while json.load(urllib.request.urlopen("http://127.0.0.1:8787/json/counts.json", timeout=10))["workers"] < int(sys.argv[1]):
    if time.monotonic() > end:
        sys.exit("the scheduler does not list them after 120 s")
    time.sleep(0.1)
WAIT
