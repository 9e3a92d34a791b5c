#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The library at work: every op against the reference, the ops timed, and a model with its whole KV cache beside a quarter of it.
#
#   demo.sh STRATA [MODEL]        STRATA is the tool; MODEL a GGUF file, default the small one in tests/data
set -euo pipefail
strata=$1
cd "$(dirname "${BASH_SOURCE[0]}")/.."
model=${2:-tests/data/tiny-shakespeare.Q4_0.gguf}
prompt=$(cat tests/data/passage.txt)
tokens=${STRATA_DEMO_TOKENS:-96}
[[ -f $model ]] || { printf 'run: the model %s does not exist; pass a GGUF file or leave it out\n' "$model" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
title() { printf '\n\033[1m%s\033[0m\n\n' "$*"; }

title 'What there is'
"$strata" info
title 'Every op against the reference'
"$strata" verify
title 'Every op, timed'
"$strata" bench --quick

title "$(basename "$model"): $tokens tokens after a passage, with the whole KV cache and with a quarter of it"
"$strata" generate -m "$model" -p "$prompt" -n "$tokens" --json >"$work/full.json"
count=$(jq '.prompt_ids | length' "$work/full.json")
# The quarter still has to hold the window that the scores come from.
budget=$(((count + tokens) / 4 > 64 ? (count + tokens) / 4 : 64))
"$strata" generate -m "$model" -p "$prompt" -n "$tokens" --kv-budget "$budget" --policy snapkv --json >"$work/quarter.json"

figure() { jq -r "$2" "$work/$1.json"; }
row() { printf '  %-34s %16s %16s\n' "$1" "$(figure full "$2")" "$(figure quarter "$2")"; }
printf '  %-34s %16s %16s\n' '' 'whole cache' "$budget tokens"
row 'prefill, tokens/s' '((.prompt_ids | length) / .seconds_prefill * 10 | round) / 10'
row 'decode, tokens/s' '(((.ids | length) - 1) / .seconds_decode * 10 | round) / 10'
row 'KV cache at the end, MiB' '(.kv_bytes_live / 1048576 * 1000 | round) / 1000'
row 'KV cache at its largest, MiB' '(.kv_bytes_peak / 1048576 * 1000 | round) / 1000'
row 'device' '.device + " " + .isa'
printf '  %-34s %16s %16s\n' "same token as the whole cache's" '' \
  "$(jq -s '[.[0].ids, .[1].ids] | transpose | (map(select(.[0] == .[1])) | length) as $same | "\($same) of \(length)"' -r "$work/full.json" "$work/quarter.json")"

printf '\n'
for name in full quarter; do figure $name .text | tr '\r' ' ' | fold -s -w 58 >"$work/$name.txt"; done
paste -d '\t' "$work/full.txt" "$work/quarter.txt" | awk -F '\t' 'BEGIN { printf "  %-60s  %s\n\n", "whole cache", "quarter" } { printf "  %-60s  %s\n", $1, $2 }'
