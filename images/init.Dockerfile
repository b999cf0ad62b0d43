# heddle-init, which sets up the redirection and leaves. `docker build -f images/init.Dockerfile .` compiles it. `make images` stops
# at the stage `prebuilt`, whose context is a file system that images/rootfs.sh laid out: that needs no registry.
FROM scratch AS image
LABEL org.opencontainers.image.title=heddle-init org.opencontainers.image.licenses=Apache-2.0
ENV PATH=/usr/local/bin
# iptables works for root only, be it with two capabilities and nothing else.
USER 0:0
ENTRYPOINT ["/usr/local/bin/heddle-init"]

FROM image AS prebuilt
COPY . /

# Up to the last line the same in all three, so that one build makes them all.
FROM docker.io/library/rust:1.95.0-bookworm AS build
WORKDIR /src
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apt-get update && apt-get install -y --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cargo build --locked --release --bin heddle-init --bin heddle-proxy --bin heddle-injector
RUN images/rootfs.sh heddle-init target/release/heddle-init /rootfs

FROM image
COPY --from=build /rootfs/ /
