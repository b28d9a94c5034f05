#!/usr/bin/env bash
# Prints docs/commands.md: the help of every command, as the program prints it.
#
#   scripts/commands.sh > docs/commands.md
#
# BSFS names the program (default: the release build). tests/plain/cli.rs compares the page with what it prints.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

program=$BSFS
cat <<'END'
# Commands

The help of every command, printed by `scripts/commands.sh`.
END
"$program" --help </dev/null | awk '/^Options:/ { exit } /^  [a-z]/ { print $1 }' | while read -r verb; do
    printf '\n## bsfs %s\n\n```text\n' "$verb"
    "$program" "$verb" --help </dev/null | sed 's/[[:space:]]*$//'
    printf '```\n'
done
