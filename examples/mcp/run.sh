#!/usr/bin/env bash
# One piece of work through MCP on a station of its own, from nothing to the ack and back to nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
export CALYX_STATION_DIR=$work/station PYTHONPATH=${PYTHONPATH:-$here/../..}
python=${PYTHON:-python3}
calyx() { "$python" -m cli.main "$@"; }
finish() {
  calyx down >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

mkdir "$work/notes"
calyx up --detach --port 0 --pulse-interval 2s >/dev/null
# The person, once: this agent may write into this folder, and is asked each time (it can't rehearse).
calyx domain new notes --owner noter --path "$work/notes" --no-rehearse --approve >/dev/null
CALYX_AGENT_TOKEN=$(calyx agent invite noter --domain notes 2>/dev/null)
CALYX_URL=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["dashboard"])' "$CALYX_STATION_DIR/run/endpoints.json")
export CALYX_AGENT_TOKEN CALYX_URL

# The agent.
"$python" "$here/client.py" "$work/notes" | tee "$work/said" &
agent=$!

# The person: approves what is asked, as soon as it is asked.
until grep -q '^request_approval' "$work/said" 2>/dev/null; do
  kill -0 "$agent"
  sleep 0.2
done
task=$(sed -n 's/.*`calyx task approve \([^`]*\)`.*/\1/p' "$work/said" | head -1)
env -u CALYX_AGENT_TOKEN "$python" -m cli.main task approve "$task"

wait "$agent"
grep -q '"status": "done"' "$work/said"
cat "$work"/notes/*.txt
