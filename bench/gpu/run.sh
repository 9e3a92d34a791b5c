#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything there is to learn from a GPU, in one command of nine minutes.
#
#   run.sh             on a machine with a GPU: build, ceilings, correctness, sanitizers, sweep, profile; the table comes last
#   run.sh --dry-run [--no-build]   the same without a GPU: the library's simt and cpu devices, small shapes, stand-ins for what is missing;
#                      --no-build leaves out the library's build with nvcc
#   run.sh --prepare   puts what has to travel to such a machine into build/gpu/shipped and prints its size
#   run.sh --keep DIR  files the report of a finished run (DIR/report.json) under bench/results/
#
# Results go to $OUT, or to build/gpu/out (build/gpu/dry-run). $STRATA_PYTHON names a Python with NumPy; on a GPU also with PyTorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ROOT=$PWD
STRATA_BUILD=${STRATA_BUILD:-$ROOT/build}
case $STRATA_BUILD in /*) ;; *) STRATA_BUILD=$ROOT/$STRATA_BUILD ;; esac
NATIVE=$STRATA_BUILD/native
WORK=$STRATA_BUILD/gpu
SHIPPED=$WORK/shipped
HOST=$WORK/host
WHOLE=540 # seconds; what a phase may take is cut to what is left of it
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

find_python() {
  local candidate
  for candidate in ${STRATA_PYTHON:+"$STRATA_PYTHON"} python3 /usr/bin/python3; do
    if "$candidate" -c "import numpy$1" 2>/dev/null; then
      PYTHON=$candidate
      return 0
    fi
  done
  die "gpu: no Python here has NumPy${1:+ and PyTorch}, must have; install python3-numpy (./build.sh deps does), or name one in STRATA_PYTHON"
}

find_nvcc() {
  local candidate
  for candidate in ${STRATA_CUDA:+"$STRATA_CUDA/bin/nvcc"} "$(command -v nvcc || true)" /opt/cuda-12.4/bin/nvcc /usr/local/cuda/bin/nvcc; do
    if [[ -x $candidate ]]; then
      NVCC=$candidate
      return 0
    fi
  done
  return 1
}

# ---------------------------------------------------------------- phases

STATUS=0

# phase NAME SECONDS FUNCTION...: into the log, within its time; a phase that fails does not end the run.
phase() {
  local name=$1 limit=$2 start=$SECONDS status=0 word left=$((WHOLE - SECONDS - 8))
  shift 2
  ((limit > left)) && limit=$left
  if ((limit < 2)); then
    measure note "$name" 'no time left' 0
    say "$name: no time left"
    STATUS=1
    return 0
  fi
  printf '\n== %s\n' "$name" >>"$OUT/log.txt"
  in_time "$limit" "$@" >>"$OUT/log.txt" 2>&1 || status=$?
  case $status in
    0) word=ok ;;
    75) word='not there' ;;
    124 | 137)
      word='out of time'
      # Tools that slow everything down may end early; what has to be known may not.
      case $name in *check | profile) ;; *) STATUS=1 ;; esac
      ;;
    *) word="FAILED ($status)"; STATUS=1 ;;
  esac
  measure note "$name" "$word" $((SECONDS - start))
  say "$name: $word after $((SECONDS - start)) s"
}

# in_time SECONDS FUNCTION...: a function of this script under timeout, in a shell of its own.
in_time() {
  local limit=$1
  shift
  (
    export -f "${FUNCTIONS[@]}"
    export ROOT WORK SHIPPED HOST NVCC ARCHITECTURE PYTHON OUT DEVICE LIBRARY DRY
    exec timeout --kill-after=3 "$limit" bash -euo pipefail -c '"$@"' _ "$@"
  )
}

# measure ARGUMENTS...: measure.py on the device and library at hand.
measure() { under -- "$@"; }

# under TOOL OPTIONS... -- ARGUMENTS...: the same with a tool in front.
under() {
  local tool=()
  while [[ $1 != -- ]]; do tool+=("$1"); shift; done
  shift
  "${tool[@]}" "$PYTHON" "$ROOT/bench/gpu/measure.py" --out "$OUT" --library "$LIBRARY" --device "$DEVICE" ${DRY:+--dry-run} "$@"
}

build_probes() {
  [[ -n $NVCC ]] || { echo 'probes: nvcc is not there'; return 75; }
  "$NVCC" -O3 -std=c++17 -gencode "arch=compute_$ARCHITECTURE,code=sm_$ARCHITECTURE" -o "$WORK/probes" "$ROOT/bench/gpu/probes.cu"
}

# The library as this machine's own nvcc makes it.
build_library() {
  [[ -n $NVCC ]] || { echo 'build: nvcc is not there'; return 75; }
  local targets=(strata_cuda)
  [[ -f $SHIPPED/libstrata.so ]] || targets+=(strata)
  CUDACXX=$NVCC cmake -S "$ROOT" -B "$HOST" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES="$ARCHITECTURE-real" -DSTRATA_STRICT=OFF \
    -DSTRATA_SIMT=OFF -DSTRATA_TESTS=OFF
  cmake --build "$HOST" --target "${targets[@]}"
  if [[ -f $SHIPPED/libstrata.so ]]; then cp "$SHIPPED/libstrata.so" "$HOST/"; fi
  ls -l "$HOST"/*.so "$SHIPPED"/*.so 2>/dev/null || true
}

# sanitized TOOL: the smallest cases under one of compute-sanitizer's tools; in a dry run without it.
sanitized() {
  local tool=$1 options=(--tool "$1" --error-exitcode 9 --print-limit 20) status=0
  [[ $tool != memcheck ]] || options+=(--leak-check full --padding 64)
  if command -v compute-sanitizer >/dev/null; then
    printf '\n== %s\n' "$tool" >>"$OUT/sanitizer.txt"
    under compute-sanitizer "${options[@]}" -- correctness --tiny --label "$tool" >>"$OUT/sanitizer.txt" 2>&1 || status=$?
    sed -n "/^== $tool\$/,\$p" "$OUT/sanitizer.txt" | grep -E 'SUMMARY|FAILED' || true
    return "$status"
  fi
  echo 'sanitizer: compute-sanitizer is not there'
  [[ -n $DRY ]] || return 75
  measure correctness --tiny --label "$tool (plain)"
}

# What the rows furthest from their goals do with their time.
profiled() {
  local row profiler=()
  if command -v ncu >/dev/null; then
    profiler=(timeout 25 ncu --clock-control none --profile-from-start off --launch-count 2 --section SpeedOfLight --section MemoryWorkloadAnalysis
      --section SchedulerStats --section WarpStateStats)
  else
    echo 'profile: ncu is not there'
    [[ -n $DRY ]] || return 75
  fi
  while IFS= read -r row; do
    printf '\n== %s\n' "$row" >>"$OUT/ncu.txt"
    under "${profiler[@]}" -- once "$row" >>"$OUT/ncu.txt" 2>&1 || echo "profile: $row ended with $?"
  done < <(measure worst --count 3)
}

FUNCTIONS=(measure under build_probes build_library sanitized profiled loads_here)

start() {
  mkdir -p "$WORK" "$OUT"
  rm -f "$OUT"/{report.json,log.txt,sanitizer.txt,ncu.txt}
  NVCC=''
  find_nvcc || true
  ARCHITECTURE=90
  if command -v nvidia-smi >/dev/null; then ARCHITECTURE=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .); fi
  # Whatever ends the run, what was measured is printed.
  trap 'measure table' EXIT
}

finish() {
  trap - EXIT
  measure table || STATUS=1
  exit "$STATUS"
}

on_gpu() {
  OUT=${OUT:-$WORK/out} DRY='' DEVICE=cuda:0 LIBRARY=$SHIPPED
  find_python ', torch'
  start
  local tool shipped=1
  # The shipped library is what is measured; without one that opens the GPU, the one made here.
  if ! measure environment >>"$OUT/log.txt" 2>&1; then
    shipped=0 LIBRARY=$HOST
    say "the shipped library does not open $DEVICE here: $(tail -n 1 "$OUT/log.txt")"
  fi
  phase probes 20 build_probes
  phase build 60 build_library
  if ((!shipped)); then phase environment 30 measure environment; fi
  phase ceilings 30 measure ceilings
  if ((shipped)); then phase 'correctness, shipped' 45 measure correctness --label shipped; fi
  LIBRARY=$HOST
  phase 'correctness, built here' 45 measure correctness --label 'built here'
  for tool in memcheck racecheck initcheck synccheck; do phase "$tool" 25 sanitized "$tool"; done
  if ((shipped)); then LIBRARY=$SHIPPED; fi
  phase sweep 175 measure sweep --seconds 160
  phase profile 60 profiled
  finish
}

dry_run() {
  # A machine without a GPU is nobody's by the minute, but it may be busy.
  OUT=${OUT:-$WORK/dry-run} DRY=1 DEVICE=simt LIBRARY=$NATIVE WHOLE=1500
  find_python ''
  start
  local tool
  [[ -f $NATIVE/libstrata_simt.so ]] || die "gpu: $NATIVE has no libstrata_simt.so, must have; run ./build.sh build"
  if [[ -f $NATIVE/libstrata_cuda.so ]]; then prepare >>"$OUT/log.txt" 2>&1; fi
  phase environment 120 measure environment
  phase probes 200 build_probes
  if [[ $1 != --no-build ]]; then
    phase build 900 build_library
    phase 'library, built here' 60 loads_here
  fi
  phase ceilings 120 measure ceilings
  phase 'correctness, simt' 400 measure correctness --label shipped
  DEVICE=cpu
  phase 'correctness, cpu' 200 measure correctness --label shipped --sensitivity
  DEVICE=simt
  for tool in memcheck racecheck; do phase "$tool" 100 sanitized "$tool"; done
  phase sweep 500 measure sweep --seconds 450
  phase profile 200 profiled
  finish
}

# What was built here loads, and says itself that the GPU is what is missing.
loads_here() {
  [[ -f $HOST/libstrata_cuda.so ]] || { echo 'library: it was not built here'; return 75; }
  local sentence
  sentence=$("$PYTHON" "$ROOT/bench/gpu/measure.py" --out "$OUT" --library "$HOST" --device cuda:0 correctness --tiny 2>&1) && return 0
  printf '%s\n' "$sentence"
  grep -qE '^cuda: (no NVIDIA driver|the NVIDIA driver|the driver)' <<<"$sentence"
}

# ---------------------------------------------------------------- what travels, what stays

prepare() {
  local library
  [[ -f $NATIVE/libstrata_cuda.so ]] || die "gpu: $NATIVE has no libstrata_cuda.so, must have; run ./build.sh deps --cuda and ./build.sh build"
  mkdir -p "$SHIPPED"
  for library in libstrata libstrata_cuda; do strip --strip-unneeded -o "$SHIPPED/$library.so" "$NATIVE/$library.so"; done
  git rev-parse --short=12 HEAD >"$SHIPPED/commit"
  (cd "$SHIPPED" && stat --printf '%n  %s bytes\n' -- *.so)
  printf 'tree without ignored files: %s\n' "$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb 2>/dev/null | tail -n 1 | cut -f 1) bytes"
  printf 'carry %s beside the tree: git ignores it\n' "${SHIPPED#"$ROOT/"}"
}

keep() {
  local document=$1/report.json name date folder
  [[ -f $document ]] || die "gpu: $document does not exist, must be a finished run's report; pass the folder that the run wrote to"
  if jq -e .dry_run "$document" >/dev/null; then die "gpu: $document is of a dry run, must be of a GPU; its figures mean nothing"; fi
  name=$(jq -r .machine.name "$document") date=$(jq -r .machine.date "$document")
  folder=bench/results/$(tr '[:upper:]' '[:lower:]' <<<"$name" | sed -E 's/[^a-z0-9]+/-/g; s/^-|-$//g')
  mkdir -p "$folder"
  cp "$document" "$folder/$date.json"
  printf 'wrote %s; bench/figures.sh brings it into the READMEs\n' "$folder/$date.json"
}

case ${1:-} in
  '') on_gpu ;;
  --dry-run) dry_run "${2:-}" ;;
  --prepare) prepare ;;
  --keep) keep "${2:-}" ;;
  *) sed -n '3,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
