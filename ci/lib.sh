# Shared by the scripts of this directory: the project's virtual environment.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${PYRBD_VENV:-$root/.venv}

say() { printf '\n== %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo -n "$@"
  else echo "this step needs root or sudo: $*" >&2; return 1; fi
}

apt_install() {
  command -v apt-get >/dev/null || { echo "install $* with your package manager" >&2; return 1; }
  say "installing $*"
  # a fresh machine may be busy with its own updates
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  as_root "${apt[@]}" update >/dev/null
  as_root "${apt[@]}" install -y --no-install-recommends "$@" >/dev/null
}

# a Python of 3.10 or newer that can make virtual environments
find_python() {
  local p
  for p in ${PYRBD_PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
    if command -v "$p" >/dev/null &&
      "$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      echo "$p"
      return
    fi
  done
  return 1
}

find_or_install_python() {
  find_python && return
  apt_install python3 python3-venv >&2
  find_python || { echo "no Python 3.10 or newer with the venv module; PYRBD_PYTHON may name one" >&2; return 1; }
}

make_venv() {
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    local python
    python=$(find_or_install_python)
    say "making $venv with $("$python" --version)"
    local clear=()
    [ ! -f "$venv/pyvenv.cfg" ] || clear=(--clear) # one that broke, by an upgrade of Python perhaps
    "$python" -m venv "${clear[@]}" "$venv"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root[$1]"
}
