#!/usr/bin/env bash
# Models on a server: what a mount of them fetches, and how long that takes. Printed as a Markdown table, against the targets.
#
#   scripts/remote.sh [link|open|s3|gs|az|tls|all] [--size BYTES] [--rate BYTES] [--delay MS]
#
#   link  one file of BF16 weights behind a link of RATE bytes a second whose answers begin DELAY milliseconds after the request:
#         downloading the plain file and reading it, beside mounting the compressed one and reading that; requests for each GiB;
#         then the second mount, with the server gone, compared byte for byte
#   open  16 shards of 2 GB: requests and bytes until `ls -l` has shown a new mount
#   s3    a bucket of moto's server (packages are installed for it): every byte of a mount compared
#   gs    the same bucket by gs://, which asks in nearly the same words (GOOGLE_BASE_URL, no signatures)
#   az    a container of azurite (of npm)
#   tls   an https server with a certificate of a CA made for it (openssl): trusted by SSL_CERT_FILE, of an unknown CA, of another
#         host, and one that leads from https to http
#   all   all of them (the default)
#
# --size is 1 GiB, --rate 125M (1 Gbit/s), --delay 20 unless given. The link is made by the server itself (scripts/remote.py):
# connections have no slow start. Needs about 6 GB below TMPDIR. Exit code 1 if a target is missed or a byte differs.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

what=all size=$((1 << 30)) rate=125000000 delay=20
while (($#)); do
    case $1 in
        link | open | s3 | gs | az | tls | all) what=$1 ;;
        --size) size=$(numfmt --from=iec -- "${2:?--size needs a number}"); shift ;;
        --rate) rate=$(numfmt --from=si -- "${2:?--rate needs a number}"); shift ;;
        --delay) delay=${2:?--delay needs a number}; shift ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done

need_python
need_fuse
build_bsfs
work=
work_dir work
mkdir "$work/mnt"
MOUNT_CACHE=(--cache auto)
export XDG_CACHE_HOME=$work/cache
missed=0
printf 'what\tvalue\ttarget\tverdict\n' >"$work/targets"

# serve DIR [OPTION...]: starts the server, and puts its address into `url`.
serve() {
    rm -f "$work/port"
    setsid python3 "$SCRIPTS/remote.py" serve "$1" "$work/port" "${@:2}" </dev/null >&2 &
    server=$!
    _servers+=("$server")
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        [[ ! -e $work/port ]] || break
        sleep 0.1
    done
    port=$(<"$work/port")
    url=http://127.0.0.1:$port
}

stop_server() {
    kill -KILL -- "-$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
}

