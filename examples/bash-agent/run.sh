#!/usr/bin/env bash
# The agent on a copy of the notes, under the running station. Usage: run.sh [FOLDER]
# At a terminal it asks you; elsewhere it waits ten minutes for your answer to `calyx inbox`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
notes=${1:-$HOME/notes}
[ -e "$notes" ] || cp -r "$here/notes" "$notes"
wait=()
[ -t 0 ] || wait=(--wait 10m)
exec calyx run --domain notes --path "$notes" "${wait[@]}" --objective "keep the index of the notes" -- "$here/agent.sh" "$notes"
