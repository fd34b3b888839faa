#!/bin/sh
# Makes .venv with exactly the packages of scripts/requirements.txt and this project, and does nothing when it is there already.
# Uses uv where it is installed, else pip. Needs Python 3.11, 3.12 or 3.13; PYTHON=... names another than found here.
set -eu
cd "$(dirname "$0")/.."

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

if [ -z "${PYTHON:-}" ]; then
    for PYTHON in python3.11 python3.12 python3.13 python3 python none; do
        supported "$PYTHON" && break
    done
fi
if ! supported "$PYTHON"; then
    echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or name it: PYTHON=/path/to/python sh scripts/setup.sh" >&2
    exit 2
fi

stamp=.venv/installed-requirements.txt # a copy of what was installed, written last
if [ -x .venv/bin/python ] && cmp -s scripts/requirements.txt "$stamp"; then
    exit 0
fi
if command -v uv >/dev/null 2>&1; then
    [ -x .venv/bin/python ] || uv venv --quiet --python "$PYTHON" .venv
    # Bytecode as pip makes it: where Python may not write any, each process spends half of its start on compiling torch.
    uv pip sync --compile-bytecode --python .venv/bin/python --require-hashes scripts/requirements.txt
    uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
else
    [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
    .venv/bin/python -m pip install --require-hashes --no-deps -r scripts/requirements.txt
    .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
fi
cp scripts/requirements.txt "$stamp"
