#!/usr/bin/env bash
# Builds bsfs from this checkout and installs it, with manual pages, completions, mount.bsfs and the systemd units.
#
#   scripts/install.sh [--prefix DIR] [--destdir DIR] [--remove]
#
#   --prefix DIR    where it goes (default /usr/local; for a user alone: ~/.local)
#   --destdir DIR   put before every path, to make a package of it
#   --remove        take away what was installed
#
# mount.bsfs, which mount(8) and /etc/fstab need, goes to /usr/sbin, and units to the directories of systemd, if the prefix is not
# in a home directory. BSFS names a ready bsfs program.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

prefix=/usr/local destdir='' remove=''
while (($#)); do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
        --destdir) destdir=${2:?--destdir needs a directory}; shift ;;
        --remove) remove=1 ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done
[[ $prefix == /* ]] || die "--prefix: expected an absolute path"

# The places of everything, below the prefix, and for the system.
share=$prefix/share
files=("$prefix/bin/bsfs" "$share/bash-completion/completions/bsfs" "$share/zsh/site-functions/_bsfs"
    "$share/fish/vendor_completions.d/bsfs.fish")
system=''
if [[ $prefix != "$HOME"/* ]]; then
    system=1
    units=$prefix/lib/systemd
    [[ $prefix != /usr ]] || units=/lib/systemd
    [[ $prefix != /usr/local ]] || units=/etc/systemd
    files+=(/usr/sbin/mount.bsfs "$units/system/bsfs@.service" "$units/user/bsfs@.service")
else
    units=$HOME/.config/systemd
    files+=("$units/user/bsfs@.service")
fi
if [[ -n $remove ]]; then
    rm -fv -- "${files[@]/#/$destdir}" "$destdir$share"/man/man1/bsfs.1 "$destdir$share"/man/man1/bsfs-*.1
    exit 0
fi

build_bsfs
work_dir work
mkdir "$work/man"
"$BSFS" man "$work/man"
put() { install -D -m "$1" -- "$2" "$destdir$3"; printf '%s\n' "$destdir$3"; }
put 755 "$BSFS" "$prefix/bin/bsfs"
for page in "$work"/man/*.1; do put 644 "$page" "$share/man/man1/${page##*/}"; done
for shell in bash zsh fish; do "$BSFS" completions "$shell" >"$work/$shell"; done
put 644 "$work/bash" "$share/bash-completion/completions/bsfs"
put 644 "$work/zsh" "$share/zsh/site-functions/_bsfs"
put 644 "$work/fish" "$share/fish/vendor_completions.d/bsfs.fish"
put 644 "$SCRIPTS/systemd/bsfs-user@.service" "$units/user/bsfs@.service"
if [[ -n $system ]]; then
    sed "s|^ExecStart=/usr/bin/bsfs|ExecStart=$prefix/bin/bsfs|" "$SCRIPTS/systemd/bsfs@.service" >"$work/unit"
    put 644 "$work/unit" "$units/system/bsfs@.service"
    mkdir -p "$destdir/usr/sbin"
    ln -sf "$prefix/bin/bsfs" "$destdir/usr/sbin/mount.bsfs"
    printf '%s\n' "$destdir/usr/sbin/mount.bsfs"
fi
