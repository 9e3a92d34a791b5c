#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measured tables in the project's Markdown come from the documents of `strata bench --out bench/results/`; none is typed. A table stands between
#
#   <!-- measured op=qgemm,embed state=cold isa=avx512vnni case=smollm2 -->
#   <!-- /measured -->
#
# where key=value,value pairs pick rows (case: part of the name). Without pairs an op's README shows its own cold rows. Each machine's newest
# document is used. `figures.sh` writes the tables, `figures.sh --check` compares them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode=${1:-}

newest=()
for machine in bench/results/*/; do
  documents=("$machine"*.json)
  [[ -f ${documents[-1]} ]] && newest+=("${documents[-1]}")
done

# table KEY=VALUE...: one table a machine, GPU machines included once there is a document of one.
table() {
  local pair filter='' document found=0 rows
  for pair in "$@"; do
    case $pair in
      op=* | state=* | isa=* | device=*) filter+=" and (.${pair%%=*} as \$value | \"${pair#*=}\" | split(\",\") | index(\$value) != null)" ;;
      case=*) filter+=" and (.case as \$value | \"${pair#*=}\" | split(\",\") | any(. as \$part | \$value | contains(\$part)))" ;;
      *) printf 'figures: %s is not a filter, must be op=, case=, device=, isa= or state=; correct the marker\n' "$pair" >&2; return 1 ;;
    esac
  done
  for document in "${newest[@]}"; do
    rows=$(jq -r "[.rows[] | select(true$filter)] | length" "$document")
    ((rows)) || continue
    ((found++)) && printf '\n'
    jq -r '
      def show(digits): if . == null then "" else (. * pow(10; digits) | round) / pow(10; digits) | tostring end;
      def digits: if . < 10 then 2 elif . < 1000 then 1 else 0 end;
      def time: if . >= 10000 then (. / 1000 | show(digits)) + " ms" else show(digits) + " µs" end;
      def limit(name; value; unit): if value == null then empty else "\(name) \(value | show(0)) \(unit)" end;
      .machine as $m |
      "*\($m.name), \($m.isa), \($m.threads) \(if ($m.isa | startswith("sm_")) then "multiprocessors" else "threads" end), \($m.date). Measured limits: \([
        limit("read"; $m.limits.read_gb_s; "GB/s"), limit("fp32"; $m.limits.fp32_gflops; "GFLOP/s"), limit("bf16"; $m.limits.bf16_gflops; "GFLOP/s"),
        limit("int8"; $m.limits.int8_gops; "GOP/s"), limit("AMX bf16"; $m.limits.amx_bf16_gflops; "GFLOP/s"), limit("AMX int8"; $m.limits.amx_int8_gops; "GOP/s")
      ] | join(", ")).*",
      "",
      "| op | case | device | isa | state | median | p20–p80 | GB/s | GFLOP/s | of the limit |",
      "|---|---|---|---|---|--:|--:|--:|--:|--:|",
      (.rows[] | select(true'"$filter"') |
        "| \(.op) | \(.case) | \(.device) | \(.isa) | \(.state) | \(.median_us | time) | \(.p20_us | time) – \(.p80_us | time) | \(.gb_s | show(digits)) | \(.gflop_s | show(digits)) | \(if .limit_share == null then "" else "\(.limit_share * 100 | round) %" end) |")
    ' "$document"
  done
  ((found)) || printf 'Nothing was measured yet.\n'
  return 0
}

# fill FILE: the file with its tables as they should be.
fill() {
  local document=$1 line skipping=0 own=()
  [[ $document =~ ^native/ops/([a-z_]+)/README.md$ ]] && own=("op=${BASH_REMATCH[1]}" state=cold)
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line == '<!-- /measured -->' ]]; then skipping=0; fi
    ((skipping)) || printf '%s\n' "$line"
    if [[ $line =~ ^'<!-- measured '(.*)'-->'$ ]]; then
      local pairs=()
      read -ra pairs <<<"${BASH_REMATCH[1]}"
      if ((${#pairs[@]} == 0)); then pairs=("${own[@]}"); fi
      ((${#pairs[@]})) || { printf 'figures: %s has a table without filters, must name its rows; write <!-- measured op=... -->\n' "$document" >&2; return 1; }
      table "${pairs[@]}" || return 1
      skipping=1
    fi
  done <"$document"
  ((skipping == 0)) || { printf 'figures: %s has a table without its end mark; add <!-- /measured -->\n' "$document" >&2; return 1; }
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
done < <(git grep -l '^<!-- measured ' -- '*.md' || true)
exit "$stale"
