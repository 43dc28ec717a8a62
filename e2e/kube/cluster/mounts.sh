#!/usr/bin/env bash
# What a node sees of the file system: the machine's, but with folders of its own where a network and a kubelet keep
# their things. Runs inside the node's new mount namespace, and then stays as the process that holds it.
#
#   mounts.sh FOLDER PATH...   FOLDER holds what the node has at each PATH
set -euo pipefail
folder="$1"
shift

# Everything is private here still. What others mounted below /run would be held by this namespace for as long as it
# lives, and with it other labs' network namespaces.
awk '$2 ~ "^/run/" { print $2 }' /proc/mounts | sort -r | while read -r mounted; do
  umount -l "$mounted" 2>/dev/null || true
done
# A group of its own in which mounts spread, as the root of a host with systemd has it: a DaemonSet's host path with
# mount propagation finds what it needs.
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
# Where both generations of control groups are mounted, crun wants to see one.
if mountpoint -q /sys/fs/cgroup/unified && mountpoint -q /sys/fs/cgroup/memory; then umount /sys/fs/cgroup/unified; fi
mkdir -p /run/netns /run/lock
for path in "$@"; do
  mkdir -p "$folder$path"
  mount --bind "$folder$path" "$path"
done
# Every start of a node is a boot, and this is how kubelet knows one from another.
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
touch /run/mounted
exec sleep infinity
