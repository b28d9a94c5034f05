#!/usr/bin/env bash
# Starts the systemd units under a real systemd: a Debian made by debootstrap, booted in a container of systemd-nspawn.
#
#   scripts/systemd-test.sh [--install]
#
#   --install   first install what is needed with apt-get (debootstrap, systemd-container)
#
# Checked are: the unit is started only when the mount answers, and stopping it unmounts; a daemon that is killed is started anew,
# on a clean mount point; what is wrong is in the journal; lines of /etc/fstab, one of them with x-systemd.automount and a source
# behind another automount; the unit of a user; "bsfs service".
# Exit status 77 where that cannot be run. The Debian is kept in ${BSFS_CACHE:-~/.cache/bsfs-scripts}. BSFS names a ready program.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

skip() { printf '%s: not run: %s\n' "${0##*/}" "$*" >&2; exit 77; }
((EUID == 0)) || skip "it takes root"
[[ -c /dev/fuse ]] || skip "there is no /dev/fuse"
if [[ ${1:-} == --install ]]; then
    DEBIAN_FRONTEND=noninteractive run apt-get install -y -q debootstrap systemd-container dbus >/dev/null || skip "apt-get failed"
fi
have debootstrap || skip "there is no debootstrap (see --help)"
have systemd-nspawn || skip "there is no systemd-nspawn; it is in the package systemd-container (see --help)"

build_bsfs
root=$CACHE/systemd-root
if [[ ! -e $root/.ready ]]; then
    say "making a Debian in $root"
    rm -rf --one-file-system -- "$root"
    mkdir -p "$root"
    packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,fuse3,procps
    run debootstrap --variant=minbase "--include=$packages" bookworm "$root" >"$root.log" 2>&1 ||
        skip "debootstrap failed: $(tail -n 1 "$root.log")"
    touch "$root/.ready"
