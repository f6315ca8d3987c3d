# One image for the worker, beat, the gateway, the sandbox and the admin commands; docker-compose.yml picks the command.
FROM python:3.11-slim-bookworm AS build
RUN python -m venv /opt/volley
ENV PATH=/opt/volley/bin:$PATH
WORKDIR /build
COPY requirements/run.lock requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/run.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp volley
COPY --from=build /opt/volley /opt/volley
ENV PATH=/opt/volley/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /tmp
USER volley
CMD ["celery", "-A", "worker.app", "worker"]
