#!/bin/sh
# Run by mmdebstrap with the new root as its argument: what makes a Debian tree a host that an operator would be given.
set -eu
root=$1
chroot "$root" useradd --create-home --shell /bin/bash --user-group deploy
install -d -m 0700 "$root/home/deploy/.ssh"
chroot "$root" chown deploy:deploy /home/deploy/.ssh
echo 'deploy ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/deploy"
chmod 0440 "$root/etc/sudoers.d/deploy"
printf '%s\n' 'PasswordAuthentication no' 'KbdInteractiveAuthentication no' 'PermitRootLogin no' 'UseDNS no' \
  >"$root/etc/ssh/sshd_config.d/node.conf"
# each node makes its own host keys at its first boot
rm -f "$root"/etc/ssh/ssh_host_*
cat >"$root/etc/systemd/system/ssh-host-keys.service" <<'UNIT'
[Unit]
Description=Host keys of this node
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A
[Install]
WantedBy=ssh.service
UNIT
# A host may write under /proc; Docker covers parts of it, and its Ansible module has no option (systempaths) against that.
cat >"$root/etc/systemd/system/uncover-proc.service" <<'UNIT'
[Unit]
Description=A host's own view of /proc
DefaultDependencies=no
Before=sysinit.target systemd-sysctl.service proc-sys-fs-binfmt_misc.automount
[Service]
Type=oneshot
RemainAfterExit=yes
# what is not covered is no error; lazily, as systemd has a file below open
ExecStart=-/usr/bin/umount --quiet --lazy /proc/bus /proc/fs /proc/irq /proc/sysrq-trigger /proc/sys /proc/acpi /proc/kcore /proc/keys /proc/timer_list /proc/scsi
[Install]
WantedBy=sysinit.target
UNIT
systemctl --root="$root" enable ssh.service ssh-host-keys.service uncover-proc.service
# apt's timers would hold dpkg's lock in the middle of a test; a node has no kernel modules to load
systemctl --root="$root" mask apt-daily.timer apt-daily-upgrade.timer systemd-modules-load.service
