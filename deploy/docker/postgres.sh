#!/usr/bin/env bash
# PostgreSQL as the image's own user from its first moment, with a root file system that it cannot write: makes the
# database once, its password from a file, and becomes the server. An attempt that was cut off begins anew.
set -euo pipefail
password=/run/postgres/password
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  new=$PGDATA.new
  rm -rf "$new"
  initdb -D "$new" -U yuan -A scram-sha-256 --pwfile="$password" -E UTF8 --locale=C.UTF-8 > /dev/null
  echo "host all all all scram-sha-256" >> "$new/pg_hba.conf"
  postgres --single -D "$new" postgres <<< 'CREATE DATABASE yuan' > /dev/null
  mv "$new" "$PGDATA"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
