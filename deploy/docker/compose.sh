#!/usr/bin/env bash
# docker-compose.yml with whichever Compose is installed, and what must be there before it. `make compose-…` calls it.
#   deploy/docker/compose.sh secrets        makes deploy/docker/secrets/ (or YUAN_SECRETS), once
#   deploy/docker/compose.sh up             secrets, images, all containers; waits until they are healthy
#   deploy/docker/compose.sh down           ends them; `down --volumes` removes what they kept, too
#   deploy/docker/compose.sh ANYTHING …     that command of Compose
# COMPOSE_PROFILES=gpu,monitoring: what else, or instead (docker-compose.yml's head).
# YUAN_BUILD_NETWORK=host builds on the host's network (deploy/docker/host-network.override.yml).
set -euo pipefail
cd "$(dirname "$0")/../.."
export YUAN_SECRETS=${YUAN_SECRETS:-./deploy/docker/secrets}
export YUAN_CPUS=${YUAN_CPUS:-$(nproc)}
export COMPOSE_PROFILES=${COMPOSE_PROFILES:-cpu}

compose() {
  local files=(-f docker-compose.yml)
  if [[ ${YUAN_BUILD_NETWORK:-} == host ]]; then files+=(-f deploy/docker/host-network.override.yml); fi
  if docker compose version >/dev/null 2>&1; then
    docker compose "${files[@]}" "$@"
  elif command -v docker-compose >/dev/null; then
    docker-compose "${files[@]}" "$@"
  else
    echo "compose: neither 'docker compose' nor 'docker-compose' is installed" >&2
    exit 1
  fi
}

make_secrets() { # random, readable by this user alone; kept, since the volumes remember them
  mkdir -p -m 700 "$YUAN_SECRETS"
  (
    umask 077
    random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
    # Up to version 0.1 the database's password was in a file of variables: its volume remembers that one.
    if [[ -s "$YUAN_SECRETS/postgres.env" && ! -s "$YUAN_SECRETS/postgres-password" ]]; then
      sed -n 's/^POSTGRES_PASSWORD=//p' "$YUAN_SECRETS/postgres.env" > "$YUAN_SECRETS/postgres-password"
    fi
    for name in token prometheus postgres-password redis-password grafana-password; do
      [[ -s "$YUAN_SECRETS/$name" ]] || random > "$YUAN_SECRETS/$name"
    done
  )
}

wait_until_healthy() { # wait_until_healthy SECONDS
  local end=$((SECONDS + $1)) service id health
  local services=(data trainer converter sandbox evaluator gateway)
  [[ ,$COMPOSE_PROFILES, == *,cpu,* ]] && services+=(inference)
  [[ ,$COMPOSE_PROFILES, == *,gpu,* ]] && services+=(inference-gpu)
  [[ ,$COMPOSE_PROFILES, == *,monitoring,* ]] && services+=(prometheus grafana)
  for service in "${services[@]}"; do
    while true; do
      id=$(compose ps -q "$service" 2>/dev/null | head -n 1)
      health=$(docker inspect --format '{{.State.Health.Status}}' "$id" 2>/dev/null || echo missing)
      [[ $health == healthy ]] && break
      if ((SECONDS > end)); then
        echo "compose: $service is $health; see: docker logs $id" >&2
        return 1
      fi
      sleep 1
    done
  done
}

case ${1:-} in
  secrets) make_secrets ;;
  up)
    shift
    make_secrets
    compose build
    compose up --detach "$@"
    wait_until_healthy 300
    echo "compose: the stack is up; next: yuan -f configs/clusters/compose.yaml submit configs/pipelines/demo.yaml --watch" ;;
  "" | -h | --help) sed -n '2,9s/^# //p' "$0" ;;
  *)
    # Compose reads the whole file for any command, so the file that it names must be there.
    make_secrets
    compose "$@" ;;
esac
