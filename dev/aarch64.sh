#!/usr/bin/env bash
# The C tests built for aarch64 and run under an emulator: a smoke test of the other
# architecture's double-word swap and memory orders (an emulator on x86 hides weak ones).
# The cross compiler and qemu are installed where we may, and named where not.
set -euo pipefail
cd "$(dirname "$0")/.."

packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
if ! command -v aarch64-linux-gnu-gcc >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        # shellcheck disable=SC2086  # a list of words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
    else
        echo "uslub: the aarch64 smoke test needs: sudo apt-get install $packages" >&2
        exit 1
    fi
fi

out=build/aarch64
mkdir -p "$out"
engine=$(python3 dev/sources.py code libuslub | sed 's|^|libuslub/|')
for test in $(find libuslub -name '*_test.c' | sort); do
    program=$out/$(basename "$test" .c)
    # shellcheck disable=SC2086
    aarch64-linux-gnu-gcc -std=c11 -D_GNU_SOURCE -O2 -static -Wall -Wextra -Werror \
        -DUS_DEBUG_CHECKS=1 -DUS_EMULATED -Ilibuslub -Ilibuslub/include $engine "$test" -o "$program" -pthread
    timeout 300 qemu-aarch64 "$program"
    echo "aarch64: $(basename "$test" .c) passed"
done
