# Sourced by serve, test and check: sets `root`; `prepare PART` makes a .venv with what PART needs.

root=$(CDPATH='' cd -P -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd)

# Whether .venv was made from the current inputs, which setup.py saved last (stamp_text there). An unset
# variable means the previous choice, so that forgetting it doesn't undo that.
is_ready() {
    stamp=$root/.venv/setup.$1
    [ -x "$root/.venv/bin/python" ] && [ -r "$stamp" ] || return 1
    { IFS= read -r _; IFS= read -r python; IFS= read -r backend; IFS= read -r cmake_args; } <"$stamp"
    {
        printf '%s\n' "$root" "${LOCALINFRA_PYTHON:-$python}" "${LOCALINFRA_BACKEND:-$backend}" \
            "${CMAKE_ARGS-$cmake_args}"
        cat "$root/pyproject.toml" "$root/scripts/tested.txt" "$root/scripts/setup.py" \
            "$root/scripts/setup_choices.py" "$root/scripts/setup_shell.py" "$root/localinfra/llama_builds.py" \
            "$root/localinfra/llama_parts.cmake"
    } | cmp -s - "$stamp"
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${LOCALINFRA_PYTHON:-}" ]; then
        new_enough "$LOCALINFRA_PYTHON" && printf '%s\n' "$LOCALINFRA_PYTHON" && return
        echo "LOCALINFRA_PYTHON=$LOCALINFRA_PYTHON is not a working Python 3.11 or newer." >&2
        return 1
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        new_enough "$candidate" && printf '%s\n' "$candidate" && return
    done
    cat >&2 <<'EOF'
localinfra needs Python 3.11 or newer, and found none. Install one:
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
    # Or the first start would do it, half a second later for that.
    "$root/.venv/bin/python" -m compileall -q "$root/localinfra" || true
}
