#!/usr/bin/env bash
# Makes .venv from a hash-locked requirements file:  scripts/setup.sh control|dev
# A stamp names the set, the lock's hash and this folder: while it fits there is nothing to do. It is written last, so a
# set-up that was killed is made anew. A dev environment holds the control set too and is never narrowed to it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
set_name=${1:?usage: scripts/setup.sh control|dev}
log=.hostnet/log/setup.log
stamp=.venv/hostnet-setup

say() { printf 'set-up  %s\n' "$*"; }
die() { printf 'set-up  FAILED: %s\n' "$*" >&2; exit 1; }

logged() { # what it is, command...: output to the log; on failure its last lines
  local what=$1; shift
  printf '\n+ %s\n' "$*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null && return
  grep -vE "^WARNING: Location .* is ignored|^[[:space:]]*$" "$log" | tail -n 12 >&2
  die "$what (log: $log)"
}

wanted() { printf '%s %s %s\n' "$1" "$(sha256sum <"requirements/$1.txt" | cut -d' ' -f1)" "$PWD"; }

ready() { # the stamp fits and the interpreter still starts
  [[ -f $stamp ]] && [[ $(<"$stamp") == "$(wanted "$1")" ]] && .venv/bin/python -c '' 2>/dev/null
}

find_python() {
  local name
  for name in python3 python3.11 python3.12 python3.13; do
    # the base interpreter: `python3` may be that of the very environment that is made anew
    "$name" -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys._base_executable)' 2>/dev/null && return
  done
  return 1
}

ready "$set_name" || ready dev || {
  (umask 077 && mkdir -p .hostnet/log)
  exec 9>.hostnet/setup.lock
  flock -n 9 || { say "another set-up runs in this checkout, waiting for it"; flock -w 900 9 || die "it has not ended in 15 minutes"; }
}
if ready "$set_name" || ready dev; then exit 0; fi

: >"$log"
[[ ! -f $stamp ]] || [[ $(<"$stamp") != "dev "* ]] || set_name=dev
python=$(find_python) || die "no Python 3.11 or newer found (tried python3, python3.11, python3.12, python3.13)"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
say "Python $version: $python"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  command -v apt-get >/dev/null || die "$python lacks venv and ensurepip: install them"
  root=()
  [[ $EUID == 0 ]] || { command -v sudo >/dev/null || die "python$version-venv is missing: install it, or install sudo"; sudo -n true 2>/dev/null || sudo -v; root=(sudo -n); }
  say "installing the package python$version-venv"
  logged "apt-get update" "${root[@]}" apt-get update
  logged "installing python$version-venv" "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "python$version-venv"
fi

# a complete environment is upgraded in place; anything else is made anew
if [[ ! -f $stamp ]] || [[ $(<"$stamp") != *" $PWD" ]] || ! .venv/bin/python -c '' 2>/dev/null; then
  say "making .venv"
  logged "making .venv" "$python" -m venv --clear .venv
fi
rm -f "$stamp"
say "installing requirements/$set_name.txt (a minute or two, log: $log)"
# wheels only: building a source package would fetch what no hash covers
logged "installing requirements/$set_name.txt" .venv/bin/python -m pip install --disable-pip-version-check --no-input \
  --no-compile --require-hashes --only-binary :all: -r "requirements/$set_name.txt"
# the package itself, from this checkout: a path file needs no build tools
printf '%s/scripts\n' "$PWD" >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hostnet.pth"
wanted "$set_name" >"$stamp"
say "done in $SECONDS s"
