# docker build -t dealrank .
# docker run -p 8080:8080 -v dealrank:/var/lib/dealrank dealrank

FROM lukemathwalker/cargo-chef:latest-rust-1.95-bookworm AS chef
WORKDIR /build

# The dependencies alone, so that a change of our code does not build them anew.
FROM chef AS planner
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS builder
COPY --from=planner /build/recipe.json recipe.json
RUN cargo chef cook --release --locked --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --bin dealrank
RUN mkdir /state

# No shell and no package manager; the C library of the builder's Debian release.
FROM gcr.io/distroless/cc-debian12:nonroot
WORKDIR /usr/share/dealrank
COPY --from=builder /build/target/release/dealrank /usr/local/bin/dealrank
COPY data ./data
# A new volume takes its owner from the folder that it covers.
COPY --from=builder --chown=65532:65532 /state /var/lib/dealrank
ENV DEALRANK_LISTEN=0.0.0.0:8080 \
    DEALRANK_DATA_DIR=/var/lib/dealrank
VOLUME /var/lib/dealrank
EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/dealrank", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/dealrank"]
CMD ["serve"]
