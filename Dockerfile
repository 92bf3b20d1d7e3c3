# A worker for either pool. Not built here (there was no container engine): each step was run by hand on Debian 12
# as root and then as the user, but for the CUDA libraries.
#   docker build --tag lookbook-cpu .
#   docker build --tag lookbook-gpu --build-arg EXTRA=gpu .
#   docker run --env PREFECT_API_URL=http://server:4200/api --volume store:/srv/store lookbook-cpu
#   docker run --gpus all --env PREFECT_API_URL=... --volume store:/srv/store lookbook-gpu --pool gpu --limit 1
FROM python:3.11-slim

# The pinned packages, which change least, come first; EXTRA=gpu adds TensorFlow's CUDA libraries.
ARG EXTRA=
WORKDIR /opt/lookbook
COPY pyproject.toml requirements.lock ./
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock \
 && if [ -n "$EXTRA" ]; then /opt/venv/bin/pip install --no-cache-dir "tensorflow[and-cuda]>=2.21,<2.22"; fi

COPY artifacts artifacts
COPY flows flows
COPY tasks tasks
COPY prefect.yaml README.md ./
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
 && useradd --create-home --uid 1000 lookbook \
 && install --directory --owner lookbook /srv/store /srv/cache

USER lookbook
ENV PATH=/opt/venv/bin:$PATH \
    DO_NOT_TRACK=1 \
    LOOKBOOK_HOME=/opt/lookbook \
    LOOKBOOK_STORE=/srv/store \
    LOOKBOOK_CACHE=/srv/cache \
    PREFECT_WORKER_ENABLE_CANCELLATION=true
VOLUME /srv/store
ENTRYPOINT ["prefect", "worker", "start", "--type", "process"]
CMD ["--pool", "cpu"]
