#!/usr/bin/env bash
# Build wheel and sdist, check their metadata, install the wheel into a new environment and run commands there.
#
#   tools/check_wheel.sh DIR            only with the packages that help, `recipes` and `new` import: a minute
#   tools/check_wheel.sh DIR --full     with all dependencies, and trains two updates
#   PYTHON=python3.13 tools/check_wheel.sh DIR
#
# DIR must be new. It gets dist/ (wheel and sdist) and the environments tools/ and fresh/.
set -euo pipefail
usage="usage: [PYTHON=python3.x] tools/check_wheel.sh DIR [--full]"
[ $# -ge 1 ] || { echo "$usage" >&2; exit 2; }
[ ! -e "$1" ] || { echo "$1 exists already; name a new folder" >&2; exit 2; }
root="$(cd "$(dirname "$0")/.." && pwd)"
mkdir -p "$1"
dir="$(cd "$1" && pwd)"
python="${PYTHON:-python3}"

"$python" -m venv "$dir/tools"
"$dir/tools/bin/pip" install --quiet build twine
"$dir/tools/bin/python" -m build --outdir "$dir/dist" "$root" >"$dir/build.log"
"$dir/tools/bin/twine" check --strict "$dir"/dist/*

"$python" -m venv "$dir/fresh"
wheel=("$dir"/dist/*.whl)
if [ "${2:-}" = --full ]; then
    "$dir/fresh/bin/pip" install --quiet --constraint "$root/constraints.txt" "${wheel[0]}"
else
    "$dir/fresh/bin/pip" install --quiet --no-deps "${wheel[0]}"
    "$dir/fresh/bin/pip" install --quiet --constraint "$root/constraints.txt" typer rich pydantic tomli-w \
        mpmath safetensors
fi

# Without the source tree, and without what the user's environment adds.
unset PYTHONPATH
mkdir "$dir/work"
cd "$dir/work"
rethink="$dir/fresh/bin/rethink"
"$rethink" --version
"$rethink" --help >/dev/null
"$rethink" recipes
"$rethink" recipes demo-grpo >copy.toml
printf 'question,answer\n1 + 1?,2\n2 + 2?,4\n3 + 3?,6\n' >problems.csv
"$rethink" new mine --data problems.csv
if [ "${2:-}" = --full ]; then
    "$dir/fresh/bin/python" -m pip check
    "$rethink" train copy.toml --dry-run >/dev/null
    "$rethink" train copy.toml out=run updates=2 evaluation.problems.limit=7
fi
echo "ok: $("$dir/fresh/bin/python" --version), $(basename "${wheel[0]}")"
