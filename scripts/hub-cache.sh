#!/usr/bin/env bash
# A cache of the Hugging Face Hub, compressed in place, mounted over itself, and used as ever.
#
#   scripts/hub-cache.sh [--keep]
#
# A small model is served by a local server, downloaded by huggingface_hub into a cache of its own, and loaded by transformers
# with from_pretrained("org/name"), offline. Then the cache is compressed in place and mounted over itself; the same program must
# load the same model by the same name, with the same logits. The cache is unmounted and decompressed in place, and every file and
# link must be what it was. Needs /dev/fuse and 5 GB of Python packages, unless READERS_PYTHON names a Python with torch and
# transformers; BSFS names a ready bsfs program. Exit code 0 if all was equal.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

python=${READERS_PYTHON:-}
need_python
[[ -n $python ]] || venv torch python uv
need_fuse
build_bsfs
work_dir work
[[ ${1:-} != --keep ]] || keep_dir "$work"

say "a model, served and downloaded"
run python3 "$SCRIPTS/make_model.py" "$work/model"
setsid "$python" "$SCRIPTS/readers/hub_server.py" "$work/model" org/name >"$work/address" &
_servers+=("$!")
for ((i = 0; i < 100; i++)); do [[ -s $work/address ]] && break; sleep 0.1; done
export HF_HUB_CACHE=$work/hub HF_HUB_DISABLE_TELEMETRY=1
HF_ENDPOINT=$(<"$work/address") run "$python" -c 'import huggingface_hub as h; print(h.snapshot_download("org/name"))'
export HF_HUB_OFFLINE=1
cd "$work"
# What a cache holds: each file's digest, each link's text.
listing() { (cd "$1" && find . -type f -exec sha256sum {} + -o -type l -printf '%p -> %l\n' | sort); }
listing hub >before

load() { run "$python" "$SCRIPTS/readers/hub_load.py" org/name; }
plain=$(load)
say "compressed in place"
run "$BSFS" compress hub --replace --yes
if load >/dev/null 2>&1; then die "it loads what is not there"; fi
say "mounted over itself"
mount_bsfs hub hub
mounted=$(load)
[[ $mounted == "$plain" ]] || die "other logits: $plain, mounted $mounted"
listing hub >over
cmp before over || die "the mounted cache is another"
run "$BSFS" unmount hub
say "back again"
run "$BSFS" decompress hub --replace --yes
listing hub >after
cmp before after || die "something is not what it was"
[[ $(load) == "$plain" ]] || die "other logits"
say "equal: $plain"