# counts: `requests` and `bytes` since the last call.
counts() {
    read -r requests bytes < <(python3 -c '
import json, sys, urllib.request
c = json.load(urllib.request.urlopen(sys.argv[1] + "/.counts"))
print(c["requests"], c["bytes"])' "$url")
}

# mount_remote SOURCE: mounts with a cache of this run's own.
mount_remote() {
    mount_bsfs "$1" "$work/mnt" --log-file "$work/mount.log" "${@:2}"
}

link() {
    local start plain mounted raw
    mkdir -p "$work/served"
    say "making $size bytes of weights"
    python3 "$SCRIPTS/remote.py" weights "$work/served/model.safetensors" "$size"
    raw=$(stat -c %s "$work/served/model.safetensors")
    mkdir "$work/served/m"
    run "$BSFS" compress "$work/served/model.safetensors" -o "$work/served/m/model.safetensors.bs" >/dev/null
    serve "$work/served" --rate "$rate" --delay "$delay"
    say "downloading the plain file"
    start=$(now)
    run python3 "$SCRIPTS/remote.py" fetch "$url/model.safetensors" "$work/plain"
    run dd if="$work/plain" of=/dev/null bs=1M status=none
    plain=$(since "$start" %.3f)
    rm "$work/plain"
    counts
    say "reading through the mount"
    start=$(now)
    mount_remote "$url/m/"
    run dd if="$work/mnt/model.safetensors" of=/dev/null bs=1M status=none
    mounted=$(since "$start" %.3f)
    counts
    printf '%s\n' "plain $plain s, mounted $mounted s, $requests requests, $bytes bytes for $raw" >&2
    target "cold load, mount / download and read ($mounted / $plain s)" "$(quotient "$mounted" "$plain" %.3f)" '<=' 0.72
    target "requests for each GiB read" "$(awk -v n="$requests" -v b="$raw" 'BEGIN { printf "%.1f", n / (b / 2^30) }')" '<=' 150
    unmount_bsfs "$work/mnt"
    stop_server
    say "mounting again without the server"
    mount_remote "$url/m/"
    cmp "$work/served/model.safetensors" "$work/mnt/model.safetensors" && same=1 || same=0
    target "second mount, server gone: same bytes" "$same" = 1
    unmount_bsfs "$work/mnt"
    rm -rf "$work/served" "$work/cache"
}

open() {
    local shard seconds start
    mkdir -p "$work/shards"
    say "making a shard of 2 GB"
    python3 "$SCRIPTS/remote.py" weights "$work/shard" 2000000000
    run "$BSFS" compress "$work/shard" -o "$work/shards/model-00001-of-00016.safetensors.bs" >/dev/null
    rm "$work/shard"
    for shard in $(seq -w 2 16); do
        ln "$work/shards/model-00001-of-00016.safetensors.bs" "$work/shards/model-000$shard-of-00016.safetensors.bs"
    done
    serve "$work/shards" --rate "$rate" --delay "$delay"
    start=$(now)
    mount_remote "$url/"
    run ls -l "$work/mnt" >"$work/ls"
    seconds=$(since "$start" %.3f)
    [[ $(grep -c 'safetensors$' "$work/ls") == 16 ]] || die "ls -l shows other files"
    counts
    target "bytes fetched at the mount of 16 shards of 2 GB ($seconds s)" "$bytes" '<=' 32000000
    target "requests for each of 16 shards" "$(quotient "$requests" 16 %.2f)" '<=' 3
    unmount_bsfs "$work/mnt"
    stop_server
    rm -rf "$work/shards" "$work/cache"
}

# Files with names that mean something in addresses, plain and packed.
bucket_files() {
    [[ ! -d $work/packed ]] || return 0
    mkdir -p "$work/plain" "$work/packed/sub"
    python3 "$SCRIPTS/make_model.py" "$work/plain" >/dev/null
    printf odd >"$work/plain/a b#c%20[1]~+?é.txt"
    run "$BSFS" compress "$work/plain" -o "$work/packed" >/dev/null
    cp "$work/plain/config.json" "$work/packed/sub/"
}

# same_files NAME SOURCE: mounts it and compares every file.
same_files() {
    local same=1 file
    mount_remote "$2"
    for file in "$work/plain"/*; do
        cmp "$file" "$work/mnt/${file##*/}" || same=0
    done
    cmp "$work/plain/config.json" "$work/mnt/sub/config.json" || same=0
    # what marks a directory is no file
    [[ ! -e $work/mnt/x ]] || same=0
    target "$1" "$same" = 1
    unmount_bsfs "$work/mnt"
}

# moto: starts its server with a bucket of the files, in `server`, and `python` which reaches it.
moto() {
    local port tries
    venv moto python
    bucket_files
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    setsid "${python%/*}/moto_server" -H 127.0.0.1 -p "$port" </dev/null >"$work/moto.log" 2>&1 &
    server=$!
    _servers+=("$server")
    export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
    export AWS_ENDPOINT_URL=http://127.0.0.1:$port
    for ((tries = 0; tries < 300; tries++)); do
        run "$python" "$SCRIPTS/remote.py" upload "$AWS_ENDPOINT_URL" bucket "$work/packed" 2>/dev/null && return
        sleep 0.2
    done
    die "moto's server does not answer: $work/moto.log"
}

gs() {
    local python
    moto
    GOOGLE_BASE_URL=$AWS_ENDPOINT_URL GOOGLE_SKIP_SIGNATURE=true same_files "gs: same bytes" gs://bucket/models/x
    stop_server
}

az() {
    local python port tries
    have npm || die "azurite needs npm"
    venv azure python
    bucket_files
    [[ -x $CACHE/azurite/node_modules/.bin/azurite-blob ]] ||
        { mkdir -p "$CACHE/azurite" && run npm install --no-audit --no-fund --prefix "$CACHE/azurite" azurite >&2; }
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    setsid "$CACHE/azurite/node_modules/.bin/azurite-blob" --silent --inMemoryPersistence --skipApiVersionCheck \
        --blobHost 127.0.0.1 --blobPort "$port" </dev/null >"$work/azurite.log" 2>&1 &
    server=$!
    _servers+=("$server")
    export AZURE_STORAGE_USE_EMULATOR=true AZURITE_BLOB_STORAGE_URL=http://127.0.0.1:$port
    for ((tries = 0; tries < 300; tries++)); do
        run "$python" "$SCRIPTS/remote.py" upload-az "$AZURITE_BLOB_STORAGE_URL" bucket "$work/packed" 2>/dev/null && break
        sleep 0.2
    done
    same_files "az: same bytes" az://bucket/models/x
    stop_server
    same_files "az: second mount, server gone: same bytes" az://bucket/models/x
}

