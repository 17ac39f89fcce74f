# Dripline in one image: `docker build -t dripline .`, then `docker run dripline config check`.

FROM rust:1.95-slim-trixie AS build
WORKDIR /src
COPY . .
# The caches keep a second build short. What is built must leave its cache, or it would not be in the layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package dripline \
    && cp target/release/dripline /usr/local/bin/dripline

FROM debian:trixie-slim
# Providers are called over TLS.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/dripline --create-home dripline
COPY --from=build /usr/local/bin/dripline /usr/local/bin/dripline
COPY sequences /etc/dripline/sequences
ENV DRIPLINE_SEQUENCES__DIR=/etc/dripline/sequences \
    DRIPLINE_GATEWAY__LISTEN=0.0.0.0:8080
# A `dripline.toml` and the outbox, where used, stand here.
WORKDIR /var/lib/dripline
USER dripline
EXPOSE 8080 9464
ENTRYPOINT ["dripline"]
CMD ["run"]
