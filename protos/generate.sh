#!/usr/bin/env bash
# Generate the committed stubs under protos/gen, or with --check prove that they are current.
set -euo pipefail
cd "$(dirname "$0")"
out=gen
if [ "${1:-}" = --check ]; then out=$(mktemp -d); trap 'rm -rf "$out"' EXIT; fi
python=${PYTHON:-../.venv/bin/python}
PATH="$(cd "$(dirname "$python")" && pwd):$PATH"
mapfile -t files < <(find calyx -name '*.proto' | sort)
if [ "$out" = gen ]; then rm -rf gen; fi
mkdir -p "$out"
"$python" -m grpc_tools.protoc -I . --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" "${files[@]}"
find "$out/calyx" -type d -exec touch {}/__init__.py \;
if [ "$out" != gen ]; then
  diff -r -x __pycache__ "$out" gen >/dev/null || { echo "protos/gen is not current: run 'make proto' and commit it" >&2; exit 1; }
fi
