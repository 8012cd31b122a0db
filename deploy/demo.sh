#!/usr/bin/env bash
# `make demo`: the whole path from text to generated text, then what to try next. Exits as `yuan run` does.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/yuan run configs/pipelines/demo.yaml
cat <<'EOF2'

What to try next (source .venv/bin/activate first, or write .venv/bin/yuan):
  yuan generate demo "import json" --stream                         ask the model yourself
  yuan show model/demo                                              what it was made from, and its loss curve
  yuan run configs/jobs/pretrain-demo.yaml train.steps=600          train longer; Ctrl-C and again: it goes on
  yuan run configs/jobs/pretrain-demo.yaml train.seed=7 'topology.parallel.stages=[1,3]'     divide it otherwise
  cp configs/jobs/pretrain-demo.yaml mine.yaml                      a job of your own; README.md says how
EOF2
