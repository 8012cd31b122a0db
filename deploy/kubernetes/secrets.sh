#!/usr/bin/env bash
# Makes deploy/kubernetes/secrets/, once: the stack's token, Prometheus' token, passwords of PostgreSQL and
# Redis, random, readable by this user alone.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p -m 700 secrets
umask 077
random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
for name in token prometheus postgres-password redis-password; do
  [[ -s secrets/$name ]] || random > "secrets/$name"
done
echo "postgres:5432:yuan:yuan:$(cat secrets/postgres-password)" > secrets/pgpass
