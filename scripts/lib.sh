# shellcheck shell=bash
# What the scripts share; source it first. It sets `set -euo pipefail` and a trap that undoes what the script began:
# children, mounts, control groups and work directories, on success, on failure and on Ctrl-C alike.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# Packages and files worth keeping between runs. Safe to delete at any time.
CACHE=${BSFS_CACHE:-$HOME/.cache/bsfs-scripts}
# BSFS names a ready program; without it the scripts build one from this checkout, with cargo's profile BSFS_PROFILE.
BSFS_GIVEN=${BSFS:-}
PROFILE=${BSFS_PROFILE:-release}
BSFS=${BSFS_GIVEN:-${CARGO_TARGET_DIR:-$ROOT/target}/$PROFILE/bsfs}
# The rust installer puts cargo where a shell that is no login shell does not look.
[[ -d $HOME/.cargo/bin && :$PATH: != *:$HOME/.cargo/bin:* ]] && PATH=$PATH:$HOME/.cargo/bin
# Mounts keep nothing for later ones, and leave the cache of the user alone; a script that is about the cache says so.
MOUNT_CACHE=(--cache off)
# fusermount3 and modprobe live beyond the PATH of some users.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '== %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

# help_wanted "$@": prints the comment at the top of the running script and ends it if -h or --help is among the words.
help_wanted() {
    local word
    for word in "$@"; do
        if [[ $word == -h || $word == --help ]]; then
            awk 'NR == 1 { next } /^#/ { sub(/^# ?/, ""); print; next } { exit }' "$0"
            exit 0
        fi
    done
}

# ---- undoing ----

_mounts=() _dirs=() _child='' _servers=() _groups=() _io_added=

_cleanup() {
    local status=$? at
    trap - EXIT
    trap '' INT TERM HUP
    if [[ -n $_child ]]; then
        # `run` gives each child a process group of its own, so this reaches what the child started too.
        kill -TERM -- "-$_child" 2>/dev/null || true
        for ((at = 0; at < 50; at++)); do
            kill -0 -- "-$_child" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$_child" 2>/dev/null || true
    fi
    for at in ${_mounts[@]+"${_mounts[@]}"}; do
        unmount_lazily "$at"
    done
    for at in ${_servers[@]+"${_servers[@]}"}; do
        kill -KILL -- "-$at" 2>/dev/null || true
    done
    for at in ${_groups[@]+"${_groups[@]}"}; do
        remove_group "$at" || printf '%s: the control group %s is still there\n' "${0##*/}" "$at" >&2
    done
    for at in ${_dirs[@]+"${_dirs[@]}"}; do
        # never across a mount that could not be taken away
        rm -rf --one-file-system -- "$at" || true
    done
    exit "$status"
}
trap _cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# run COMMAND...: runs it so that a signal to the script ends it at once. (A shell waits for a foreground command before
# it runs a trap.) Standard input is empty. With GROUP set it runs in that control group, and so does what it leaves behind.
GROUP=
run() {
    local status=0
    if [[ -n $GROUP ]]; then
        { echo "$BASHPID" >"$GROUP/cgroup.procs" && exec setsid "$@"; } </dev/null &
    else
        setsid "$@" </dev/null &
    fi
    _child=$!
    wait "$_child" || status=$?
    _child=
    return "$status"
}

# work_dir VARIABLE: a new directory under TMPDIR that is removed at the end, put into VARIABLE.
work_dir() {
    local made
    made=$(mktemp -d "${TMPDIR:-/tmp}/bsfs-${0##*/}.XXXXXX")
    _dirs+=("$made")
    printf -v "$1" %s "$made"
}

# keep_dir DIR: leaves a directory of work_dir in place after all.
keep_dir() {
    local at rest=()
    for at in ${_dirs[@]+"${_dirs[@]}"}; do
        [[ $at == "$1" ]] || rest+=("$at")
    done
    _dirs=(${rest[@]+"${rest[@]}"})
}

# ---- packages ----

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo; then
        # without a terminal nobody can type a password: then fail at once
        if [[ -t 0 ]]; then sudo "$@"; else sudo -n "$@"; fi
    else
        return 127
    fi
}

