#!/usr/bin/env bash
# Make the images of the compose stack without any image registry: the Python base by debootstrap, Prometheus from
# Debian's package, the Python packages from a wheelhouse that pip fills on the host.
#
#   deploy/offline/build.sh [python] [wheels] [promtool] [prometheus] [services]     (default: all of them)
#
# Needs root, Docker, debootstrap and a Debian bookworm whose apt and pip reach their mirrors (wherever their own
# configuration points); after that, nothing. Each part is skipped when it was made from the same inputs before.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=deploy/offline
build=$here/.build
suite=bookworm
python_image=station-calyx/python:3.11-$suite
prometheus_image=station-calyx/prometheus:2.42-debian
debian_packages=python3,python3-venv

say() { printf 'offline: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What an image was made from, kept in its label.
digest() { cat "$@" | sha256sum | cut -c1-16; }
is_made_from() { [ "$(docker image inspect --format '{{index .Config.Labels "calyx.inputs"}}' "$1" 2>/dev/null)" = "$2" ]; }

# The mirror of this host's apt for the suite; empty leaves debootstrap its own default.
mirror() {
  [ -n "${CALYX_DEBIAN_MIRROR:-}" ] && { echo "$CALYX_DEBIAN_MIRROR"; return; }
  apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$suite" '$2 == suite && $3 == "main" { print $1; exit }'
}

make_python() {
  local inputs; inputs=$( { declare -f make_python; echo "$suite $debian_packages"; } | digest -)
  if is_made_from "$python_image" "$inputs"; then say "$python_image is there"; return; fi
  [ "$(id -u)" = 0 ] || die "debootstrap needs root"
  command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"
  local root; root=$(mktemp -d)
  # shellcheck disable=SC2064 — the folder's name is meant to be fixed now
  trap "rm -rf --one-file-system '$root'" EXIT
  say "making $python_image (debootstrap $suite; about a minute)"
  # shellcheck disable=SC2046 — an empty mirror must vanish
  debootstrap --variant=minbase --include="$debian_packages" "$suite" "$root" $(mirror) >"$build/debootstrap.log" 2>&1 ||
    { tail -20 "$build/debootstrap.log" >&2; die "debootstrap failed; all of it: $build/debootstrap.log"; }
  # The same paths as in the official image.
  ln -s /usr/bin/python3 "$root/usr/local/bin/python3"
  ln -s /usr/bin/python3 "$root/usr/local/bin/python"
  tar -C "$root" --numeric-owner --one-file-system -c \
      --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' --exclude='./var/cache/apt/*' \
      --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
      --exclude='./usr/share/locale/*' --exclude='./var/log/*' . |
    docker import --change "LABEL calyx.inputs=$inputs" --change 'CMD ["python3"]' \
      --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' - "$python_image" >/dev/null
  rm -rf --one-file-system "$root"
  trap - EXIT
}

make_wheels() {
  local inputs; inputs=$(digest requirements.lock requirements-chroma.lock)
  if [ "$(cat "$build/wheels.inputs" 2>/dev/null)" = "$inputs" ]; then say "the wheelhouse is there"; return; fi
  say "filling the wheelhouse from the locks"
  rm -rf "$build/wheels" "$build/pip" "$build/pip.log"
  python3 -m venv "$build/pip"
  for lock in requirements.lock requirements-chroma.lock; do
    "$build/pip/bin/pip" download --quiet --disable-pip-version-check --only-binary :all: --no-deps --require-hashes \
      --dest "$build/wheels" -r "$lock" >>"$build/pip.log" 2>&1 ||
      { tail -20 "$build/pip.log" >&2; die "pip can't download $lock; all of it: $build/pip.log"; }
  done
  rm -rf "$build/pip"
  echo "$inputs" >"$build/wheels.inputs"
}

# Debian's prometheus package, unpacked: the server and promtool.
make_promtool() {
  if [ -x "$build/prometheus/usr/bin/promtool" ]; then return; fi
  say "fetching Debian's prometheus package"
  rm -rf "$build/deb" && mkdir -p "$build/deb"
  (cd "$build/deb" && apt-get download --quiet prometheus >/dev/null 2>&1) ||
    die "apt-get can't download prometheus: run apt-get update"
  dpkg -x "$build"/deb/prometheus_*.deb "$build/prometheus"
  rm -rf "$build/deb"
}

make_prometheus() {
  make_promtool
  local inputs; inputs=$(digest "$here/prometheus.Dockerfile" "$build/prometheus/usr/bin/prometheus")
  if is_made_from "$prometheus_image" "$inputs"; then say "$prometheus_image is there"; return; fi
  say "making $prometheus_image"
  DOCKER_BUILDKIT=0 docker build --quiet --file "$here/prometheus.Dockerfile" --build-arg PYTHON_IMAGE="$python_image" \
    --label calyx.inputs="$inputs" --tag "$prometheus_image" "$build/prometheus/usr/bin" >"$build/prometheus.log" 2>&1 ||
    { tail -20 "$build/prometheus.log" >&2; die "docker build failed; all of it: $build/prometheus.log"; }
}

make_services() {
  say "making the services' images"
  deploy/containers/compose -f docker-compose.yml -f "$here/compose.offline.yml" --env-file "$here/offline.env" \
    --progress plain build >"$build/services.log" 2>&1 ||
    { tail -30 "$build/services.log" >&2; die "the build failed; all of it: $build/services.log"; }
}

mkdir -p "$build"
for part in "${@:-python wheels promtool prometheus services}"; do
  # shellcheck disable=SC2086 — the default is several words
  for one in $part; do "make_$one"; done
done
