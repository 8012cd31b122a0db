#!/usr/bin/env bash
# Makes deploy/kubernetes/secrets/, once: the stack's token and PostgreSQL's password, random, readable by this user alone.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p -m 700 secrets
umask 077
random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
[[ -s secrets/token ]] || random > secrets/token
[[ -s secrets/postgres-password ]] || random > secrets/postgres-password
echo "postgres:5432:yuan:yuan:$(cat secrets/postgres-password)" > secrets/pgpass