fi
# What an earlier run left.
rm -rf -- "$root"/etc/bsfs "$root"/etc/systemd/{system,user}/bsfs@.service "$root"/etc/systemd/system/*.wants/bsfs@* \
    "$root"/home/someone/.config "$root"/srv/models "$root"/var/log/journal
BSFS=$BSFS "$SCRIPTS/install.sh" --prefix /usr --destdir "$root" >/dev/null
work_dir work
mkdir -p "$root"/{etc/bsfs,srv/{models,shared},mnt/{models,table,auto,service}}
head -c 3000000 /dev/urandom >"$work/m.bin"
"$BSFS" compress "$work/m.bin" -o "$root/srv/models/m.bin.bs" >/dev/null
printf 'SOURCE=/srv/models\nMOUNTPOINT=/mnt/models\nOPTIONS=--allow-other --memory 64M --cache off\n' >"$root/etc/bsfs/x.conf"
printf 'SOURCE=/srv/nothing\nMOUNTPOINT=/mnt/models\nOPTIONS=\n' >"$root/etc/bsfs/bad.conf"
cat >"$root/etc/fstab" <<'end'
/srv/models /mnt/table bsfs memory=64M,cache=off,allow_other,noauto 0 0
/srv/models /srv/shared none bind,noauto,x-systemd.automount 0 0
/srv/shared /mnt/auto bsfs cache=off,users,_netdev,noauto,x-systemd.automount 0 0
end
[[ -d $root/home/someone ]] || chroot "$root" useradd -m someone
mkdir -p "$root/home/someone/"{shown,.config/bsfs}
printf 'SOURCE=/srv/models\nMOUNTPOINT=/home/someone/shown\nOPTIONS=--cache off\n' >"$root/home/someone/.config/bsfs/u.conf"
chroot "$root" chown -R someone: /home/someone

# Open to all users, as on a desktop.
mknod -m 666 "$work/fuse" c 10 229 || skip "no device can be made here"
say "booting"
setsid systemd-nspawn -D "$root" -b --register=no --keep-unit "--bind=$work/fuse:/dev/fuse" --capability=CAP_SYS_ADMIN --console=pipe \
    --bind=/dev/autofs "--property=DeviceAllow=/dev/autofs rw" -M "bsfs-test-$$" </dev/null >"$work/boot" 2>&1 &
nspawn=$!
_servers+=("$nspawn")
init=''
for ((at = 0; at < 300; at++)); do
    init=$(pgrep -P "$nspawn" | head -n 1) || true
    [[ -z $init ]] || [[ ! -e $root/run || $(readlink "/proc/$init/ns/pid") == "$(readlink /proc/self/ns/pid)" ]] || break
    kill -0 "$nspawn" 2>/dev/null || skip "systemd-nspawn ended: $(tail -n 1 "$work/boot")"
    sleep 0.1
done
# Ended first: a container outlives a systemd-nspawn that is killed.
_servers=("$init" "${_servers[@]}")
inside() { timeout 60 nsenter -t "$init" -m -u -i -n -p -- "$@"; }
state=''
for ((at = 0; at < 300; at++)); do
    state=$(inside systemctl is-system-running 2>/dev/null) || true
    [[ $state == running || $state == degraded ]] && break
    sleep 0.2
done
[[ $state == running || $state == degraded ]] || skip "systemd did not start ($state): $(tail -n 1 "$work/boot")"

failures=0
check() {
    local what=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        printf 'ok      %s\n' "$what"
    else
        printf 'FAILED  %s\n' "$what"
        sed 's/^/        /' "$work/out"
        failures=$((failures + 1))
    fi
}
until_ok() { local at; for ((at = 0; at < 100; at++)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; "$@"; }
same() { inside cat "$1/m.bin" | cmp - "$work/m.bin"; }
mounted() { inside grep -q " $1 fuse.bsfs " /proc/mounts; }
not() { ! "$@"; }
is() { [[ $(inside systemctl show -p "$2" --value "$1") == "$3" ]]; }

check "a unit starts" inside systemctl start bsfs@x
check "it is active, and says what it serves" is bsfs@x StatusText "serving /mnt/models"
check "what it shows is right" same /mnt/models
check "it stops" inside systemctl stop bsfs@x
check "that unmounts" not mounted /mnt/models
inside systemctl start bsfs@x
inside systemctl kill --signal=KILL bsfs@x
check "a killed daemon is started anew" until_ok is bsfs@x NRestarts 1
check "and serves" until_ok same /mnt/models
check "on one mount" test "$(inside grep -c ' /mnt/models ' /proc/mounts)" = 1
inside systemctl stop bsfs@x
check "a wrong configuration fails" not inside systemctl start bsfs@bad
journal() { inside journalctl -u "$1" --no-pager | grep -q "$2"; }
check "the journal says why" journal bsfs@bad "/srv/nothing: cannot open the source"
check "a line of fstab mounts" inside mount /mnt/table
check "and is right" same /mnt/table
if inside bsfs remount --help >/dev/null 2>&1; then
    check "and is changed by mount -o remount" inside mount -o remount,memory=32M /mnt/table
    changed() { inside bsfs remount /mnt/table 2>&1 | grep -q "memory 32.0 MiB"; }
    check "which is in force" changed
fi
check "and unmounts" inside umount /mnt/table

if inside systemctl start srv-shared.automount mnt-auto.automount; then
    check "the first access mounts, and the source before it" same /mnt/auto
    check "on one mount" test "$(inside grep -c ' /mnt/auto fuse.bsfs ' /proc/mounts)" = 1
    check "and systemd knows it" is mnt-auto.mount ActiveState active
    check "and unmounts it" inside systemctl stop mnt-auto.automount mnt-auto.mount srv-shared.automount srv-shared.mount
    check "which leaves nothing" not mounted /mnt/auto
else
    say "no automounts here"
fi

user=(inside runuser -u someone -- env XDG_RUNTIME_DIR=/run/user/1000 systemctl --user)
inside loginctl enable-linger someone || say "loginctl failed"
check "a user has a systemd" until_ok "${user[@]}" is-system-running
check "the unit of a user starts" "${user[@]}" start bsfs@u
seen() { inside runuser -u someone -- cat /home/someone/shown/m.bin | cmp - "$work/m.bin"; }
check "and what it shows is right" seen
check "and stops" "${user[@]}" stop bsfs@u
check "and unmounts" not mounted /home/someone/shown

if inside bsfs service --help >/dev/null 2>&1; then
    check "a service is installed" inside bsfs service install /srv/models /mnt/service -- --cache off
    check "and serves" same /mnt/service
    check "and would at the next start" inside systemctl is-enabled bsfs@mnt-service
    listed() { inside bsfs service list | grep -q "mnt-service.*active"; }
    check "and is listed" listed
    check "and is removed" inside bsfs service remove mnt-service
    check "with its mount" not mounted /mnt/service
    check "and its file" test ! -e "$root/etc/bsfs/mnt-service.conf"
fi
((failures == 0)) || die "$failures failed"
