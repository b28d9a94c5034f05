#!/bin/sh
# Mounts with privilege, and serves without: the process that reads and decodes has no capability, another user, and no way back.
#
#   give-fd.sh SOURCE MOUNTPOINT [OPTION OF bsfs mount...]
#
# Needs root (or CAP_SYS_ADMIN), /dev/fuse, mount and setpriv of util-linux. BSFS_USER is the number of the other user (65534), who
# must be able to read SOURCE. Ends when the mount does; ended, it serves open files first and leaves the mount to be taken away.
set -eu
source=${1:?give-fd.sh SOURCE MOUNTPOINT [OPTION...]} point=${2:?give-fd.sh SOURCE MOUNTPOINT [OPTION...]}
shift 2
user=${BSFS_USER:-65534}
# What a process before this one left.
if grep -qs " $point fuse.bsfs " /proc/self/mounts; then umount -l "$point"; fi
exec 3<>/dev/fuse
mount -i -t fuse.bsfs -o "ro,nosuid,nodev,fd=3,rootmode=40000,user_id=$user,group_id=$user,default_permissions,allow_other" \
    "$source" "$point"
# The kernel offers a readahead of 128 KiB, and only root can raise it, once the mount is served. Without the connection in its hands:
# a mount whose server died would never end.
(
    tries=0
    until bsfs status --check "$point" 2>/dev/null || [ "$tries" = 100 ]; do tries=$((tries + 1)); sleep 0.2; done
    device=$(awk -v at="$point" '$5 == at { device = $3 } END { print device }' /proc/self/mountinfo)
    echo 2048 >"/sys/class/bdi/$device/read_ahead_kb"
) 3>&- 2>/dev/null &
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- \
    bsfs mount "$@" --fuse-fd 3 -- "$source" "$point"
