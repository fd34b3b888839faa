#!/bin/sh
# Writes scripts/requirements.txt from pyproject.toml: every package, transitive ones too, with hashes, no host named.
# Needs uv. For maintainers; setup.sh reads the result. --upgrade takes newer versions of what is pinned already.
# Known holes, at these versions: uvx pip-audit --strict --disable-pip --require-hashes -r scripts/requirements.txt
set -eu
cd "$(dirname "$0")/.."
uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-annotate --no-header --quiet ${1:-} --output-file scripts/requirements.txt
