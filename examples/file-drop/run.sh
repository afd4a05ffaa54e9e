#!/usr/bin/env bash
# Proposes a task by dropping a file and waits for its answer; bash and coreutils, nothing else.
# Usage: run.sh [STATION]
set -euo pipefail
svf=${1:-${CALYX_STATION_DIR:-station}}/svf
name=drop-$(date +%s)-$$

# Whole or not at all: written beside the inbox, then moved in.
printf '%s' '{"svf_proposal": "1.0", "domain": "diagnostics", "objective": "check the station, please"}' \
  >"$svf/tmp/$name.proposal"
mv "$svf/tmp/$name.proposal" "$svf/inbox/$name.json"

until answer=$(cat "$svf/outbox/$name.json" 2>/dev/null); do sleep 0.2; done
echo "$answer"
[[ $answer == *'"task_id":'* && $answer != *'"state":"rejected"'* ]] || exit 1 # refused, with the reason
task=${answer##*\"task_id\":\"}
task=${task%%\"*}

ack=$svf/acks/$(printf %s "$task" | sha256sum | cut -c1-2)/$task.json
until cat "$ack" 2>/dev/null; do sleep 0.2; done
