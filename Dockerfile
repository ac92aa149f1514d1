# routelet in an image of its own: the static binary and nothing else.
#
#   docker build -t routelet .
#   docker build --build-arg PROFILE=release -t routelet .    # built in half the time, slightly slower

FROM rust:1.95-bookworm AS build
# A profile of Cargo.toml.
ARG PROFILE=dist
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY proto proto
COPY bgp bgp
COPY agent agent
COPY tests tests
# With --target the flags hold for the program only, not for build scripts and macros, which are loaded
# into the compiler.
RUN RUSTFLAGS='-C target-feature=+crt-static' cargo install --locked --path agent \
      --profile "$PROFILE" --target "$(rustc -vV | sed -n 's/^host: //p')" --root /out \
 && if ldd /out/bin/routelet 2>/dev/null | grep '=>'; then \
      echo 'error: the binary needs the shared libraries above' >&2; exit 1; fi

FROM scratch
LABEL org.opencontainers.image.title="routelet" \
      org.opencontainers.image.description="Route agent of a Kubernetes node: BGP sessions and kernel routes" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/bin/routelet /usr/local/bin/routelet
# root, but only with the capabilities that it is given: NET_ADMIN, NET_RAW and NET_BIND_SERVICE. There
# are no CA certificates: an API server is trusted by the CA that comes with the credentials.
USER 0
ENV PATH=/usr/local/bin
ENTRYPOINT ["/usr/local/bin/routelet"]
CMD ["--help"]