# refused NAME WORD COMMAND...: fails with one line that has WORD in it, after one connection to the server.
refused() {
    local ok=1 count
    secure_counts >/dev/null
    if "${@:3}" >/dev/null 2>"$work/error"; then ok=0; fi
    cat "$work/error" >&2
    [[ $(wc -l <"$work/error") == 1 ]] && grep -q "$2" "$work/error" || ok=0
    count=$(secure_counts)
    # the one that asks for the count is one of them
    ((count <= 2)) || ok=0
    target "tls: $1 ($((count - 1)) connections)" "$ok" = 1
}

secure_counts() {
    python3 -c '
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
print(json.load(urllib.request.urlopen(sys.argv[1] + "/.counts", context=context))["connections"])' "$secure" "$work/ca.pem"
}

tls() {
    local secure plain same=1 file
    have openssl || die "tls needs openssl"
    bucket_files
    run openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/ca.key" -out "$work/ca.pem" -days 2 -subj /CN=bsfs-test 2>/dev/null
    run openssl req -newkey rsa:2048 -nodes -keyout "$work/key.pem" -out "$work/request" -subj /CN=127.0.0.1 2>/dev/null
    printf 'subjectAltName=IP:127.0.0.1\n' >"$work/names"
    run openssl x509 -req -in "$work/request" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -extfile "$work/names" -out "$work/cert.pem" 2>/dev/null
    cat "$work/key.pem" >>"$work/cert.pem"
    serve "$work/packed" --cert "$work/cert.pem"
    secure=https://127.0.0.1:$port
    SSL_CERT_FILE=$work/ca.pem same_files "tls: same bytes, CA by SSL_CERT_FILE" "$secure/"
    refused "an unknown CA is one error" "UnknownIssuer" "$BSFS" mount "$secure/" "$work/mnt" --cache off
    SSL_CERT_FILE=$work/ca.pem refused "another host is one error" "not valid for name" \
        "$BSFS" mount "${secure/127.0.0.1/localhost}/" "$work/mnt" --cache off
    HF_ENDPOINT=$secure HF_HOME=$work/hf refused "an unknown CA is one error of pull" "UnknownIssuer" "$BSFS" pull hf://org/name
    HF_ENDPOINT=$secure HF_HOME=$work/hf refused "and of a mount" "UnknownIssuer" \
        "$BSFS" mount hf://org/name "$work/mnt" --cache off
    stop_server
    # From https to http: nothing is asked there.
    serve "$work/packed"
    plain=$url
    serve "$work/packed" --cert "$work/cert.pem" --redirect "$plain"
    secure=https://127.0.0.1:$port
    SSL_CERT_FILE=$work/ca.pem refused "from https to http is refused" "from https to http" \
        "$BSFS" mount "$secure/config.json" "$work/mnt" --cache off
    HF_TOKEN=secret SSL_CERT_FILE=$work/ca.pem HF_ENDPOINT=$secure HF_HOME=$work/hf refused "and with a token" "another server" \
        "$BSFS" pull hf://org/name
    url=$plain
    counts
    target "tls: requests that came by http" "$requests" = 0
}

s3() {
    local python same=1 file
    moto
    same_files "s3: same bytes" s3://bucket/models/x
    # Replaced behind a mount: the old bytes or an error, never the new ones under the old name.
    MOUNT_CACHE=(--cache off)
    mount_remote s3://bucket/models/x
    MOUNT_CACHE=(--cache auto)
    run "$python" -c '
import boto3, os
boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).put_object(Bucket="bucket", Key="models/x/config.json", Body=b"{}")'
    cat "$work/mnt/config.json" >"$work/read" 2>/dev/null && same=0 || same=1
    target "s3: an object that was replaced is an error" "$same" = 1
    unmount_bsfs "$work/mnt"
    for file in s3://nowhere/x s3://bucket/nothing; do
        if "$BSFS" mount "$file" "$work/mnt" 2>"$work/error"; then same=0; else cat "$work/error" >&2; fi
        [[ $(wc -l <"$work/error") == 1 ]] || same=0
    done
    target "s3: no such bucket, no such prefix: one line" "$same" = 1
    stop_server
    say "mounting again without the server"
    rm -f "$work/error"
    mount_remote s3://bucket/models/x
    for file in "$work/plain"/*; do
        cmp "$file" "$work/mnt/${file##*/}" || same=0
    done
    target "s3: second mount, server gone: same bytes" "$same" = 1
    unmount_bsfs "$work/mnt"
}

case $what in
    all) link; open; s3; gs; az; tls ;;
    *) "$what" ;;
esac
table <"$work/targets"
exit "$missed"
