# Two images from one file: target `cpu` for everything, target `gpu` for a worker that trains on NVIDIA GPUs.

FROM python:3.12.12-slim-bookworm AS base
# No telemetry. Nothing is written next to the code; all state is in the volume at ICU_HOME.
ENV DO_NOT_TRACK=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PREFECT_UI_STATIC_DIRECTORY=/tmp/prefect-ui \
    ICU_HOME=/var/lib/icu-forecast \
    HOME=/var/lib/icu-forecast
RUN groupadd --gid 10001 icu \
    && useradd --uid 10001 --gid icu --no-create-home --home-dir /var/lib/icu-forecast icu \
    && install --directory --owner icu --group icu /var/lib/icu-forecast
WORKDIR /app

FROM scratch AS code
COPY pyproject.toml README.md LICENSE prefect.yaml /
COPY rnn_core /rnn_core
COPY sql /sql
COPY flows /flows

FROM base AS gpu
COPY requirements-gpu.txt ./
RUN pip install --require-hashes --requirement requirements-gpu.txt
COPY --from=code / ./
RUN pip install --no-deps --no-build-isolation --editable .
USER 10001:10001
ENTRYPOINT ["icu-forecast"]
CMD ["--help"]

FROM base AS cpu
COPY requirements-cpu.txt ./
RUN pip install --require-hashes --requirement requirements-cpu.txt
COPY --from=code / ./
RUN pip install --no-deps --no-build-isolation --editable .
USER 10001:10001
ENTRYPOINT ["icu-forecast"]
CMD ["--help"]
