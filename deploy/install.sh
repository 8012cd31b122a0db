#!/usr/bin/env bash
# Makes .venv with the locked dependencies and `yuan` in it. `make install` calls it.
#   PYTHON   the interpreter to use (default python3.11)
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS …) decide where packages come from; on a machine
# without a GPU an index with CPU builds of torch saves a download of several GB.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { printf 'make install: %s\n' "$*" >&2; exit 1; }

python=${PYTHON:-python3.11}
if ! command -v "$python" >/dev/null; then
  # A Python 3.11 under another name (python3 of Debian 12, a version manager's shim) is as good.
  for other in python3 python; do
    if "$other" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then python=$other; break; fi
  done
fi
missing=()
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || missing+=(python3.11)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3.11-venv)
if ((${#missing[@]})); then
  command="apt-get install -y ${missing[*]}"
  if [[ $(id -u) != 0 ]]; then fail "missing system packages: sudo $command"; fi
  command -v apt-get >/dev/null || fail "missing: ${missing[*]}; install them with this system's package manager"
  echo "make install: $command"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive $command >/dev/null; } || fail "could not install: $command"
  command -v "$python" >/dev/null || python=python3.11
fi

[[ -x .venv/bin/python ]] || "$python" -m venv .venv || fail "could not make .venv with $python"
pip=(.venv/bin/python -m pip --disable-pip-version-check)
echo "make install: installing the locked dependencies into .venv (a few minutes the first time)"
log=.venv/install.log
# setuptools first: DeepSpeed is built from source, and a bare environment has an older one than its build asks for.
if ! { "${pip[@]}" install -c requirements.lock setuptools wheel &&
       "${pip[@]}" install -c requirements.lock -e '.[data,trainer,converter,evaluator,inference,gateway,tracing,dev]'; } >"$log" 2>&1; then
  tail -n 15 "$log" >&2
  fail "pip could not install the dependencies (whole log: $log)"
fi
touch .venv/installed
echo "make install: done; .venv/bin/yuan is ready"
