#!/usr/bin/env bash
# Writes requirements.lock from what is installed in .venv: exact versions, no local build tags, not this project.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# Exact versions, installed by make and by every image. Written by make lock."
  .venv/bin/python -m pip freeze --exclude-editable --all | grep -vE '^(pip|yuan-stack)([ =@]|$)' | sed -E 's/\+cpu$//; s/ @ file:.*//'
} > requirements.lock
