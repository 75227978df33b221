# syntax=docker/dockerfile:1
# A static binary in an image that holds nothing else. Build for the platform that runs the build, or with buildx:
#   docker buildx build --platform linux/amd64,linux/arm64 -t baton-jumpcloud .
FROM rust:1.95-alpine AS build
RUN apk add --no-cache build-base
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# The manifest names a test, an example and a benchmark; their files must exist for cargo to read it.
RUN mkdir -p tests/it tests/conformance benches \
 && touch tests/it/main.rs tests/conformance/producer.rs benches/daemon.rs
RUN cargo build --locked --release --bin baton-jumpcloud && cp target/release/baton-jumpcloud /baton-jumpcloud

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /baton-jumpcloud /baton-jumpcloud
COPY LICENSE /LICENSE
# Everything that is written goes here; mount an emptyDir when the root file system is read-only.
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["/baton-jumpcloud"]