_missing() {
    local what=${1%%=*}
    case $what in
        header:*) ! have cc || ! printf '#include <%s>\n' "${what#*:}" | cc -E - >/dev/null 2>&1 ;;
        python:*) ! have python3 || ! python3 -c "import ${what#*:}" >/dev/null 2>&1 ;;
        file:*) [[ ! -e ${what#*:} ]] ;;
        *) ! have "$what" ;;
    esac
}

_apt_updated=

# need WHAT=PACKAGE...: installs the Debian package of each thing that is missing, and touches nothing when all are there.
# WHAT is a command, header:NAME (a C header), python:MODULE (of the system's Python) or file:PATH.
need() {
    local item packages=() left=()
    for item in "$@"; do
        if _missing "$item"; then packages+=("${item#*=}"); fi
    done
    ((${#packages[@]})) || return 0
    have apt-get || die "please install: ${packages[*]} (this script installs packages on Debian and Ubuntu only)"
    say "installing ${packages[*]}"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
    {
        { [[ -n $_apt_updated ]] || as_root "${apt[@]}" update; } &&
            as_root "${apt[@]}" install --no-install-recommends "${packages[@]}"
    } >&2 || die "could not install; as root: apt-get install ${packages[*]}"
    _apt_updated=1
    for item in "$@"; do
        if _missing "$item"; then left+=("${item%%=*}"); fi
    done
    ((${#left[@]} == 0)) || die "still missing after the installation: ${left[*]}"
}

# What a build needs beside the Rust toolchain: a C compiler for the C sources among the dependencies.
need_build() {
    need cc=gcc header:stdlib.h=libc6-dev file:/etc/ssl/certs/ca-certificates.crt=ca-certificates
    have cargo || die "no cargo: install a Rust toolchain (1.89 or newer) first"
}

# The toolchain that sanitizers and fuzzing want; the crate itself builds on stable.
need_nightly() {
    cargo +nightly --version >/dev/null 2>&1 && return 0
    have rustup || die "no nightly toolchain, and no rustup to install one"
    run rustup toolchain install nightly --profile minimal >&2
}

need_python() {
    need python3=python3 python:venv=python3-venv python:ensurepip=python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
}

# fusermount3, and a /dev/fuse that opens.
need_fuse() {
    need fusermount3=fuse3
    if [[ ! -e /dev/fuse ]]; then
        as_root modprobe fuse 2>/dev/null || true
    fi
    [[ -e /dev/fuse ]] || die "no /dev/fuse: load the kernel module (modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN"
    { : <>/dev/fuse; } 2>/dev/null || die "/dev/fuse cannot be opened: $(ls -l /dev/fuse)"
}

# build_bsfs: the program of this checkout is up to date afterwards; with BSFS set, that program is taken as it is.
build_bsfs() {
    if [[ -n $BSFS_GIVEN ]]; then
        [[ -x $BSFS ]] || die "BSFS=$BSFS is no program"
        return 0
    fi
    need_build
    say "building bsfs ($PROFILE)"
    run cargo build --profile "$PROFILE" --quiet --manifest-path "$ROOT/Cargo.toml" --bin bsfs
    [[ -x $BSFS ]] || die "the build left no $BSFS"
}

# _venv_key NAME: the directory of a virtual environment. Another content of its files, or another Python, is another one.
_venv_key() {
    local key
    key=$({
        python3 -c 'import sys; print(sys.version, sys.executable)'
        cat "$SCRIPTS/readers/requirements-$1.txt"
        cat "$SCRIPTS/readers/overrides-$1.txt" 2>/dev/null || true
    } | sha256sum)
    printf '%s/venv-%s-%s' "$CACHE" "$1" "${key:0:12}"
}

venv_ready() { [[ -e $(_venv_key "$1")/.ready ]]; }

# venv NAME VARIABLE [uv]: puts the Python of a virtual environment with readers/requirements-NAME.txt into VARIABLE, made
# now unless it is there. With `uv` the installer is uv: it keeps one copy of a package for several environments (torch is
# 5 GB), and it obeys readers/overrides-NAME.txt.
venv() {
    local name=$1 variable=$2 tool=${3:-pip} at lock files
    need_python
    at=$(_venv_key "$name")
    mkdir -p "$CACHE"
    exec {lock}>"$CACHE/lock-$name"
    flock "$lock"
    if [[ ! -e $at/.ready ]]; then
        say "installing the Python packages of readers/requirements-$name.txt"
        # one without its stamp is the rest of an installation that was broken off
        rm -rf -- "$at"
        run python3 -m venv "$at" >&2
        files=(-r "$SCRIPTS/readers/requirements-$name.txt")
        if [[ $tool == uv ]]; then
            local uv
            venv uv uv
            [[ -e $SCRIPTS/readers/overrides-$name.txt ]] && files+=(--override "$SCRIPTS/readers/overrides-$name.txt")
            run env UV_CACHE_DIR="$CACHE/uv" "$uv" -m uv pip install --quiet --python "$at/bin/python" "${files[@]}" >&2
        else
            run "$at/bin/python" -m pip install --quiet --disable-pip-version-check "${files[@]}" >&2
        fi
        touch "$at/.ready"
    fi
    exec {lock}>&-
    printf -v "$variable" %s "$at/bin/python"
}

# ---- mounts ----

# mount_type DIR: the type in the mount table of what is mounted exactly there, or nothing.
mount_type() {
    local at
    at=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g')
    at=$at awk '$2 == ENVIRON["at"] { kind = $3 } END { print kind }' /proc/self/mounts
}

# mount_bsfs SOURCE MOUNTPOINT [OPTION...]: mounts, and unmounts at the end of the script at the latest.
mount_bsfs() {
    local kind at
    mkdir -p "$2"
    at=$(cd "$2" && pwd -P)
    _mounts+=("$at")
    run "$BSFS" mount "$1" "$at" "${MOUNT_CACHE[@]}" "${@:3}" >&2 || die "bsfs mount $1 failed"
    kind=$(mount_type "$at")
    [[ $kind == fuse* ]] || die "bsfs mount returned, but the mount table has no FUSE file system at $at"
}

# warm_up POINT FILE: waits until the mount there has put everything into its cache. FILE is overwritten.
warm_up() {
    local tries
    for ((tries = 0; tries < 3000; tries++)); do
        "$BSFS" status "$1" --json >"$2"
        python3 - "$2" <<'PY' && return 0
import json, sys
(record,) = json.load(open(sys.argv[1]))
warming = record["status"]["warming"]
if warming["finished"] and warming["files"] != warming["files_kept"]:
    print("== not all of it is in the cache:", warming, file=sys.stderr)
sys.exit(not warming["finished"])
PY
        sleep 0.1
    done
    die "the cache of $1 was not filled in time"
}

unmount_bsfs() {
    local gone
    gone=$(cd "$1" && pwd -P)
    run "$BSFS" unmount "$gone" >&2 || die "bsfs unmount $1 failed"
    [[ -z $(mount_type "$gone") ]] || die "bsfs unmount returned, but $1 is still mounted"
    _forget_mount "$gone"
}

_forget_mount() {
    local at rest=()
    for at in "${_mounts[@]}"; do
        [[ $at == "$1" ]] || rest+=("$at")
    done
    _mounts=(${rest[@]+"${rest[@]}"})
}

# serve_mount VARIABLE MOUNTPOINT COMMAND...: starts a FUSE server that stays in the foreground, waits for its mount and puts
# its process id into VARIABLE. It ends with the script at the latest.
serve_mount() {
    local at server tries
    mkdir -p "$2"
    at=$(cd "$2" && pwd -P)
    _mounts+=("$at")
    setsid "${@:3}" </dev/null >&2 &
    server=$!
    _servers+=("$server")
    for ((tries = 0; tries < 300; tries++)); do
        [[ -z $(mount_type "$at") ]] || break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    [[ -n $(mount_type "$at") ]] || die "$3 did not mount $2"
    printf -v "$1" %s "$server"
}

# end_served PID MOUNTPOINT: unmounts, and waits for the server to leave.
end_served() {
    local at rest=() gone
    gone=$(cd "$2" && pwd -P)
    fusermount3 -u -- "$gone" >&2 || die "$2 could not be unmounted"
    wait "$1" || true
    _forget_mount "$gone"
    for at in "${_servers[@]}"; do
        [[ $at == "$1" ]] || rest+=("$at")
    done
    _servers=(${rest[@]+"${rest[@]}"})
}

# The way out after a failure: works with a dead daemon, and with readers that still hold the mount.
unmount_lazily() {
    [[ -n $(mount_type "$1") ]] || return 0
    fusermount3 -u -z -- "$1" 2>/dev/null || as_root umount -l -- "$1" 2>/dev/null ||
        printf '%s: %s is still mounted; unmount it with: fusermount3 -u -z %s\n' "${0##*/}" "$1" "$1" >&2
}

# ---- slow disks ----

# disk_of DIR: MAJOR:MINOR of the whole disk that holds DIR; limits are not for partitions.
disk_of() {
    local at source
    read -r at source < <(findmnt -nvo MAJ:MIN,SOURCE -T "$1") || true
    # a file system on several disks shows a number of its own
    if [[ ! -e /sys/dev/block/$at && -b ${source:-} ]]; then at=$(lsblk -dnro MAJ:MIN "$source"); fi
    [[ -n $at && -e /sys/dev/block/$at ]] || return 1
    if [[ -e /sys/dev/block/$at/partition ]]; then at=$(<"/sys/dev/block/$at/../dev"); fi
    printf %s "$at"
}

# disk_group VARIABLE DIR RATE: a new control group, put into VARIABLE, whose processes together get RATE bytes per second from
# the disk of DIR; removed at the end. Returns 1, with the reason in `why`, where that cannot be had.
disk_group() {
    local disk root parent own made
    ((EUID == 0)) || { why="only root can hold back a disk"; return 1; }
    disk=$(disk_of "$2") || { why="$2 is on no disk of its own"; return 1; }
    root=$(awk '$3 == "cgroup" && "," $4 "," ~ /,blkio,/ { print $2; exit }' /proc/self/mounts)
    if [[ -n $root ]]; then
        # in a container the path may be one of the host, not seen from here
        own=$(awk -F: '"," $2 "," ~ /,blkio,/ { print $3 }' /proc/self/cgroup)
        parent=$root${own%/}
        [[ -d $parent ]] || parent=$root
    else
        # a group with processes may not have limited ones below it, so the root's
        parent=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)
        grep -qw io "$parent/cgroup.controllers" 2>/dev/null || { why="no control groups that limit disks"; return 1; }
        if ! grep -qw io "$parent/cgroup.subtree_control"; then
            { echo +io >"$parent/cgroup.subtree_control"; } 2>/dev/null || { why="$parent does not hand on limits of disks"; return 1; }
            _io_added=$parent
        fi
    fi
    made=$parent/bsfs-${0##*/}.$$.${#_groups[@]}
    mkdir "$made" 2>/dev/null || { why="$made cannot be made"; return 1; }
    _groups+=("$made")
    if [[ -n $root ]]; then
        { echo "$disk $3" >"$made/blkio.throttle.read_bps_device"; } 2>/dev/null
    else
        { echo "$disk rbps=$3" >"$made/io.max"; } 2>/dev/null
    fi || { why="the disk $disk takes no limit"; return 1; }
    printf -v "$1" %s "$made"
}

# remove_group GROUP: the script leaves it; what still runs in it goes to the group above.
remove_group() {
    local pid at rest=()
    leave_group
    for at in ${_groups[@]+"${_groups[@]}"}; do
        [[ $at == "$1" ]] || rest+=("$at")
    done
    _groups=(${rest[@]+"${rest[@]}"})
    if [[ -d $1 ]]; then
        while read -r pid; do
            # it may be gone by now
            { echo "$pid" >"${1%/*}/cgroup.procs"; } 2>/dev/null || true
        done <"$1/cgroup.procs"
        rmdir "$1" || return
    fi
    if [[ -n $_io_added && ${#_groups[@]} == 0 ]]; then
        { echo -io >"$_io_added/cgroup.subtree_control"; } 2>/dev/null || true
        _io_added=
    fi
}

# ---- memory groups ----

# Where the script itself is, and where groups are made.
_group_home='' _group_top=''

# memory_group VARIABLE BYTES: makes a control group with a limit of memory, removed at the end, and puts its directory into
# VARIABLE. Status 1 if this machine has none to give.
memory_group() {
    local made limit=memory.max v1=/sys/fs/cgroup/memory v2=/sys/fs/cgroup
    if [[ -e $v1/memory.limit_in_bytes ]]; then
        limit=memory.limit_in_bytes
        _group_home=$v1$(awk -F : '$2 ~ /(^|,)memory(,|$)/ { print $3; exit }' /proc/self/cgroup)
        # a container may see its own group as the root
        [[ -e $_group_home/cgroup.procs ]] || _group_home=$v1
        _group_top=$_group_home
    elif grep -qw memory "$v2/cgroup.controllers" 2>/dev/null; then
        _group_home=$v2$(awk -F : '$1 == 0 { print $3; exit }' /proc/self/cgroup)
        [[ -e $_group_home/cgroup.procs ]] || _group_home=$v2
        # a group with processes of its own cannot hand memory on to groups below it, the root can
        _group_top=$v2
        grep -qw memory "$v2/cgroup.subtree_control" || { echo +memory >"$v2/cgroup.subtree_control"; } 2>/dev/null || return 1
    else
        return 1
    fi
    made=$_group_top/bsfs-${0##*/}.$$
    mkdir "$made" 2>/dev/null || return 1
    _groups+=("$made")
    { echo "$2" >"$made/$limit"; } 2>/dev/null || return 1
    # what is swapped out counts too; with v1 some kernels count no shortage where both limits are set
    if [[ -e $made/memory.swap.max ]]; then echo 0 >"$made/memory.swap.max"; fi
    if [[ -e $made/memory.memsw.limit_in_bytes && $(wc -l </proc/swaps) -gt 1 ]]; then
        echo "$2" >"$made/memory.memsw.limit_in_bytes"
    fi
    printf -v "$1" %s "$made"
}

# enter_group DIR: the script and what it starts from now on are in the group. What runs already stays where it is.
enter_group() { echo $$ >"$1/cgroup.procs"; }
leave_group() { [[ -z $_group_home ]] || echo $$ >"$_group_home/cgroup.procs"; }

# group_counts DIR: how often memory was short, how many processes were killed for it, and the most that was used.
group_counts() {
    if [[ -e $1/memory.failcnt ]]; then
        printf '%s %s %s\n' "$(cat "$1/memory.failcnt")" \
            "$(awk '$1 == "oom_kill" { n = $2 } END { print n + 0 }' "$1/memory.oom_control")" "$(cat "$1/memory.max_usage_in_bytes")"
    else
        printf '%s %s %s\n' "$(awk '$1 == "max" { print $2 }' "$1/memory.events")" \
            "$(awk '$1 == "oom_kill" { print $2 }' "$1/memory.events")" "$(cat "$1/memory.peak" 2>/dev/null || echo 0)"
    fi
}

# ---- numbers and tables ----

now() { date +%s.%N; }
# since START [FORMAT]: seconds since START, a result of `now`.
since() { awk -v a="$1" -v b="$(now)" -v form="${2:-%.2f}" 'BEGIN { printf form, b - a }'; }
megabytes() { awk -v n="$1" 'BEGIN { printf "%.1f", n / 1e6 }'; }
quotient() { awk -v a="$1" -v b="$2" -v form="${3:-%.3f}" 'BEGIN { if (b > 0) printf form, a / b; else printf "-" }'; }

# safetensors_bytes DIR [SUFFIX]: the bytes of all weight files in a tree; links count as what they point to.
safetensors_bytes() {
    find -L "$1" -type f -name "*.safetensors${2:-}" -printf '%s\n' | awk '{ n += $1 } END { printf "%d", n }'
}

# target WHAT VALUE (<=|>=|=) BAR: a row of $work/targets, and missed=1 if the value misses the bar; '-' was not measured.
target() {
    local verdict=-
    if [[ $2 != - ]]; then
        verdict=$(awk -v v="$2" -v o="$3" -v b="$4" \
            'BEGIN { print (o == "<=" ? v <= b : o == ">=" ? v >= b : v == b) ? "met" : "MISSED" }')
        # shellcheck disable=SC2034 # the scripts end with it
        [[ $verdict == met ]] || missed=1
    fi
    # shellcheck disable=SC2154 # work is the script's
    printf '%s\t%s\t%s %s\t%s\n' "$1" "$2" "$3" "$4" "$verdict" >>"$work/targets"
}

# table: tab-separated lines from standard input, the first of them the titles, as a Markdown table. Columns of numbers are
# set to the right.
table() {
    awk -F '\t' '
        { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > w[i]) w[i] = length($i)
              if (NR > 1 && $i !~ /^[<>=]*[ ]?[-+]?[0-9.]*( ?[%x]| s| MB| GB\/s)?$/) text[i] = 1 }
          if (NF > n) n = NF }
        END { for (r = 1; r <= NR; r++) {
                  line = "|"
                  for (i = 1; i <= n; i++) line = line sprintf(text[i] ? " %-" w[i] "s |" : " %" w[i] "s |", cell[r, i])
                  print line
                  if (r == 1) { line = "|"
                      for (i = 1; i <= n; i++) { bar = sprintf("%" w[i] "s", ""); gsub(/ /, "-", bar)
                          line = line (text[i] ? " " bar " |" : " " substr(bar, 2) ": |") }
                      print line } } }'
}
