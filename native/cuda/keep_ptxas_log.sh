#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# keep_ptxas_log.sh COMPILER ARGS...: runs the compiler, keeps its messages as OBJECT.ptxas and shows only those that are
# not ptxas's figures.
set -uo pipefail
object='' previous=''
for argument in "$@"; do
  if [[ $previous == -o ]]; then object=$argument; fi
  previous=$argument
done
if [[ $object != *.o ]]; then exec "$@"; fi
"$@" 2>"$object.ptxas"
status=$?
grep -vE '^ptxas info|^ +[0-9]+ bytes (stack frame|cumulative)' "$object.ptxas" >&2
exit "$status"
