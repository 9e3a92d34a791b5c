#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every op has its line, its folder and all of its files; nothing is half there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
problems=0
problem() { printf '%s\n' "$*" >&2; problems=$((problems + 1)); }

declare -A type_of
while read -r op type; do type_of[$op]=$type; done < <(sed -nE 's/^OP\((\w+), *(\w+)\).*/\1 \2/p' native/ops/ops.def)
mapfile -t listed < <(printf '%s\n' "${!type_of[@]}" | sort)
mapfile -t folders < <(find native/ops -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort)
((${#listed[@]})) || problem 'native/ops/ops.def lists no op'

for op in "${listed[@]}"; do
  [[ -d native/ops/$op ]] || { problem "ops.def lists $op, which has no folder native/ops/$op"; continue; }
  for file in README.md "$op.h" "$op.cpp" "${op}_cpu.cpp" "${op}_sm80.cu" cases.inc; do
    [[ -s native/ops/$op/$file ]] || problem "native/ops/$op/$file is missing"
  done
  for verb in supported workspace run; do
    grep -q "strata_${op}_$verb(" native/include/strata/strata.h || problem "strata.h does not declare strata_${op}_$verb"
  done
  type=${type_of[$op]}
  for file in "src/Strata/Ops/$type.cs" "src/Strata.Reference/${type}Reference.cs" "tests/Strata.Tests/Ops/${type}Tests.cs"; do
    [[ -s $file ]] || problem "$file is missing"
  done
done
for folder in "${folders[@]}"; do
  printf '%s\n' "${listed[@]}" | grep -qx "$folder" || problem "native/ops/$folder has no line in ops.def"
done

# A kernel that grows past this is two kernels. The ABI is one file, whatever its length.
while read -r lines file; do
  [[ $file == total || $file == native/include/strata/strata.h ]] || ((lines <= 600)) || problem "$file has $lines lines; split it"
done < <(git ls-files 'native/*.cpp' 'native/*.h' 'native/*.cu' 'native/*.cuh' 'src/*.cs' 'bindings/Strata.BindGen/*.cs' 'bench/*.cs' | xargs wc -l)

((problems == 0))
