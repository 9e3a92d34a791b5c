#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measured tables in the project's Markdown come from files of `strata bench --json`; none is typed. A table stands between
#
#   <!-- figures: bench/results/NAME.json op=qgemm state=cold -->
#   <!-- end of figures -->
#
# where key=value pairs pick rows. `figures.sh` writes the tables, `figures.sh --check` compares them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode=${1:-}

table() {
  local result=$1 pair condition=true
  shift
  [[ -f $result ]] || { printf 'figures: %s does not exist; run strata bench --out %s\n' "$result" "$result" >&2; return 1; }
  for pair in "$@"; do condition+=" and ((.${pair%%=*} // \"\") | tostring) == \"${pair#*=}\""; done
  jq -r '
    def show(digits): if . == null then "" else (. * pow(10; digits) | round) / pow(10; digits) | tostring end;
    def time: if . == null then "" elif . >= 1000 then ((. / 1000) | show(2)) + " ms" else show(1) + " µs" end;
    "*\(.machine.name), \(.machine.isa), \(.machine.threads) threads\(if .machine.date then ", " + .machine.date else "" end)*",
    "",
    "| op | case | device | isa | state | median | p20–p80 | GB/s | GFLOP/s | of the limit |",
    "|---|---|---|---|---|---|---|---|---|---|",
    (.rows[] | select('"$condition"') |
      "| \(.op) | \(.case) | \(.device) | \(.isa) | \(.state) | \(.median_us | time) | \(.p20_us | time) – \(.p80_us | time) | \(.gb_s | show(1)) | \(.gflop_s | show(1)) | \(if .limit_share == null then "" else "\(.limit_share * 100 | round) %" end) |")
  ' "$result"
}

fill() {
  local line skipping=0
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line == '<!-- end of figures -->' ]]; then skipping=0; fi
    ((skipping)) || printf '%s\n' "$line"
    if [[ $line =~ ^'<!-- figures: '(.*)' -->'$ ]]; then
      # shellcheck disable=SC2086 # the marker is a list of words
      table ${BASH_REMATCH[1]} || return 1
      skipping=1
    fi
  done <"$1"
  ((skipping == 0)) || { printf 'figures: %s has a table without its end mark\n' "$1" >&2; return 1; }
}

stale=0
while IFS= read -r document; do
  filled=$(fill "$document"; printf x) || exit 1
  filled=${filled%x}
  if [[ $filled == "$(cat "$document"; printf x)" || $filled == "$(cat "$document")"$'\n' ]]; then continue; fi
  if [[ $mode == --check ]]; then
    printf 'figures: a table of %s differs from its result file; run bench/figures.sh\n' "$document" >&2
    stale=1
  else
    printf '%s' "$filled" >"$document"
    printf 'figures: wrote the tables of %s\n' "$document"
  fi
done < <(git grep -l '^<!-- figures: ' -- '*.md' || true)
exit "$stale"
