#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measured tables in the project's Markdown come from the documents of `strata bench --out bench/results/`; none is typed. A table stands between
#
#   <!-- measured op=qgemm,embed state=cold isa=avx512vnni case=smollm2 -->
#   <!-- /measured -->
#
# where key=value,value pairs pick rows (case: part of the name). Without pairs an op's README shows its own cold rows. Each machine's newest
# document is used. An op's README shows pictures of its cold rows, one a machine, between
#
#   <!-- roofline -->
#   <!-- /roofline -->
#
# A picture names the measurements that it was drawn from by their hash. `figures.sh` writes tables and pictures, `figures.sh --check` compares them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mode=${1:-}
build=${STRATA_BUILD:-build}
painter=$build/dotnet/bin/Strata.Figures/release/Strata.Figures

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
      [.rows[] | select(true'"$filter"')] as $rows |
      ($rows | any(.peer != null)) as $peers |
      "*\($m.name), \($m.isa), \($m.threads) \(if ($m.isa | startswith("sm_")) then "multiprocessors" else "threads" end), \($m.date). Measured limits: \([
        limit("read"; $m.limits.read_gb_s; "GB/s"), limit("fp32"; $m.limits.fp32_gflops; "GFLOP/s"), limit("bf16"; $m.limits.bf16_gflops; "GFLOP/s"),
        limit("int8"; $m.limits.int8_gops; "GOP/s"), limit("AMX bf16"; $m.limits.amx_bf16_gflops; "GFLOP/s"), limit("AMX int8"; $m.limits.amx_int8_gops; "GOP/s")
      ] | join(", ")).*",
      "",
      "| op | case | device | isa | state | median | p20–p80 | GB/s | GFLOP/s | of the limit |" + if $peers then " peer | ours is × as fast |" else "" end,
      "|---|---|---|---|---|--:|--:|--:|--:|--:|" + if $peers then "---|--:|" else "" end,
      ($rows[] |
        "| \(.op) | \(.case) | \(.device) | \(.isa) | \(.state) | \(.median_us | time) | \(.p20_us | time) – \(.p80_us | time) | \(.gb_s | show(digits)) | \(.gflop_s | show(digits)) | \(if .limit_share == null then "" else "\(.limit_share * 100 | round) %" end) |"
        + if $peers then " \(.peer // "") | \(if .ratio == null then "" else (.ratio | show(2)) end) |" else "" end)
    ' "$document"
  done
  ((found)) || printf 'Nothing was measured yet.\n'
  return 0
}

# measurements OP DOCUMENT: what a picture shows; nothing if there is nothing to show.
measurements() {
  jq -c --arg op "$1" '
    {op: $op, machine, rows: [.rows[] | select(.op == $op and .state == "cold" and .gb_s > 0 and .gflop_s > 0) | {case, peer, gb_s, gflop_s}]} |
    select(.rows != [] and .machine.limits.fp32_gflops != null)' "$2"
}

# pictures OP: the op's pictures in Markdown. Draws what is missing or shows other measurements, or notes it with --check.
pictures() {
  local op=$1 folder=native/ops/$1 document data hash name wanted=' '
  for document in "${newest[@]}"; do
    data=$(measurements "$op" "$document")
    [[ -n $data ]] || continue
    hash=$(sha256sum <<<"$data" | cut -d' ' -f1)
    name=roofline-$(basename "$(dirname "$document")").svg
    wanted+="$name "
    printf '![Roofline: achieved operations a second over operations a byte](%s)\n' "$name"
    if grep -qF "<!-- measurements $hash -->" "$folder/$name" 2>/dev/null; then continue; fi
    if [[ $mode == --check ]]; then
      printf 'figures: %s/%s shows other measurements than %s; run bench/figures.sh\n' "$folder" "$name" "$document" >&2
      return 1
    fi
    [[ -x $painter ]] || { printf 'figures: %s does not exist; run ./build.sh build\n' "$painter" >&2; return 1; }
    "$painter" "$hash" "$folder/$name" <<<"$data" || return 1
    printf 'figures: drew %s/%s\n' "$folder" "$name" >&2
  done
  [[ $wanted != ' ' ]] || printf 'Nothing was measured yet.\n'
  for document in "$folder"/roofline-*.svg; do
    if [[ ! -f $document || $wanted == *" ${document##*/} "* ]]; then continue; fi
    if [[ $mode == --check ]]; then
      printf 'figures: %s shows what no result file has; run bench/figures.sh\n' "$document" >&2
      return 1
    fi
    rm "$document"
  done
}

# fill FILE: the file with its tables and pictures as they should be.
fill() {
  local document=$1 line skipping=0 op='' own=()
  if [[ $document =~ ^native/ops/([a-z_]+)/README.md$ ]]; then
    op=${BASH_REMATCH[1]}
    own=("op=$op" state=cold)
  fi
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line == '<!-- /measured -->' || $line == '<!-- /roofline -->' ]]; then skipping=0; fi
    ((skipping)) || printf '%s\n' "$line"
    if [[ $line =~ ^'<!-- measured '(.*)'-->'$ ]]; then
      local pairs=()
      read -ra pairs <<<"${BASH_REMATCH[1]}"
      if ((${#pairs[@]} == 0)); then pairs=("${own[@]}"); fi
      ((${#pairs[@]})) || { printf 'figures: %s has a table without filters, must name its rows; write <!-- measured op=... -->\n' "$document" >&2; return 1; }
      table "${pairs[@]}" || return 1
      skipping=1
    elif [[ $line == '<!-- roofline -->' ]]; then
      [[ -n $op ]] || { printf 'figures: %s has pictures, which only an op has; remove the marker\n' "$document" >&2; return 1; }
      pictures "$op" || return 1
      skipping=1
    fi
  done <"$document"
  ((skipping == 0)) || { printf 'figures: %s has a table or pictures without an end mark; add <!-- /measured --> or <!-- /roofline -->\n' "$document" >&2; return 1; }
}

stale=0
while IFS= read -r document; do
  if ! filled=$(fill "$document" && printf x); then
    stale=1
    continue
  fi
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
