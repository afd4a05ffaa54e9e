#!/bin/sh
# Starts the agent; Ctrl-C or SIGTERM ends it, gracefully.
set -eu
: "${CALYX_AGENT_TOKEN:?run: export CALYX_AGENT_TOKEN=\$(calyx agent invite scribe --domain notes)}"
exec python3 "$(dirname "$0")/main.py"
