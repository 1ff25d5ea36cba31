# Sourced by serve, test and check: `root`, and `prepare PART` for a .venv that has what PART needs.

root=$(CDPATH='' cd -P -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd)

# Everything .venv was made from, as setup.py saved it in its last step (stamp_text there). A variable
# that is unset keeps what was chosen last, so that an older choice isn't undone by forgetting it.
is_ready() {
    stamp=$root/.venv/setup.$1
    [ -x "$root/.venv/bin/python" ] && [ -r "$stamp" ] || return 1
    { IFS= read -r _; IFS= read -r python; IFS= read -r backend; IFS= read -r cmake_args; } <"$stamp"
    {
        printf '%s\n' "$root" "${LOCALINFRA_PYTHON:-$python}" "${LOCALINFRA_BACKEND:-$backend}" \
            "${CMAKE_ARGS-$cmake_args}"
        cat "$root/pyproject.toml" "$root/scripts/setup.py" "$root/scripts/setup_choices.py" \
            "$root/scripts/setup_shell.py"
    } | cmp -s - "$stamp"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${LOCALINFRA_PYTHON:-}" ]; then
        new_enough "$LOCALINFRA_PYTHON" && printf '%s\n' "$LOCALINFRA_PYTHON" && return
        echo "LOCALINFRA_PYTHON=$LOCALINFRA_PYTHON is not a Python 3.11 or newer that runs." >&2
        return 1
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        new_enough "$candidate" && printf '%s\n' "$candidate" && return
    done
    cat >&2 <<'EOF'
localinfra needs Python 3.11 or newer, and no python3 here is. Install one:
  Debian, Ubuntu  sudo apt install python3 python3-venv      (Ubuntu 22.04: python3.11 python3.11-venv)
  Fedora          sudo dnf install python3.12
  macOS           brew install python@3.12
or name one: LOCALINFRA_PYTHON=/path/to/python3.12
EOF
    return 1
}

prepare() {
    is_ready "$1" && return
    python=$(find_python) || exit 1
    "$python" "$root/scripts/setup.py" "$1" || exit $?
}
