#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every verb of the project. Each one does what it needs first, so each works as the first command on a fresh clone.
set -euo pipefail
CALLER=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
ROOT=$PWD
export STRATA_BUILD=${STRATA_BUILD:-$ROOT/build}
case $STRATA_BUILD in /*) ;; *) STRATA_BUILD=$ROOT/$STRATA_BUILD ;; esac
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1 DOTNET_CLI_UI_LANGUAGE=en MSBUILDDISABLENODEREUSE=1
NATIVE=$STRATA_BUILD/native
MANAGED=$STRATA_BUILD/dotnet
LOGS=$STRATA_BUILD/logs
JOBS=${STRATA_JOBS:-$(nproc)}
PACKAGES=(g++ cmake ninja-build ccache castxml clang-format clang-tidy libgtest-dev pkg-config git binutils jq ca-certificates python3 python3-numpy)

usage() {
  cat <<'T'
./build.sh VERB

  deps [--cuda]     install what Debian 12 lacks (--cuda adds nvcc 12.4; no GPU is needed to compile)
  gen [--check]     write bindings, layout tests and the ABI record from strata.h, or compare them
  build             native libraries and managed assemblies
  test [FILTER]     all tests, or those whose name contains FILTER (then without the sanitizer builds)
  check             format, analyzers, bindings, exports, op folders, machine code of the CUDA kernels
  run [MODEL]       the library at work: verify, bench --quick, and a generation with a full and with a quarter cache
  strata ARGS...    the tool, built if need be; ./build.sh strata --help
  bench [ARGS...]   strata bench
  pack              NuGet packages into the build folder, tried out in a fresh application

Output goes to build/ or to $STRATA_BUILD. $STRATA_CUDA names the CUDA 12.4 toolkit, $STRATA_SHARED the golden data, $STRATA_MODEL a model.
T
}

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# step NAME COMMAND...: runs quietly into a log; shows that it is alive; on failure shows what matters of the log.
step() {
  local name=$1 log start=$SECONDS status=0
  shift
  mkdir -p "$LOGS"
  log=$LOGS/${name//[^a-zA-Z0-9_-]/-}.log
  "$@" >"$log" 2>&1 &
  local pid=$! shown=0
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - start >= shown + 20)); then
      shown=$((SECONDS - start))
      say "  $name: $shown s: $(tail -n 1 "$log" | cut -c1-110)"
    fi
  done
  wait "$pid" || status=$?
  if ((status)); then
    say "$name failed after $((SECONDS - start)) s; the whole log is $log"
    if ! grep -hE '(: error|error:|Error:|FAILED:|^CMake Error|^E: )' "$log" | sort -u | head -n 30 >&2; then tail -n 30 "$log" >&2; fi
    return "$status"
  fi
  if ((SECONDS - start >= 2)); then say "  $name: done in $((SECONDS - start)) s"; fi
}

# ---------------------------------------------------------------- deps

as_root() {
  if ((EUID == 0)); then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else die "deps: installing packages needs root; run as root or install sudo"; fi
}

missing_packages() {
  local package
  for package in "${PACKAGES[@]}"; do
    [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] || printf '%s\n' "$package"
  done
}

find_cuda() {
  local prefix
  for prefix in "${STRATA_CUDA:-}" /opt/cuda-12.4; do
    if [[ -n $prefix && -x $prefix/bin/nvcc ]]; then
      export CUDACXX=$prefix/bin/nvcc PATH=$prefix/bin:$PATH
      return 0
    fi
  done
  return 1
}

deps() {
  local missing
  if command -v dpkg-query >/dev/null; then
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]})); then
      say "deps: installing ${missing[*]}"
      step 'apt-get update' as_root apt-get -qq update
      step 'apt-get install' as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"
    fi
  else
    local tool
    for tool in g++ cmake ninja castxml; do
      command -v "$tool" >/dev/null || die "deps: $tool is missing and this is not a Debian; install it with the system's package manager"
    done
  fi
  dotnet --version >/dev/null 2>&1 ||
    die "deps: the .NET 10 SDK is not installed and Debian 12 does not carry it; install dotnet-sdk-10.0 from Microsoft's package feed, then run this again"
  if [[ ${1:-} == --cuda ]] && ! find_cuda; then
    step 'nvcc 12.4' bash native/cuda/install-nvcc.sh "${STRATA_CUDA:-/opt/cuda-12.4}"
  fi
}

# ---------------------------------------------------------------- build

# native PRESET FOLDER: configures once, builds what changed.
native() {
  local preset=$1 folder=$2
  find_cuda || true
  # A compiler that came or went since the folder was configured needs a fresh start: CMake remembers that it was missing.
  if [[ ! -f $folder/build.ninja || $(cat "$folder/.nvcc" 2>/dev/null) != "${CUDACXX:-}" ]]; then
    step "configure $preset" cmake --preset "$preset" --fresh -B "$folder"
    printf '%s\n' "${CUDACXX:-}" >"$folder/.nvcc"
  fi
  step "native $preset" cmake --build "$folder" -j "$JOBS"
}

managed() {
  step 'managed' dotnet build Kernels.sln -c Release -v m --nologo -m:"$JOBS"
}

build() {
  deps
  mkdir -p "$STRATA_BUILD"
  : >"$STRATA_BUILD/building"
  native release "$NATIVE"
  managed
  mv "$STRATA_BUILD/building" "$STRATA_BUILD/built"
}

# Builds only if a source is newer than the last complete build, or another nvcc is there.
build_if_stale() {
  local stamp=$STRATA_BUILD/built
  find_cuda || true
  if [[ -f $stamp && -f $NATIVE/libstrata.so && $(cat "$NATIVE/.nvcc" 2>/dev/null) == "${CUDACXX:-}" &&
    -z $(find native src bindings bench tests CMake* Directory.* VERSION global.json .editorconfig -newer "$stamp" -print -quit) ]]; then return; fi
  build
}

gen() {
  deps
  step 'generator' dotnet build bindings/Strata.BindGen -c Release -v q --nologo || return
  "$MANAGED/bin/Strata.BindGen/release/Strata.BindGen" "$@"
}

# ---------------------------------------------------------------- test

PASSED=0 FAILED=0 SKIPPED=0
tally() { PASSED=$((PASSED + $1)) FAILED=$((FAILED + $2)) SKIPPED=$((SKIPPED + $3)); say "  $4: $1 passed, $2 failed, $3 skipped"; }

attribute() { sed -n "s/.*[[:space:]]$2=\"\([0-9]*\)\".*/\1/p" <<<"$1" | head -n 1; }

