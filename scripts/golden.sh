#!/usr/bin/env bash
# Writes the golden containers of this release to tests/golden/, where there are none yet. Run once per release.
set -euo pipefail
cd "$(dirname "$0")/.."
BSFS_WRITE_GOLDEN=1 cargo test --release --test plain golden::
git status --short tests/golden
