# One Dockerfile for the six services: docker build --build-arg SERVICE=memory .
# Plain Dockerfile syntax on purpose: it builds under BuildKit and under the classic builder of older engines.
#
# PYTHON_IMAGE   the Python base; deploy/offline/build.sh makes one where no image registry can be reached
# REQUIREMENTS   which lock to install (memory takes requirements-chroma.lock)
# WHEELS         a folder of wheels inside the build context; when given, pip asks no package index
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS venv
ARG REQUIREMENTS=requirements.lock
ARG WHEELS=none
WORKDIR /build
# A pattern that matches nothing copies nothing, so the wheels are optional.
COPY ${REQUIREMENTS} ${WHEELS}* wheels/
RUN python3 -m venv /venv \
 && if [ "$WHEELS" = none ]; then set --; else set -- --no-index --find-links wheels; fi \
 && /venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
      --require-hashes "$@" -r "wheels/$(basename "$REQUIREMENTS")" \
 && /venv/bin/pip uninstall --quiet --yes setuptools pip

FROM ${PYTHON_IMAGE} AS code
WORKDIR /app
COPY chassis chassis
COPY services services
COPY cli cli
COPY calyx_agent calyx_agent
COPY protos/gen protos/gen
COPY deploy/domains deploy/domains
COPY deploy/playbooks deploy/playbooks
COPY deploy/containers deploy/containers
COPY pyproject.toml .
# The root file system is read-only at run time: compile now.
RUN python3 deploy/containers/describe.py pyproject.toml . \
 && python3 -m compileall -q chassis services cli calyx_agent protos/gen

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 calyx \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin calyx \
 # Named volumes take over the owner of the folder they are first mounted on, so nothing needs root to chown.
 && for service in memory governor guardian cbo analytics dashboard operator grafana; do \
      mkdir -p "/secrets/$service"; done \
 && mkdir -p /station /secrets/all /run/calyx-secrets /run/calyx-broker \
 && chown -R 10001:10001 /station /secrets /run/calyx-secrets /run/calyx-broker \
 && chmod 0770 /run/calyx-broker && chmod 0700 /run/calyx-secrets /secrets/* \
 # The plan's names for two folders of the one shared volume.
 && ln -s /station/memory /memory && ln -s /station/reports /reports
COPY --from=venv /venv /venv
COPY --from=code /app /app
RUN printf '#!/bin/sh\nexec python -m cli.main "$@"\n' > /usr/local/bin/calyx && chmod 0755 /usr/local/bin/calyx
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app:/app/protos/gen \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    CALYX_STATION_DIR=/station \
    CALYX_SECRETS_DIR=/run/calyx-secrets
WORKDIR /app
USER 10001:10001
ARG SERVICE
ENV CALYX_SERVICE=${SERVICE}
LABEL org.opencontainers.image.title="station-calyx/${SERVICE}" org.opencontainers.image.licenses="Apache-2.0"
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
  CMD ["python", "-IS", "/app/chassis/rpc/health_probe.py"]
# exec: the service is process 1 and gets SIGTERM itself.
CMD exec python -m "services.${CALYX_SERVICE}"
