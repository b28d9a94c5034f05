#!/usr/bin/env bash
# Builds a bsfs that needs no library of the system: one file, for any Linux of this architecture.
#
#   scripts/static.sh [OUT]
#
# OUT is ./bsfs-static unless given. Takes rustup, and musl-gcc (package musl-tools) for the parts in C. CARGO_FLAGS is given to
# cargo, for example "--no-default-features --features mount". What is lost: names of hosts are looked up by musl, which reads
# /etc/resolv.conf and /etc/hosts and nothing of /etc/nsswitch.conf; and musl's allocator serves what is not mapped.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

out=${1:-bsfs-static}
target=$(uname -m)-unknown-linux-musl
need rustup musl-gcc=musl-tools
rustup target list --installed | grep -qx "$target" || run rustup target add "$target"
read -ra flags <<<"${CARGO_FLAGS:-}"
run cargo build --release --locked --bin bsfs --manifest-path "$ROOT/Cargo.toml" --target "$target" ${flags[@]+"${flags[@]}"}
install -m 755 "${CARGO_TARGET_DIR:-$ROOT/target}/$target/release/bsfs" "$out"
if readelf -l "$out" | grep -q INTERP; then die "$out is not static"; fi
ls -l "$out"
