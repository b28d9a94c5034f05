#!/usr/bin/env bash
# bsfs and the Python package huggingface_hub on one cache and one hub: what one fetched or sent, the other must find.
#
#   scripts/hub.sh [--keep]
#
#   --keep   leave the files
#
# The hub is the one of the tests (tests/common/hub), on this machine. Targets:
#   pulled      bsfs pull; the package finds the snapshot without a request
#   fetched     the package downloads; bsfs pull makes no request for a file
#   halves      the package downloads some files, bsfs the others; both find all
#   together    both at once into one empty cache, while connections are lost
#   pushed      bsfs push; the package downloads the same bytes. The package uploads; bsfs pulls the same bytes
#   packed      a model on the hub: bsfs compress hf://, push, downloaded by the package, mounted: the SHA-256s of the original
#
# Packages are kept in ${BSFS_CACHE:-~/.cache/bsfs-scripts}; BSFS names a ready bsfs program. The last line for each target
# is `PASS name` or `FAIL name: why`. Exit code 0 if all passed, 1 if one failed, 2 if they could not be run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

keep=''
while (($#)); do
    case $1 in
        --keep) keep=1 ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done
need curl=curl
need_build
need_fuse
python=
venv light python
build_bsfs

begin=$(now)
work=
work_dir work
[[ -z $keep ]] || { keep_dir "$work"; say "files stay in $work"; }

say "making the models"
mkdir -p "$work/served/org"
PYTHONDONTWRITEBYTECODE=1 python3 - "$work/served/org/small" <<'PY'
import os, random, sys
root = sys.argv[1]
chance = random.Random(1)
for path, length in [("config.json", 700), ("sub/vocab file.txt", 90_000), ("model-00001-of-00002.safetensors", 9_000_001),
                     ("model-00002-of-00002.safetensors", 4_000_000), ("empty.txt", 0), ("sub/ü.json", 12)]:
    os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
    with open(os.path.join(root, path), "wb") as file:
        file.write(chance.randbytes(length))
PY
PYTHONDONTWRITEBYTECODE=1 "$python" - "$work/served/org/model/model.safetensors" <<'PY'
import json, os, random, struct, sys
os.makedirs(os.path.dirname(sys.argv[1]))
chance, count = random.Random(2), 2_000_000
header = json.dumps({"w": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header)
    file.write(b"".join(struct.pack("<f", chance.gauss(0, 0.02))[2:] for _ in range(count)))
PY
echo '{"architectures": ["none"]}' >"$work/served/org/model/config.json"

say "starting the hub"
export HF_TOKEN=hf_token_of_the_script
cd "$ROOT"
env BSFS_HUB_DIR="$work/served" BSFS_HUB_TOKEN="$HF_TOKEN" BSFS_HUB_MULTIPART=3000000 BSFS_HUB_PORT="${BSFS_HUB_PORT:-18642}" \
    setsid cargo test --quiet --test plain -- --ignored --exact hub_server::serve --nocapture \
    </dev/null >"$work/hub.log" 2>&1 &
hub=$!
_servers+=("$hub")
for ((tries = 0; tries < 9000; tries++)); do
    grep -q '^hub ready' "$work/hub.log" && break
    kill -0 "$hub" 2>/dev/null || break
    sleep 0.1
done
HF_ENDPOINT=$(awk '/^hub ready/ { print $4 }' "$work/hub.log")
[[ -n $HF_ENDPOINT ]] || { cat "$work/hub.log" >&2; die "the hub did not start"; }
export HF_ENDPOINT HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HUB_DISABLE_XET=1 PYTHONDONTWRITEBYTECODE=1

# step COMMAND...: runs it quietly, its standard output into $work/out; on failure `why` is the last line it wrote.
why=
step() {
    run "$@" >"$work/out" 2>"$work/step.log" && return 0
    tail -n 5 "$work/step.log" >&2
    why="$(grep -v '^[[:space:]]*$' "$work/step.log" | tail -n 1 | cut -c1-200) ($(printf '%s ' "${@:1:4}"))"
    return 1
}
package() { step "$python" "$SCRIPTS/readers/hub_client.py" "$@"; }
offline() { step env HF_HUB_OFFLINE=1 "$@"; }
requests() { curl -sS "$HF_ENDPOINT/_requests"; }
# fresh: another, empty cache.
fresh() {
    export HF_HOME="$work/home-$1"
    rm -rf -- "$HF_HOME"
    requests >/dev/null
}
# the snapshot of the last step, compared with a directory
same_as() {
    local snapshot
    snapshot=$(tail -n 1 "$work/out")
    package same "$snapshot" "$1"
}
unused() {
    local log
    log=$(requests)
    if grep -qE "$1" <<<"$log"; then
        why="requests that were not needed: $(grep -E "$1" <<<"$log" | head -n 2 | tr '\n' ' ')"
        return 1
    fi
}
small=$work/served/org/small

pulled() {
    fresh pulled
    step "$BSFS" pull hf://org/small && same_as "$small" && requests >/dev/null &&
        package offline org/small && same_as "$small" && package scan &&
        package get org/small && same_as "$small" && unused 'resolve|^cdn'
}

fetched() {
    fresh fetched
    package get org/small && requests >/dev/null &&
        step "$BSFS" pull hf://org/small && same_as "$small" && unused 'resolve|^cdn' &&
        offline "$BSFS" pull hf://org/small && same_as "$small" && unused .
}

halves() {
    fresh halves
    package get org/small '*.json' '*00001*' && requests >/dev/null &&
        step "$BSFS" pull hf://org/small && same_as "$small" && unused '00001|config.json' &&
        package offline org/small && same_as "$small" && package scan
}

together() {
    local one two status=0
    fresh together
    printf '%s\n' 'cdn GET /lfs/ 2 close 1500000' 'cdn GET /lfs/ 1 cut 2000000' | curl -sS --data-binary @- "$HF_ENDPOINT/_faults" >/dev/null
    setsid "$BSFS" pull hf://org/small </dev/null >"$work/one" 2>&1 &
    one=$!
    setsid "$python" "$SCRIPTS/readers/hub_client.py" get org/small </dev/null >"$work/two" 2>&1 &
    two=$!
    wait "$one" || status=1
    wait "$two" || status=1
    if ((status)); then
        why="$(tail -n 1 "$work/one") / $(tail -n 1 "$work/two")"
        return 1
    fi
    tail -n 1 "$work/one" >"$work/out" && same_as "$small" && package scan || return 1
    if [[ -n $(find "$HF_HOME/hub" -name '*incomplete*') ]]; then
        why="an incomplete file is left"
        return 1
    fi
}

pushed() {
    fresh pushed
    step "$BSFS" push "$small" org/by-bsfs --create --private && package get org/by-bsfs && same_as "$small" || return 1
    # again: nothing is sent
    requests >/dev/null
    step "$BSFS" push "$small" org/by-bsfs && unused 'PUT|/commit/' || return 1
    package put "$small" org/by-package && step "$BSFS" pull hf://org/by-package && same_as "$small" && requests >/dev/null &&
        # what the package sent has the hashes that bsfs finds
        step "$BSFS" push "$small" org/by-package && unused 'PUT|/commit/'
}

packed() {
    local status=0
    fresh packed
    rm -rf -- "$work/packed"
    step "$BSFS" compress hf://org/model -o "$work/packed" && step "$BSFS" push "$work/packed" org/packed --create &&
        package get org/packed && same_as "$work/packed" || return 1
    step "$BSFS" pull hf://org/packed || return 1
    mount_bsfs "$(tail -n 1 "$work/out")" "$work/mnt"
    package same "$work/mnt" "$work/served/org/model" || status=1
    unmount_bsfs "$work/mnt"
    return "$status"
}

passed=0 failed=0 results=()
for target in pulled fetched halves together pushed packed; do
    start=$(now) why=
    if "$target"; then
        passed=$((passed + 1)) results+=("PASS $target")
    else
        failed=$((failed + 1)) results+=("FAIL $target: $why")
    fi
    say "$target took $(since "$start") s"
done
kill -KILL -- "-$hub"
wait "$hub" 2>/dev/null || true
_servers=()
if grep -rqF "$HF_TOKEN" "$work" --include='*' --exclude-dir=served; then
    failed=$((failed + 1)) results+=("FAIL token: it is in a file: $(grep -rlF "$HF_TOKEN" "$work" | head -n 1)")
else
    passed=$((passed + 1)) results+=("PASS token")
fi
printf '%s\n' "${results[@]}"
say "all of it took $(since "$begin") s"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
