#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What nvcc made of the kernels: no spills, no local memory, and tensor-core pipelines where they are promised.
#
#   check_sass.sh BUILD_FOLDER     (has libstrata_cuda.so and, below it, what ptxas said: *.cu.o.ptxas)
set -euo pipefail
build=$1
library=$build/libstrata_cuda.so
cuobjdump=$(command -v cuobjdump || echo "${STRATA_CUDA:-/opt/cuda-12.4}/bin/cuobjdump")
problems=0
problem() { printf '%s\n' "$*" >&2; problems=$((problems + 1)); }

[[ -f $library ]] || { echo "check_sass: $library is not there, must be; build it with nvcc (./build.sh deps --cuda)" >&2; exit 1; }
[[ -x $cuobjdump ]] || { echo "check_sass: cuobjdump is not there, must be; it comes with nvcc (./build.sh deps --cuda)" >&2; exit 1; }

# Every compiled file has its log, and every kernel in it has neither stack nor spills.
kernels=0
while IFS= read -r object; do
  log=$object.ptxas
  if [[ ! -s $log ]] || ! grep -q 'Used [0-9]* registers' "$log"; then
    problem "$object has no ptxas log, must have one with register counts; build it again"
    continue
  fi
  kernels=$((kernels + $(grep -c 'Compiling entry function' "$log")))
  while IFS= read -r line; do problem "$(basename "$object" .o): $line; must be 0 everywhere: use fewer live values or constant array indices"; done < <(
    awk '/Function properties for/ { name = $NF } / bytes stack frame/ && !/ 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads/ { sub(/^ +/, ""); print name ": " $0 }' "$log")
done < <(find "$build" -path '*strata_cuda*.dir/*' -name '*.cu.o')
((kernels > 0)) || problem "no kernel was found in the logs below $build, must be some; build strata_cuda first"

# One line a function: arch, name, then the instructions of interest that it has.
sass=$("$cuobjdump" -sass "$library" | awk '
  function flush() { if (name != "") { line = arch " " name; for (i in seen) line = line " " i; print line } delete seen; name = "" }
  /code for sm_/ { flush(); arch = $NF }
  /Function :/ { flush(); name = $NF }
  match($0, /[ \t](LDL|STL|LDGSTS|LDSM|HMMA|HGMMA|IMMA)[ .]/) { seen[substr($0, RSTART + 1, RLENGTH - 2)] = 1 }
  END { flush() }')
functions=$(grep -c . <<<"$sass" || true)

while IFS= read -r line; do problem "$line reads or writes local memory, must not"; done < <(grep -E ' (LDL|STL)( |$)' <<<"$sass" || true)
while IFS= read -r line; do problem "$line is named after the tensor cores, must use them (HMMA or IMMA)"; done < <(
  awk '$2 ~ /mma/ && !/ (HMMA|IMMA)( |$)/' <<<"$sass")
while IFS= read -r line; do problem "$line is named after warpgroups, must use their products (HGMMA)"; done < <(
  awk '$2 ~ /warpgroup/ && !/ HGMMA( |$)/' <<<"$sass")
while IFS= read -r line; do problem "$line; must overlap: set operands before warpgroup_start and read results after the wait"; done < <(
  find "$build" -path '*strata_cuda*.dir/*' -name '*.cu.o.ptxas' -exec grep -h 'wgmma.mma_async instructions are serialized' {} + || true)

# Asynchronous copies, matrix loads and tensor cores, on both architectures.
for op in kv_attention qgemm bitstack; do
  for arch in sm_80 sm_90; do
    of_op=$(awk -v op="$op" -v arch="$arch" '$1 == arch && index($2, op)' <<<"$sass")
    [[ -n $of_op ]] || { problem "$op has no kernel for $arch, must have one"; continue; }
    for instruction in LDGSTS LDSM HMMA; do
      grep -qE " $instruction( |$)" <<<"$of_op" || problem "$op has no $instruction in any kernel for $arch, must have"
    done
  done
done

((problems == 0)) || exit 1
echo "check_sass: $functions functions of $kernels compiled kernels, no spills, no local memory" >&2
