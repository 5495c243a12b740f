# Images of the services: docker build --target gateway|translator|auth|simulator .
# Plain syntax that the builder before BuildKit understands too. BASE_IMAGE: a Debian with Python 3.11 or newer.
ARG BASE_IMAGE=python:3.13-slim-trixie

# What all images run on: the base without what installs more software.
FROM ${BASE_IMAGE} AS runtime
RUN set -eu; \
    installers="$(dpkg-query -W -f '${Package}\n' 'python3*-venv' 'python3-pip*' 'python3-setuptools*' 2>/dev/null || true)"; \
    if [ -n "$installers" ]; then dpkg --purge --force-depends $installers; fi; \
    for folder in $(python3 -c 'import sys, sysconfig; print(sysconfig.get_path("stdlib"), *sys.path[1:])'); do \
        rm -rf "$folder"/ensurepip "$folder"/pip "$folder"/pip-* "$folder"/setuptools "$folder"/setuptools-* \
            "$folder"/pkg_resources "$folder"/wheel "$folder"/wheel-* "$folder"/_distutils_hack \
            "$folder"/distutils-precedence.pth; \
    done; \
    rm -f /usr/local/bin/pip* /usr/local/bin/wheel; \
    install -d -o 10001 -g 10001 -m 0700 /var/lib/gstack; \
    install -d -o 10001 -g 10001 -m 0750 /etc/gstack /etc/gstack/secrets

# Dependencies come before the source, so that a change of the source keeps their layers.
FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/images/build.lock requirements.lock /build/
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --quiet --no-compile --require-hashes -r /build/build.lock
RUN python3 -m venv --without-pip /opt/gstack \
    && /opt/build/bin/pip --python /opt/gstack/bin/python install --quiet --no-compile --require-hashes \
        -r /build/requirements.lock \
    && rm -f /opt/gstack/bin/activate* /opt/gstack/bin/Activate* \
    && /opt/gstack/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/gstack/lib

# One folder for each image with the packages of ours that it needs, and its SBOM.
FROM build AS packages
COPY --from=runtime /var/lib/dpkg/status /build/dpkg-status
COPY pyproject.toml hatch_build.py README.md /build/source/
COPY protos /build/source/protos
COPY gstack /build/source/gstack
COPY gateway /build/source/gateway
COPY translator_service /build/source/translator_service
COPY auth_service /build/source/auth_service
COPY simulator /build/source/simulator
COPY deploy/images/sbom.py deploy/images/split /build/
RUN cd /build/source && /opt/build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation -w /build/wheels . \
    && /opt/build/bin/pip --python /opt/gstack/bin/python install --quiet --no-compile --no-deps /build/wheels/*.whl \
    && /build/split /images gateway:gateway translator:translator_service auth:auth_service simulator:simulator

FROM runtime AS service
COPY --from=build /opt/gstack /opt/gstack
COPY deploy/images/healthy /usr/local/bin/healthy
ENV PATH=/opt/gstack/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GSTACK_STATE_DIR=/var/lib/gstack \
    GSTACK_SECRETS_DIR=/etc/gstack/secrets
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["gstack"]

FROM service AS simulator
COPY --from=packages /images/simulator/ /
EXPOSE 5003
HEALTHCHECK --interval=10s --timeout=8s --start-period=30s --retries=3 CMD ["healthy", "simulator"]
CMD ["simulator", "--listen", "0.0.0.0:5003"]
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="gstack simulator" \
      org.opencontainers.image.description="A simulated CloudStack for gstack" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

FROM service AS auth
COPY --from=packages /images/auth/ /
ENV GSTACK_AUTH_LISTEN=0.0.0.0:5002 \
    GSTACK_AUTH_METRICS_LISTEN=0.0.0.0:9000 \
    GSTACK_SEALING_KEY_FILE=/etc/gstack/secrets/sealing.key \
    GSTACK_MASTER_KEY_FILE=/etc/gstack/secrets/master.key
EXPOSE 5002 9000
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s --retries=3 CMD ["healthy", "auth"]
CMD ["auth"]
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="gstack auth" \
      org.opencontainers.image.description="OAuth and service accounts of gstack, a Google Compute Engine API in front of Apache CloudStack" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

FROM service AS translator
COPY --from=packages /images/translator/ /
ENV GSTACK_TRANSLATOR_LISTEN=0.0.0.0:5001 \
    GSTACK_TRANSLATOR_METRICS_LISTEN=0.0.0.0:9000 \
    GSTACK_SEALING_KEY_FILE=/etc/gstack/secrets/sealing.key
EXPOSE 5001 9000
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s --retries=3 CMD ["healthy", "translator"]
CMD ["translator"]
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="gstack translator" \
      org.opencontainers.image.description="Translator between Google Compute Engine and Apache CloudStack" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

FROM service AS gateway
COPY --from=packages /images/gateway/ /
ENV GSTACK_GATEWAY_LISTEN=0.0.0.0:5000 \
    GSTACK_GATEWAY_METRICS_LISTEN=0.0.0.0:9000
EXPOSE 5000 9000
HEALTHCHECK --interval=10s --timeout=8s --start-period=60s --retries=3 CMD ["healthy", "gateway"]
CMD ["gateway"]
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="gstack gateway" \
      org.opencontainers.image.description="A Google Compute Engine API in front of Apache CloudStack" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
