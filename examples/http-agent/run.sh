#!/bin/sh
# An agent in curl: asks for a task, waits for a person's yes, claims it, does it, answers.
# Usage: run.sh FILE TEXT      FILE lies in a folder of the domain "pages"
set -eu
: "${CALYX_AGENT_TOKEN:?set it to what 'calyx agent invite' printed}"
url=${CALYX_URL:-http://127.0.0.1:4040}/api/agent/v1
file=$1 text=$2 session=curl-$$

call() { # call NAME BODY: the token goes through standard input, where `ps` does not show it
  curl --silent --show-error --fail-with-body --max-time 45 --data "$2" --config - "$url/$1" <<END
header = "Authorization: Bearer $CALYX_AGENT_TOKEN"
END
}
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; } # enough for the flat texts read here

# 1. Ask. The same key gives the same task, so a script that was cut off goes on where it was.
key=$(printf '%s %s' "$file" "$text" | cksum | tr -d ' ')
task=$(call propose "{\"domain\":\"pages\",\"objective\":\"write $text\",\"idempotency_key\":\"$key\",
  \"params\":{\"file\":\"$file\",\"text\":\"$text\"}}" | field task_id)
echo "$task: asked; a person answers with: calyx task approve $task"

# 2. Wait for the answer, half a minute at a time.
state=
until [ "$state" = ready ]; do
  answer=$(call await_task "{\"task_id\":\"$task\",\"seen_state\":\"$state\",\"wait\":\"25s\"}")
  state=$(printf %s "$answer" | field state)
  approved=$(printf %s "$answer" | field approved_as)
  if [ -n "$approved" ]; then
    task=$approved state=
  elif printf %s "$answer" | grep -q '"ended":true'; then
    echo "$task: $state, $(printf %s "$answer" | field reason)"
    exit 1
  fi
done

# 3. Claim it. The epoch goes with everything that is said about it from now on.
epoch=$(call claim "{\"session\":\"$session\",\"task_id\":\"$task\",\"wait\":\"25s\"}" | field epoch)
[ -n "$epoch" ] || { echo "$task: another has it"; exit 1; }
about="\"session\":\"$session\",\"task_id\":\"$task\",\"epoch\":\"$epoch\""
while call heartbeat "{$about}" >/dev/null 2>&1; do sleep 5; done &
beats=$!
trap 'kill $beats 2>/dev/null' EXIT

# 4. May it happen now? Asked right before the effect.
if call check "{$about}" | grep -q '"allowed":true'; then
  printf '%s\n' "$text" >"$file.new" && mv "$file.new" "$file"
  digest=$(sha256sum "$file" | cut -d' ' -f1)
  status=done claim="[{\\\"kind\\\":\\\"file_digest\\\",\\\"target\\\":\\\"$file\\\",\\\"expect\\\":{\\\"sha256\\\":\\\"$digest\\\"}}]"
else
  status=cancelled claim='[]'
fi

# 5. The one answer, with what a prober will find if it is true.
call ack "{$about,\"status\":\"$status\",\"detail\":\"written with curl\",\"files_changed\":1,
  \"applied\":$([ $status = done ] && echo true || echo false),\"claims_json\":\"$claim\"}" | field status
echo
