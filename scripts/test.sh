#!/usr/bin/env bash
# A virtual environment of its own in .venv with the package, and the tests in it.
#
#   scripts/test.sh [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
python3 -m venv .venv
.venv/bin/pip install -q torch==2.13.0
.venv/bin/pip install -q -e '.[dev]'
.venv/bin/pytest -n 2 "$@"
