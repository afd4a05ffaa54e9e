#!/usr/bin/env bash
# Check Prometheus' configuration and try its alerts with promtool: from PATH, or from Debian's package unpacked by
# deploy/offline/build.sh. Where neither can be had it says so and passes; in CI it fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

unpacked=deploy/offline/.build/prometheus/usr/bin/promtool
promtool=$(command -v promtool || true)
[ -n "$promtool" ] || [ -x "$unpacked" ] || { command -v apt-get dpkg >/dev/null && deploy/offline/build.sh promtool; } || true
[ -n "$promtool" ] || promtool=$unpacked
if [ ! -x "$promtool" ]; then
  echo "prometheus: not checked, there is no promtool (Debian and Ubuntu: apt-get install prometheus)"
  [ "${CI:-}" != true ]
  exit
fi

"$promtool" check config --lint=all deploy/prometheus/prometheus.yml
"$promtool" test rules deploy/prometheus/rules_test.yml
