# kappamask with the local openEO back end. Build: docker build -t kappamask .
# Run: docker run --rm -v "$PWD:/work" kappamask mask --bbox W,S,E,N --date START/END --out masks
# Give the digest that you have looked at: --build-arg BASE=python:3.12-slim@sha256:...
# `docker buildx imagetools inspect python:3.12-slim` tells it; no registry could be reached where this was written.
ARG BASE=python:3.12-slim
FROM ${BASE} AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY kappamask kappamask
COPY udf udf
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE}
# PIP_EXTRA_INDEX_URL: an index of torch's builds for processors only makes the image some GB smaller.
ARG PIP_EXTRA_INDEX_URL=""
COPY constraints.txt locks/serve.txt /tmp/
COPY --from=build /wheels /wheels
# All but torch by hash; torch comes from whichever index is given.
RUN python -m pip install --no-cache-dir --require-hashes --no-deps --requirement /tmp/serve.txt \
    && python -m pip install --no-cache-dir --constraint /tmp/constraints.txt \
        "$(ls /wheels/kappamask-*.whl)[serve]" \
    && rm -rf /wheels /tmp/constraints.txt /tmp/serve.txt \
    && useradd --create-home kappamask
USER kappamask
WORKDIR /work
EXPOSE 8080
ENTRYPOINT ["kappamask"]
CMD ["--help"]
