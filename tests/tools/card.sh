#!/usr/bin/env bash
# Runs everything that a CUDA card can show of rnncore and prints one table of it; card.sh -h explains.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHON=${PYTHON:-python3}
if ! command -v "$PYTHON" > /dev/null; then
    echo "card.sh: there is no $PYTHON here: install Python 3.11 or later, or name one: PYTHON=... $0" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "card.sh: $PYTHON is older than Python 3.11: name a later one: PYTHON=... $0" >&2
    exit 1
fi
[[ $PYTHON != */* ]] || PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")  # parts run elsewhere
exec "$PYTHON" "$root/tests/tools/card.py" "$@"
