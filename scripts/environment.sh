# Sourced by the other scripts: `environment [EXTRA]` makes .venv, installs this checkout
# into it with its dependencies, and activates it. Needs Python 3.11+ with venv and pip;
# PYTHON chooses the interpreter. Ready in no time while pyproject.toml is unchanged.

environment() {
  local extra=${1:-} python mark
  python=$(find_python) || return 1
  mark=.venv/installed${extra:+-$extra}
  # Each step says itself that it failed: in a condition, `set -e` does not hold.
  if ! cmp -s pyproject.toml "$mark" || ! same_python "$python"; then
    same_python "$python" || rm -rf .venv
    echo "Installing jaxllm${extra:+[$extra]} into .venv: about two minutes the first time."
    "$python" -m venv .venv || return 1
    # Editable, so that .venv always runs the code of this checkout.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --editable ".${extra:+[$extra]}" || return 1
    cp pyproject.toml "$mark"
  fi
  . .venv/bin/activate
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>&-; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11 or newer with venv; set PYTHON to one" >&2
  return 1
}

same_python() {
  [ -x .venv/bin/python ] && [ "$(version_of .venv/bin/python)" = "$(version_of "$1")" ]
}

version_of() {
  "$1" -c 'import sys; print(sys.version_info[:2])'
}
