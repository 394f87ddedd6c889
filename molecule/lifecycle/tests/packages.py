"""A repository that is all that apt knows on a host meanwhile: one package, and its next version where there is one."""

from testinfra.host import Host

# version 1 is installed; version 2 is offered where it is told what its installation runs
SOURCES = """
set -e
cd /var/tmp && rm -rf test-patch && mkdir -p test-patch/package/DEBIAN && cd test-patch
for version in 1 2; do
  printf '%s\\n' 'Package: test-patch' "Version: $version" 'Architecture: all' 'Maintainer: test' 'Description: test' \\
    > package/DEBIAN/control
  printf '#!/bin/sh\\n[ %s = 1 ] || %s\\n' $version "${1:-true}" > package/DEBIAN/postinst
  chmod 0755 package/DEBIAN/postinst
  dpkg-deb --build package test-patch_$version.deb
done
{ cat package/DEBIAN/control; echo "Filename: ./test-patch_2.deb"; echo "Size: $(stat -c %s test-patch_2.deb)"
  echo "SHA256: $(sha256sum test-patch_2.deb | cut -d ' ' -f 1)"; } > Packages
[ -n "$1" ] || : > Packages
{ echo 'Date: Thu, 01 Jan 2026 00:00:00 UTC'; echo SHA256:
  echo " $(sha256sum Packages | cut -d ' ' -f 1) $(stat -c %s Packages) Packages"; } > Release
echo 'deb [trusted=yes] file:/var/tmp/test-patch ./' > sources.list
dpkg --install test-patch_1.deb
printf '%s\\n' 'Dir::Etc::sourcelist "/var/tmp/test-patch/sources.list";' 'Dir::Etc::sourceparts "-";' \\
  'APT::Get::List-Cleanup "false";' > /etc/apt/apt.conf.d/99test-patch
"""


def offer(host: Host, script: str = "") -> None:
    """Have the host offered nothing, or a version whose installation runs a shell command."""
    host.check_output("sh -c %s sh %s", SOURCES, script)


def withdraw(host: Host) -> None:
    """Have apt know what it knew."""
    host.check_output("rm -rf /etc/apt/apt.conf.d/99test-patch /var/tmp/test-patch; dpkg --purge test-patch")
