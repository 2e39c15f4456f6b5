# The image of envoy-sds: the program alone, not root, for a root filesystem that is read-only.
#
#   docker build -t envoy-sds .
#   docker build -t envoy-sds --build-arg PROFILE=dev .    # built sooner, runs slower
#
# It needs one place to write, the configuration's stateDir, or else /var/lib/envoy-sds: mount a volume there.
#
# What it is made from has a release (Rust 1.95, Debian 12) and no digest, on purpose: a build takes the fixes of that day, in
# Debian's C library and CA certificates above all. What the program depends on is as Cargo.lock says. For a build that can be
# repeated, put digests behind the two names, and keep them up to date.

FROM rust:1.95-bookworm AS build
ARG PROFILE=release
WORKDIR /src

# The dependencies first, in a layer of their own: an edit of the program does not build them again. Cargo wants every file
# that the manifest speaks of, so each is there in name.
COPY Cargo.toml Cargo.lock ./
COPY vendor vendor
RUN mkdir src benches \
 && echo 'fn main() {}' | tee src/main.rs build.rs > src/lib.rs \
 && awk '/^\[\[bench\]\]/ { getline; gsub(/"/, ""); print "benches/" $3 ".rs" }' Cargo.toml | xargs touch \
 && cargo build --locked --profile "$PROFILE"

COPY build.rs ./
COPY proto proto
COPY deploy/crds.yaml deploy/
COPY src src
# Cargo goes by times, and these files may be older than the ones they replace.
RUN touch build.rs src/main.rs src/lib.rs \
 && cargo build --locked --profile "$PROFILE" --bin envoy-sds \
 && case "$PROFILE" in dev) built=debug ;; *) built=$PROFILE ;; esac \
 && cp "target/$built/envoy-sds" /envoy-sds \
 && strip /envoy-sds \
 && mkdir -p /state/envoy-sds && chmod 700 /state/envoy-sds

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /envoy-sds /usr/local/bin/envoy-sds
# A new volume takes its owner and mode from here. (Of the folder that is named, builders keep no mode; of what is in it they do.)
COPY --from=build --chown=65532:65532 /state /var/lib
# For the default of stateDir alone: what the configuration says counts.
ENV XDG_STATE_HOME=/var/lib
USER 65532:65532
HEALTHCHECK --interval=5s --timeout=6s --start-period=30s CMD ["/usr/local/bin/envoy-sds", "ready"]
ENTRYPOINT ["/usr/local/bin/envoy-sds"]
CMD ["serve"]
