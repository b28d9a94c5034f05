#!/usr/bin/env bash
# Tests the library for aarch64 (the NEON kernels) on another machine: compiles for it and runs under QEMU.
#
#   scripts/aarch64.sh [ARGUMENT...]
#
# The arguments are those of `cargo test`; without any they are `codec::`. The features and the profile are fixed:
# --no-default-features --features bigsmall --lib --release. Examples:
#
#   scripts/aarch64.sh                      # the codecs
#   scripts/aarch64.sh -- --list            # what there is
#   BSFS_KERNEL=scalar scripts/aarch64.sh   # without NEON where a test lets the machine choose
#
# Wants Debian 12 or newer and cargo; runs as root or with sudo. Adds the architecture arm64 to dpkg and installs a cross
# compiler, a Rust compiler with a standard library for aarch64 (Debian's, about 0.5 GB; cargo and other builds do not use
# it) and QEMU. For use now and then: it says whether results are right, nothing about speed.
# Exit code 0 if everything passed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

[[ $(uname -m) != aarch64 ]] || die "this is such a machine: scripts/test.sh tests it"
target=aarch64-unknown-linux-gnu

have dpkg || die "this script installs packages on Debian only"
if ! dpkg --print-foreign-architectures | grep -qx arm64; then
    say "adding the architecture arm64"
    as_root dpkg --add-architecture arm64 || die "could not add it; as root: dpkg --add-architecture arm64"
fi
need_build
# The program's libraries at run time are those of libc6:arm64. Others (qemu-aarch64 -L /usr/aarch64-linux-gnu) would get
# mixed up with them through the machine's ld.so.cache, and the first thread would hang.
need file:/usr/share/doc/rustc-web=rustc-web "file:/usr/lib/rustlib/$target/lib=libstd-rust-web-dev:arm64" \
    aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu file:/usr/aarch64-linux-gnu/include/stdlib.h=libc6-dev-arm64-cross \
    file:/lib/ld-linux-aarch64.so.1=libc6:arm64 qemu-aarch64=qemu-user

export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
# Another compiler than that of the other builds: it would have them begin anew each time.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}/aarch64

(($#)) || set -- codec::
cd "$ROOT"
run cargo test --target "$target" --no-default-features --features bigsmall --lib --release "$@" || {
    echo "FAIL aarch64"
    exit 1
}
echo "PASS aarch64"
