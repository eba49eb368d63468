#!/usr/bin/env bash
# From a fresh clone to a working .venv, one step per call; the Makefile decides which
# steps are due. Everything it installs with pip stays inside the virtual environment.
#
#   dev/bootstrap.sh venv            compiler, headers and venv module are there (or are
#                                    installed with apt-get, or named); .venv exists
#   dev/bootstrap.sh deps NAME       .venv holds requirements/NAME.txt
#   dev/bootstrap.sh install         uslub is built and installed in .venv
#   dev/bootstrap.sh install-debug   the same with debug checks, in build/debug-site
#   dev/bootstrap.sh ctest NAME ...  the C tests in build/NAME, with these Meson options
#   dev/bootstrap.sh chaos           of build/test, only what `make chaos` runs
#
# Environment: PYTHON (python3), VENV (.venv), CC (cc), WERROR (false).
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
WERROR=${WERROR:-false}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf 'uslub: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# --- what the system must have ---------------------------------------------------

missing=() # Debian packages
reasons=()

lacks() { # PACKAGES REASON
    # shellcheck disable=SC2206  # several packages in one word list
    missing+=($1)
    reasons+=("$2")
}

compiler_works() {
    local dir status=0
    dir=$(mktemp -d)
    printf '#include <stdio.h>\nint main(void) { return 0; }\n' >"$dir/probe.c"
    "${CC:-cc}" -o "$dir/probe" "$dir/probe.c" >/dev/null 2>&1 || status=1
    rm -rf "$dir"
    return $status
}

python_says() { "$PYTHON" -c "$1" 2>/dev/null; }

# True only for a whole ensurepip: Debian splits it off into pythonX.Y-venv.
venv_works() { python_says 'import venv, ensurepip; ensurepip.version()' >/dev/null; }
headers_exist() {
    [ -f "$(python_says 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]
}
is_debian_python() { [ "$(python_says 'import sys; print(sys.base_prefix)')" = /usr ]; }

find_missing() {
    missing=()
    reasons=()
    compiler_works || lacks "gcc libc6-dev" "a C compiler (tried '${CC:-cc}')"
    if ! command -v "$PYTHON" >/dev/null; then
        [ "$PYTHON" = python3 ] || die "no such Python: '$PYTHON'"
        lacks "python3 python3-venv python3-dev" "Python 3.10 or newer"
        return
    fi
    python_says 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "'$PYTHON' is $("$PYTHON" --version 2>&1); 3.10 or newer is needed:" \
            "make PYTHON=/path/to/python3.11"
    local debian
    debian=python$(python_says 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! headers_exist; then
        is_debian_python || die "'$PYTHON' comes without Python.h; choose another one:" \
            "make PYTHON=/usr/bin/python3"
        lacks "$debian-dev" "the headers of Python (Python.h)"
    fi
    if ! venv_works && is_debian_python; then
        lacks "$debian-venv" "the venv module of Python (ensurepip)"
    fi
}

may_apt() { # as root, or by a sudo that asks nothing
    command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }
}

apt() {
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get \
        -qq -o DPkg::Lock::Timeout=120 "$@" </dev/null >/dev/null
}

provide_system() {
    find_missing
    [ ${#missing[@]} -gt 0 ] || return 0
    if may_apt; then
        say "installing ${missing[*]}"
        apt update || true # what apt knows already may do
        apt install --no-install-recommends -y "${missing[@]}" || true
        find_missing
        [ ${#missing[@]} -gt 0 ] || return 0
    fi
    # A virtualenv fetched by pip can stand in for the venv module, and for that alone.
    if [[ ${#missing[@]} -eq 1 && ${missing[0]} == *-venv ]] &&
        "$PYTHON" -m pip --version >/dev/null 2>&1; then
        say "no ${missing[0]}: using virtualenv from pip instead"
        return 0
    fi
    say "this system lacks $(printf '%s; ' "${reasons[@]}")please run"
    die "  sudo apt-get update && sudo apt-get install -y ${missing[*]}"
}

# --- the virtual environment -----------------------------------------------------

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null || echo none; }

make_venv() {
    provide_system
    if [ "$(version_of "$PYTHON")" != "$(version_of "$VENV/bin/python")" ]; then
        say "making $VENV with $("$PYTHON" --version)"
        rm -rf "$VENV"
        if venv_works; then
            "$PYTHON" -m venv "$VENV"
        else
            mkdir -p build
            "$PYTHON" -m pip install -qq --upgrade --target build/virtualenv \
                -c requirements/pins.txt virtualenv
            PYTHONPATH=build/virtualenv "$PYTHON" -m virtualenv --quiet "$VENV"
        fi
    fi
    install_deps build
}

install_deps() {
    say "installing requirements/$1.txt"
    "$VENV/bin/python" -m pip install -qq -r "requirements/$1.txt"
}

# --- building --------------------------------------------------------------------

in_venv() { PATH="$(cd "$VENV/bin" && pwd):$PATH" "$@"; }

install_uslub() { # BUILD_DIR PIP_AND_MESON_OPTIONS...
    local build_dir
    build_dir=$1-$("$VENV/bin/python" -c 'import sys; print(sys.implementation.cache_tag)')
    shift
    in_venv python -m pip install -qq --no-build-isolation --no-deps \
        --force-reinstall -Cbuild-dir="$build_dir" \
        -Csetup-args=-Dwerror="$WERROR" "$@" .
}

configure_ctest() { # NAME MESON_OPTIONS...
    local dir=build/$1 again=()
    shift
    [ ! -f "$dir/build.ninja" ] || again=(--reconfigure)
    in_venv meson setup "${again[@]}" -Dbinding=false "$@" "$dir" >"build/.setup.log" ||
        { cat "build/.setup.log" >&2; exit 1; }
}

run_ctest() { # NAME MESON_OPTIONS...
    local dir=build/$1 run=()
    configure_ctest "$@"
    # ThreadSanitizer of gcc 12 cannot place its shadow under high-entropy ASLR.
    if [ "$(uname -m)" = x86_64 ] && setarch x86_64 -R true 2>/dev/null; then
        run=(setarch x86_64 -R)
    fi
    in_venv ninja -C "$dir" --quiet all meson-test-prereq
    in_venv "${run[@]}" meson test -C "$dir" --no-rebuild --print-errorlogs
}

# Two makes in one checkout take turns.
mkdir -p build
exec 9>build/.lock
flock 9

case ${1:-} in
venv) make_venv ;;
deps) install_deps "$2" ;;
install) install_uslub build/wheel ;;
install-debug)
    install_uslub build/debug-wheel -Csetup-args=-Ddebug_checks=true \
        --target build/debug-site --upgrade
    ;;
ctest) shift; run_ctest "$@" ;;
chaos)
    configure_ctest test -Ddebug_checks=true -Dwerror="$WERROR"
    in_venv ninja -C build/test --quiet libuslub/chaos-worker libuslub/libchaos-oracle.so
    ;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
