# syntax=docker/dockerfile:1.25@sha256:0adf442eae370b6087e08edc7c50b552d80ddf261576f4ebd6421006b2461f12
# check=error=true

# A static binary, a bundle of CA certificates, and nothing else. `make image` builds it for this machine; RELEASING.md says
# how both platforms are built, signed and described. `make image-check` reads these rules back out of this file.
#
# The version of the compiler is the one of rust-toolchain.toml. The arguments are there for mirrors.
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082
# Not scratch: the program trusts the system's CA certificates and refuses to start without any, and it wants a folder
# for temporary files and a user that is not root.
ARG RUNTIME_IMAGE=gcr.io/distroless/static-debian12:nonroot@sha256:afa5c872c891853ca7fcf1f12c3edb23f7eeef36189728842dd51042ff57f7ab

# chef: the tools. Every stage but the last runs on the machine that builds, whatever the platform of the image.
FROM --platform=$BUILDPLATFORM ${RUST_IMAGE} AS chef
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked cargo-chef@0.1.78 cargo-auditable@0.7.7
WORKDIR /src

# plan: what the dependencies are. The recipe stays the same while only the source changes, and with it the layers below.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --bin baton-jumpcloud --recipe-path /recipe.json

# build: the dependencies as a layer of their own, then the program.
FROM chef AS build
ARG TARGETARCH
COPY --from=plan /recipe.json /recipe.json
# The C compiler and musl for the platform of the image. rustc brings its own musl to link, the C libraries need the headers.
# hadolint ignore=DL3008
RUN case "$TARGETARCH" in \
      amd64) cpu=x86_64 gcc=gcc-x86-64-linux-gnu ;; \
      arm64) cpu=aarch64 gcc=gcc-aarch64-linux-gnu ;; \
      *) echo "no image for $TARGETARCH: only amd64 and arm64" >&2; exit 1 ;; \
    esac \
 && if [ "$(dpkg --print-architecture)" = "$TARGETARCH" ]; then gcc=gcc; fi \
 && dpkg --add-architecture "$TARGETARCH" \
 && apt-get update \
 && apt-get install -y --no-install-recommends "$gcc" "musl-dev:$TARGETARCH" "linux-libc-dev:$TARGETARCH" \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$cpu-unknown-linux-musl" \
 && mkdir /kernel \
 && ln -s /usr/include/linux /usr/include/asm-generic "/usr/include/$cpu-linux-gnu/asm" /kernel/ \
 && printf '%s\n' \
      '[build]' "target = '$cpu-unknown-linux-musl'" \
      "[target.$cpu-unknown-linux-musl]" "linker = '$cpu-linux-gnu-gcc'" \
      '[env]' "CC_${cpu}_unknown_linux_musl = '$cpu-linux-musl-gcc'" \
      "CFLAGS_${cpu}_unknown_linux_musl = '-isystem /kernel'" \
      > /usr/local/cargo/config.toml
# The registry is a cache mount; the target folder is not, because it is what this layer is for.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo chef cook --locked --release --bin baton-jumpcloud --recipe-path /recipe.json
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# With the list of its dependencies inside, so that a scanner can tell from the file alone what it is made of.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo auditable build --locked --release --bin baton-jumpcloud \
 && install -D target/*-unknown-linux-musl/release/baton-jumpcloud /rootfs/baton-jumpcloud \
 && mkdir -p /rootfs/var/lib/baton-jumpcloud

FROM ${RUNTIME_IMAGE} AS runtime
# BuildKit takes SOURCE_DATE_EPOCH by itself; it is named so that a build without it is told from one with it.
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
ARG SOURCE_DATE_EPOCH
LABEL org.opencontainers.image.title="baton-jumpcloud" \
      org.opencontainers.image.description="Self-hosted JumpCloud connector for ConductorOne" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
COPY --from=build /rootfs/baton-jumpcloud /baton-jumpcloud
COPY LICENSE /LICENSE
# The one folder that is written to: mount a volume there when the root file system is read-only.
COPY --from=build --chown=65532:65532 /rootfs/var/lib/baton-jumpcloud /var/lib/baton-jumpcloud
WORKDIR /var/lib/baton-jumpcloud
ENV TMPDIR=/var/lib/baton-jumpcloud
# Memory that is free goes back to the system at once: the many short-lived threads of a sync would each keep some otherwise.
ENV MIMALLOC_PURGE_DELAY=0
# A number, so that the kubelet can see that it is not root.
USER 65532:65532
ENTRYPOINT ["/baton-jumpcloud"]
