#!/usr/bin/env bash
# Makes a Debian package of this checkout: the program, manual pages, completions, mount.bsfs and the systemd units.
#
#   scripts/deb.sh [OUT.deb]
#
# Uses cargo-deb, whose settings are in Cargo.toml; it is installed by cargo into ${BSFS_CACHE:-~/.cache/bsfs-scripts} unless it is
# there. BSFS names a ready bsfs program.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

out=${1:-$ROOT/bsfs.deb}
build_bsfs
need dpkg-deb=dpkg
deb=$(command -v cargo-deb || echo "$CACHE/cargo-deb/bin/cargo-deb")
[[ -x $deb ]] || run cargo install --quiet --locked cargo-deb --root "$CACHE/cargo-deb"
# What Cargo.toml names as assets below target/deb-files.
files=$ROOT/target/deb-files
rm -rf -- "$files"
TMPDIR=${TMPDIR:-/tmp} BSFS=$BSFS "$SCRIPTS/install.sh" --prefix /usr --destdir "$files" >/dev/null
run "$deb" --no-build --no-strip --manifest-path "$ROOT/Cargo.toml" --output "$out"
dpkg-deb --info "$out" | sed -n 's/^ \(Package\|Version\|Architecture\|Depends\)/\1/p'
