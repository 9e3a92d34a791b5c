#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What leaves and what enters the shipped libraries: exports, imports that could end or write from a host process, and the C library floor.
#
#   check_exports.sh BUILD_FOLDER
set -euo pipefail
build=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
problems=0
problem() { printf '%s\n' "$*" >&2; problems=$((problems + 1)); }

# Anything that ends the process or writes to its terminal. (snprintf into a buffer is fine.)
forbidden='abort|_?exit|_Exit|quick_exit|printf|vprintf|fprintf|vfprintf|dprintf|puts|fputs|putchar|perror|__printf_chk|__fprintf_chk|__assert_fail|_ZSt4cout|_ZSt4cerr|_ZSt4clog'

exports() { nm -D --defined-only "$1" | awk '$2 ~ /^[TDBRVWi]$/ { sub(/@.*/, "", $3); print $3 }' | sort -u; }
imports() { nm -D --undefined-only "$1" | awk '{ sub(/@.*/, "", $NF); print $NF }' | sort -u; }

wanted=$(sed -n 's/^    \(strata_[a-z0-9_]*\);$/\1/p' "$here/abi/strata.symbols" | sort)
if ! difference=$(diff <(echo "$wanted") <(exports "$build/libstrata.so" | grep -v '^STRATA_[0-9]')); then
  problem "libstrata.so does not export what strata.h declares (< only in the header, > only in the library):"$'\n'"$difference"
fi

for name in libstrata libstrata_simt; do
  library=$build/$name.so
  [[ -f $library ]] || continue
  if bad=$(imports "$library" | grep -xE "$forbidden"); then problem "$name.so calls ${bad//$'\n'/ }; a library never ends the process or writes to its terminal"; fi
done

# The static CUDA runtime brings its own imports; of the plug-in, our objects are looked at.
if [[ -f $build/libstrata_cuda.so ]]; then
  while IFS= read -r object; do
    if bad=$(nm --undefined-only "$object" | awk '{ print $NF }' | grep -xE "$forbidden"); then problem "$object calls ${bad//$'\n'/ }"; fi
  done < <(find "$build" -path '*strata_cuda.dir*' -name '*.o')
fi

# newest LIBRARY PREFIX: the newest symbol version of that family which the library needs.
newest() { objdump -T "$1" | grep -oE "$2_[0-9]+(\.[0-9]+)+" | sed "s/$2_//" | sort -V | tail -n 1; }
ceiling() {
  local library=$1 family=$2 limit=$3 found
  found=$(newest "$library" "$family")
  if [[ -n $found && $(printf '%s\n%s\n' "$found" "$limit" | sort -V | tail -n 1) != "$limit" ]]; then
    problem "$(basename "$library") needs ${family}_$found ($(objdump -T "$library" | grep "${family}_$found" | awk '{ print $NF }' | head -n 4 | tr '\n' ' ')), must not need more than $limit; link libstdc++ dynamically and avoid the newer function"
  fi
}
ceiling "$build/libstrata.so" GLIBC 2.28
ceiling "$build/libstrata.so" GLIBCXX 3.4.22
if [[ -f $build/libstrata_cuda.so ]]; then ceiling "$build/libstrata_cuda.so" GLIBC 2.34; fi

((problems == 0))
