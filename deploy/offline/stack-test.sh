#!/usr/bin/env bash
# make stack-test: bring the compose stack up under a name and on ports of its own, test it from outside, take it down.
#
# Images: made without a registry by build.sh where that works (root and debootstrap), else from the registries.
# Without a Docker engine it says so and passes; with CALYX_STACK_REQUIRED=1 or CI=true it fails instead.
# KEEP=1 leaves the stack up; further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'stack-test: %s\n' "$*" >&2; }
skip() {
  if [ "${CALYX_STACK_REQUIRED:-}" = 1 ] || [ "${CI:-}" = true ]; then say "FAILED: $*"; exit 1; fi
  say "skipped: $*"
  exit 0
}

python=.venv/bin/python
[ -x "$python" ] || { say "FAILED: there is no .venv; run make setup"; exit 1; }
compose=deploy/containers/compose
command -v docker >/dev/null || skip "there is no docker command"
docker info >/dev/null 2>&1 || skip "no Docker engine answers (docker info)"
"$compose" version >/dev/null || skip "there is no docker compose"

export COMPOSE_PROJECT_NAME=calyx-test-$$
export CALYX_VERSION=${CALYX_VERSION:-test} # the images of a station on this machine keep their tag
export CALYX_PULSE_SECONDS=5
files=(-f docker-compose.yml)
if [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then
  deploy/offline/build.sh
  files+=(-f deploy/offline/compose.offline.yml --env-file deploy/offline/offline.env)
else
  say "not root or no debootstrap: images come from the registries"
  "$compose" "${files[@]}" build --quiet
fi

# Ports nobody listens on, so that a station of this machine is not in the way.
names=(HTTP MEMORY GOVERNOR GUARDIAN CBO ANALYTICS DASHBOARD PROMETHEUS GRAFANA)
mapfile -t ports < <("$python" - "${#names[@]}" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(one.getsockname()[1] for one in held), sep="\n")
PY
)
for n in "${!names[@]}"; do export "CALYX_PORT_${names[$n]}=${ports[$n]}"; done

# The same Prometheus, only faster.
CALYX_PROMETHEUS_CONFIG=$(mktemp -d)
export CALYX_PROMETHEUS_CONFIG
cp deploy/prometheus/rules.yml "$CALYX_PROMETHEUS_CONFIG/"
sed 's/_interval: 15s/_interval: 5s/' deploy/prometheus/prometheus.yml >"$CALYX_PROMETHEUS_CONFIG/prometheus.yml"
chmod -R a+rX "$CALYX_PROMETHEUS_CONFIG"

stack() { "$compose" "${files[@]}" --progress quiet "$@"; }
down() {
  local status=$?
  if [ "$status" != 0 ]; then
    say "FAILED; the containers and their last lines:"
    stack ps -a >&2 || true
    stack logs --no-color --tail 40 2>&1 | cut -c1-600 >&2 || true
  fi
  if [ "${KEEP:-}" = 1 ]; then
    say "left up as $COMPOSE_PROJECT_NAME"
  else
    stack --profile cli --profile grafana down --volumes --remove-orphans --timeout 10 >/dev/null 2>&1 || true
    rm -rf "$CALYX_PROMETHEUS_CONFIG"
  fi
  exit "$status"
}
trap down EXIT
trap 'exit 130' INT TERM

say "starting $COMPOSE_PROJECT_NAME"
SECONDS=0
stack up --detach --no-build --wait --wait-timeout 180 memory governor cbo analytics dashboard guardian broker prometheus
say "all healthy after ${SECONDS} s"
export CALYX_STACK_COMPOSE="$compose ${files[*]}"
"$python" -m pytest -m stack tests/stack -p no:cacheprovider "$@"
