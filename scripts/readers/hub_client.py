"""The Python package huggingface_hub as a second client of a hub and of its cache; see scripts/hub.sh.

    hub_client.py get REPO [PATTERN...]      downloads a snapshot and prints its directory
    hub_client.py offline REPO               the same, from the cache alone, with no request
    hub_client.py put DIR REPO               makes a repository of a directory
    hub_client.py scan                       what the package says of the cache; fails if it finds fault with it
    hub_client.py same A B                   fails unless both directories have the same files with the same SHA-256
"""

import hashlib
import os
import sys


def digests(root):
    found = {}
    for directory, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def same(a, b):
    a, b = digests(a), digests(b)
    # The hub makes this one for a new repository.
    for side in (a, b):
        side.pop(".gitattributes", None)
    if a != b or not a:
        sys.exit(f"different: {sorted(set(a.items()) ^ set(b.items()))[:4]}")
    print(f"{len(a)} files with equal SHA-256")


def main(verb, *words):
    if verb == "same":
        return same(*words)
    import huggingface_hub as hub

    if verb == "get":
        print(hub.snapshot_download(words[0], allow_patterns=list(words[1:]) or None))
    elif verb == "offline":
        print(hub.snapshot_download(words[0], local_files_only=True))
    elif verb == "put":
        api = hub.HfApi()
        api.create_repo(words[1], exist_ok=True)
        api.upload_folder(repo_id=words[1], folder_path=words[0])
    elif verb == "scan":
        info = hub.scan_cache_dir()
        if info.warnings:
            sys.exit(f"the package finds fault with the cache: {info.warnings}")
        for repo in sorted(info.repos, key=lambda repo: repo.repo_id):
            print(repo.repo_id, repo.nb_files, repo.size_on_disk)
    else:
        sys.exit(__doc__)


main(*sys.argv[1:])
