# Two images from one file: the aggregator (the default), and the example apps.
#
#   docker build -t otel-credits .
#   docker build -t otel-credits-examples --target examples .
#
# The aggregator's image talks to a ClickHouse server; the embedded store (chDB) is not in it. It listens on every address of the
# container, and so starts only with tokens in its data folder, OTEL_CREDITS_TOKENS_FILE, or the explicit permission
# OTEL_CREDITS_ALLOW_UNAUTHENTICATED=on:
#
#   docker run --rm -v credits:/var/lib/otel-credits/data otel-credits tokens add ops --role admin

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY instrumentation instrumentation
COPY aggregator aggregator
COPY clickhouse clickhouse
COPY examples examples
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A fixed user id, so that the owner of a mounted folder can be set from outside.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/otel-credits otel-credits
WORKDIR /var/lib/otel-credits
# The versions that the tests ran with.
COPY constraints.txt /constraints.txt

FROM base AS examples
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir --constraint /constraints.txt \
        "$(echo /dist/*.whl)[fastapi,celery]" anthropic httpx redis uvicorn
COPY examples /examples
ENV PYTHONPATH=/examples
USER 10001

FROM base AS aggregator
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip install --no-cache-dir --constraint /constraints.txt "$(echo /dist/*.whl)[aggregator]"
USER 10001
ENV OTEL_CREDITS_HOST=0.0.0.0 OTEL_CREDITS_DATA_DIR=/var/lib/otel-credits/data
# Made here, so that a volume mounted there belongs to the user. The spool in it must outlive the container.
RUN mkdir /var/lib/otel-credits/data
VOLUME /var/lib/otel-credits/data
EXPOSE 4317 4318 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["otel-credits"]
CMD ["serve"]
