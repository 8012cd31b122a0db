#!/usr/bin/env bash
# `make demo`: brings a stack up, submits the pipeline from text to a model, watches it, deploys the model, streams three
# answers over gRPC, takes the stack down. A stack that runs in this home already is used and left running.
set -euo pipefail
cd "$(dirname "$0")/.."
yuan=.venv/bin/yuan
export YUAN_HOME=${YUAN_HOME:-$HOME/.yuan}
mkdir -p "$YUAN_HOME"
exec 9>"$YUAN_HOME/demo.lock"
flock -n 9 || { echo "make demo: another demo runs in $YUAN_HOME; wait for it, or set YUAN_HOME to another folder" >&2; exit 2; }

started=$SECONDS
lap() { printf '%-44s %4d s\n' "$1" $((SECONDS - started)) >>"$times"; started=$SECONDS; }
times=$(mktemp)

if [[ -e $YUAN_HOME/stack/cluster.yaml ]] && $yuan status -f "$YUAN_HOME/stack/cluster.yaml" >/dev/null 2>&1; then
  export YUAN_CLUSTER=$YUAN_HOME/stack/cluster.yaml
  trap 'rm -f "$times"' EXIT
  echo "using the stack that runs in $YUAN_HOME"
else
  read -r YUAN_DEMO_{DATA,TRAINER,CONVERTER,INFERENCE,GATEWAY}_PORT < <(
    .venv/bin/python -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
print(*(one.getsockname()[1] for one in sockets))')
  export YUAN_DEMO_{DATA,TRAINER,CONVERTER,INFERENCE,GATEWAY}_PORT
  export YUAN_CLUSTER=configs/clusters/demo.yaml
  trap '$yuan down 9>&- || true; rm -f "$times"' EXIT
  $yuan up --detach 9>&-
fi
lap "stack up"
$yuan submit configs/pipelines/demo.yaml --watch
lap "pipeline: tokenizer, dataset, model"
$yuan deploy demo
lap "deploy"
for prompt in $'import os\nimport sys\n\ndef' $'class Parser:\n    """Reads a configuration file."""\n\n    def __init__(self' 'for name, value in sorted('; do
  printf '\n--- %s' "$prompt"
  $yuan generate "$prompt" --stream --max-tokens 48 --temperature 0.7 --top-k 40 --seed 1234
  echo
done
lap "three answers over gRPC"

echo
$yuan show model/demo --json | .venv/bin/python -c '
import json, sys
shown = json.load(sys.stdin)
summary = shown["manifest"]["summary"]
print("validation loss  {validation_loss_before:.3f} before, {validation_loss_after:.3f} after, nats per token".format(**summary))
print("a unigram model  {unigram_validation_loss:.3f}, which is {0:.3f} above it".format(
    summary["unigram_validation_loss"] - summary["validation_loss_after"], **summary))
print("loss curve      ", shown["path"] + "/loss_curve.png")'
echo
cat "$times"
cat <<'EOF2'

What to try next (source .venv/bin/activate first, or write .venv/bin/yuan):
  yuan up                                                           a stack of your own; in another terminal:
  yuan submit configs/jobs/pretrain-demo.yaml train.steps=600       a job on its queue; kill its worker, it goes on
  yuan jobs; yuan logs -f ID; yuan cancel ID; yuan resume ID 'topology.parallel.stages=[1,3]'
  yuan deploy demo; yuan chat                                       talk to the model
  yuan generate demo "import json" --stream                         without a stack: in the foreground
  cp configs/jobs/pretrain-demo.yaml mine.yaml                      a job of your own; README.md says how
EOF2
