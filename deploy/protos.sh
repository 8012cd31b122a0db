#!/usr/bin/env bash
# Generates the code under libs/yuan_rpc from protos/: messages, service stubs, and types for both.
#   deploy/protos.sh           writes it
#   deploy/protos.sh check     fails, naming the files, if what is committed is not what the protos mean
#   deploy/protos.sh lint      buf's style rules, where npm is there
# The same versions of grpcio-tools and mypy-protobuf (requirements.lock) give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
buf=@bufbuild/buf@1.75.0
bin=$PWD/.venv/bin

generate() { # generate FOLDER: FOLDER/jobs/v1/jobs_pb2.py …
  local work=$1.protoc package version
  mkdir -p "$1" "$work"
  (
    cd protos
    find yuan -name '*.proto' | LC_ALL=C sort | PATH="$bin:$PATH" xargs "$bin/python" -m grpc_tools.protoc -I . \
      --python_out="$work" --pyi_out="$work" --grpc_python_out="$work" --mypy_grpc_out=quiet:"$work"
  )
  # protoc names packages after folders: `yuan.jobs.v1` of the protos is `yuan_rpc.jobs.v1` in Python.
  find "$work" -name '*.py*' -exec sed -i -E 's/^(from|import) yuan\./\1 yuan_rpc./; s/\byuan\.([a-z]+\.v[0-9]+\.[a-z]+_pb2)/yuan_rpc.\1/g' {} +
  cp -r "$work"/yuan/. "$1"
  rm -rf "$work"
  for package in "$1"/*/; do
    echo '"""Generated from protos/ by `make protos`."""' > "$package/__init__.py"
    for version in "$package"*/; do cp "$package/__init__.py" "$version/__init__.py"; done
  done
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case ${1:-write} in
  write)
    generate "$scratch/new"
    # A folder with a version in it is generated, whole.
    find libs/yuan_rpc -mindepth 2 -maxdepth 2 -name 'v[0-9]*' -printf '%h\0' | sort -zu | xargs -0 -r rm -rf
    cp -r "$scratch"/new/. libs/yuan_rpc/
    echo "protos: libs/yuan_rpc is written" ;;
  check)
    generate "$scratch/new"
    mkdir -p "$scratch/old"
    (cd libs/yuan_rpc && find . -path './*/v[0-9]*/*' -name '*.py*' -not -path '*__pycache__*' -exec cp --parents {} "$scratch/old" \; \
      && find . -mindepth 2 -maxdepth 2 -name __init__.py -exec cp --parents {} "$scratch/old" \;)
    if ! diff -rq "$scratch/new" "$scratch/old" | sed "s|$scratch/||g"; then :; fi
    if ! diff -r "$scratch/new" "$scratch/old" >/dev/null; then
      echo "protos: libs/yuan_rpc is not what protos/ means; run: make protos" >&2
      exit 1
    fi
    echo "protos: libs/yuan_rpc is current" ;;
  lint)
    if ! command -v npx >/dev/null; then
      echo "protos: not linted: npm is not on this machine"
      exit 0
    fi
    (cd protos && npx --yes "$buf" lint) && echo "protos: lint clean" ;;
  *) echo "deploy/protos.sh: unknown argument $1; expected none, check or lint" >&2; exit 2 ;;
esac