# native_tests NAME FOLDER [FILTER]: what ctest knows in a build folder.
native_tests() {
  local name=$1 folder=$2 filter=${3:-} junit=$LOGS/$1.junit.xml status=0 head total failed skipped
  mkdir -p "$LOGS"
  rm -f "$junit"
  step "tests $name" ctest --test-dir "$folder" --output-on-failure --timeout 900 --no-tests=ignore --output-junit "$junit" ${filter:+-R "$filter"} || status=$?
  if [[ ! -s $junit ]]; then
    tally 0 $((status != 0)) 0 "$name"
    return
  fi
  head=$(tr '\n' ' ' <"$junit" | grep -o '<testsuite [^>]*>' | head -n 1)
  total=$(attribute "$head" tests) failed=$(attribute "$head" failures) skipped=$(attribute "$head" skipped)
  if ((failed)); then grep -E '\(Failed\)|\(SEGFAULT\)|\(Timeout\)|\(Subprocess aborted\)|\(SIG' "$LOGS/tests-$name.log" | head -n 40 >&2 || true; fi
  tally $((total - failed - skipped)) "$failed" "$skipped" "$name"
}

# trx_messages OUTCOME FILE: "test: first line of its message" of every result with that outcome.
trx_messages() {
  awk -v want="outcome=\"$1\"" '
    function plain(s) { gsub(/&lt;/, "<", s); gsub(/&gt;/, ">", s); gsub(/&quot;/, "\"", s); gsub(/&#39;|&apos;/, "\047", s); gsub(/&#xD;|&#xA;/, "", s); gsub(/&amp;/, "\\&", s); return s }
    /<UnitTestResult / { inside = index($0, want); match($0, /testName="[^"]*"/); name = substr($0, RSTART + 10, RLENGTH - 11); if (inside && /\/>[[:space:]]*$/) print plain(name) ": no message" }
    inside && /<Message>/ { sub(/.*<Message>/, ""); sub(/<\/Message>.*/, ""); print plain(name) ": " plain($0); inside = 0 }
  ' "$2"
}

managed_tests() {
  local filter=${1:-} results=$LOGS/trx status=0 trx counters total executed passed failed
  rm -rf "$results"
  step 'tests managed' dotnet test "tests/Strata.Tests" -c Release --no-build --nologo --logger 'trx;LogFileName=tests.trx' --results-directory "$results" \
    --blame-hang-timeout 20m --blame-hang-dump-type none ${filter:+--filter "FullyQualifiedName~$filter"} || status=$?
  trx=$results/tests.trx
  if [[ ! -s $trx ]]; then
    if ((status)); then tally 0 1 0 'managed (no result file: the test host died)'; else tally 0 0 0 managed; fi
    return
  fi
  counters=$(grep -o '<Counters [^>]*>' "$trx" | head -n 1)
  total=$(attribute "$counters" total) executed=$(attribute "$counters" executed) passed=$(attribute "$counters" passed)
  failed=$((executed - passed))
  # A host that died reports the tests it had finished as a clean run.
  if ((status && failed == 0)); then failed=1; fi
  if ((failed)); then trx_messages Failed "$trx" | sed 's/^/  FAILED /' >&2; fi
  trx_messages NotExecuted "$trx" | sed 's/^[^:]*: //' | sort | uniq -c | sort -rn | sed 's/^ */  skipped /' >&2
  tally "$passed" "$failed" $((total - executed)) managed
}

# The GPU run's script on the devices that are here: every op against NumPy in fp64 through the C ABI, called from Python.
gpu_dry_run() {
  local status=0
  step 'gpu dry run' bash bench/gpu/run.sh --dry-run --no-build || status=$?
  tally $((status == 0)) $((status != 0)) 0 'gpu dry run'
}

# The kernels that an sm_80 takes where an sm_90, for which simt stands by default, has its own.
simt_as_sm80() {
  local status=0
  step 'simt as an sm_80' env STRATA_SIMT_ARCHITECTURE=80 "$MANAGED/bin/Strata.Cli/release/strata" verify kv_attention --device simt || status=$?
  tally $((status == 0)) $((status != 0)) 0 'simt as an sm_80'
}

run_tests() {
  local filter=${1:-}
  build_if_stale
  native_tests native "$NATIVE" "$filter"
  managed_tests "$filter"
  if [[ -z $filter ]]; then
    gpu_dry_run
    simt_as_sm80
    step 'record' strata verify --device simt --record "$STRATA_BUILD/calls.bin"
    native asan "$STRATA_BUILD/native-asan"
    native_tests asan "$STRATA_BUILD/native-asan"
    native tsan "$STRATA_BUILD/native-tsan"
    native_tests tsan "$STRATA_BUILD/native-tsan"
  fi
  if ((PASSED + FAILED == 0)); then
    say "test: no test matches \"$filter\"; see names with: dotnet test tests/Strata.Tests --list-tests"
    FAILED=1
  fi
  printf '%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
  ((FAILED == 0))
}

# ---------------------------------------------------------------- check

check() {
  local failures=0
  build_if_stale
  try() {
    local name=$1
    shift
    if "$@"; then say "ok: $name"; else say "NOT OK: $name"; failures=$((failures + 1)); fi
  }
  try 'C++ format' check_format
  try 'C# format' step 'dotnet format' dotnet format whitespace Kernels.sln --no-restore --verify-no-changes --exclude '**/Generated/**'
  try 'C++ lint' check_tidy
  try 'bindings' gen --check
  try 'exports' bash native/tests/check_exports.sh "$NATIVE"
  try 'op folders' bash native/tests/check_ops.sh
  try 'README figures' bash bench/figures.sh --check
  if [[ -f $NATIVE/libstrata_cuda.so ]]; then try 'CUDA machine code' bash native/tests/check_sass.sh "$NATIVE"; else say 'skipped: CUDA machine code: this build has no libstrata_cuda.so; ./build.sh deps --cuda'; fi
  ((failures == 0)) || die "check: $failures of the checks above failed"
  say 'check: all well'
}

native_sources() { git ls-files --cached --others --exclude-standard 'native/*.h' 'native/*.cpp' 'native/*.cu' 'native/*.cuh' 'bench/gpu/*.cu'; }

check_format() {
  local bad
  bad=$(native_sources | xargs clang-format --dry-run -Werror 2>&1 | grep -oE '^[^:]+:[0-9]+' | sort -u -t: -k1,1) || true
  [[ -z $bad ]] || { say "clang-format disagrees, first at: ${bad//$'\n'/ }; run clang-format -i on them"; return 1; }
}

check_tidy() {
  local files
  mapfile -t files < <(git ls-files 'native/core/*.cpp' 'native/ops/*.cpp' | grep -v '_cpu\.cpp$')
  step 'clang-tidy' bash -c 'printf "%s\n" "${@:3}" | xargs -P "$2" -n 4 clang-tidy --quiet -p "$1"' _ "$NATIVE" "$JOBS" "${files[@]}"
}

# ---------------------------------------------------------------- verbs

# The tool, where the caller stands, so that relative paths mean what they say.
strata() { (cd "$CALLER" && exec "$MANAGED/bin/Strata.Cli/release/strata" "$@"); }

# The library at work on MODEL, $STRATA_MODEL or the small model of the tests.
run_demo() {
  local model=${1:-${STRATA_MODEL:-}}
  build_if_stale
  if [[ -n $model ]]; then model=$(cd "$CALLER" && realpath -m -- "$model"); fi
  bash bench/demo.sh "$MANAGED/bin/Strata.Cli/release/strata" "$model"
}

pack() {
  local packages=$STRATA_BUILD/packages stripped=$STRATA_BUILD/native-stripped library
  build_if_stale
  rm -rf "$packages" "$stripped"
  mkdir -p "$packages" "$stripped"
  for library in libstrata libstrata_cuda; do
    if [[ -f $NATIVE/$library.so ]]; then strip --strip-unneeded -o "$stripped/$library.so" "$NATIVE/$library.so"; fi
  done
  step 'pack' dotnet pack Kernels.sln -c Release --nologo -o "$packages"
  step 'package test' bash tests/Strata.Tests.Package/run.sh "$packages"
  tail -n 1 "$LOGS/package-test.log" >&2
  say "packages are in $packages:"
  (cd "$packages" && du -h -- *.nupkg) >&2
}

verb=${1:-help}
shift || true
case $verb in
  deps) deps "$@" ;;
  gen) gen "$@" ;;
  build) build ;;
  test) run_tests "$@" ;;
  check) check ;;
  run) run_demo "$@" ;;
  strata) build_if_stale >&2; strata "$@" ;;
  bench) build_if_stale >&2; strata bench "$@" ;;
  pack) pack ;;
  help | -h | --help) usage ;;
  *) usage >&2; die "build.sh: unknown verb $verb; the verbs are above" ;;
esac
