#!/usr/bin/env bash
# Builds the image of every role and lists what they take: yuan-data, yuan-trainer …, each with the tag YUAN_TAG (latest).
#   deploy/docker/images.sh                     all that docker-compose.yml starts
#   deploy/docker/images.sh kubernetes          those, and the trainer's worker with kubectl in it
# BUILD_OPTIONS: more for `docker build`, as in --network host --build-arg PIP_EXTRA_INDEX_URL=… --build-arg KUBECTL=IMAGE
set -euo pipefail
cd "$(dirname "$0")/../.."
roles=(data converter inference evaluator trainer gateway)
case ${1:-} in
  "") ;;
  kubernetes) roles+=(trainer-kubectl) ;;
  *)
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2 ;;
esac
read -r -a options <<< "${BUILD_OPTIONS:-}"
for role in "${roles[@]}"; do
  docker build -q -f deploy/docker/Dockerfile --target "$role" -t "yuan-$role:${YUAN_TAG:-latest}" "${options[@]}" . >/dev/null
  docker image inspect --format '{{index .RepoTags 0}} {{.Size}}' "yuan-$role:${YUAN_TAG:-latest}" \
    | awk '{printf "%-32s %6.0f MB\n", $1, $2 / 1e6}'
done
