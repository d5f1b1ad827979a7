#!/usr/bin/env bash
# Adapts the small model of models/tales to a book that it never read, and shows what that changed.
# `make demo` builds the program first.
set -euo pipefail
cd "$(dirname "$0")/.."
wick=build/wick
out=out/demo
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m'; plain=$'\e[0m'; else bold=''; plain=''; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

prompt="Alice was just beginning to think"
sample() {
  "$wick" generate --model models/tales --prompt "$prompt" --max-tokens 70 --temperature 0.7 --top-p 0.9 --seed 3 \
    "$@" 2>/dev/null | fold -s -w 100 | sed 's/ *$//'
}

start=$SECONDS
mkdir -p out
rm -rf "$out"
say "Before: the model continues \"$prompt\""
sample
say "Training on data/alice (Alice's Adventures in Wonderland; its last chapter is held out)"
"$wick" train --model models/tales --data data/alice --adapter-path "$out" --target-modules all-linear \
  --rank 64 --alpha 64 --dropout 0.1 --batch-size 4 --iters 100 --learning-rate 1e-3 --lr-schedule cosine \
  --warmup-steps 10 --steps-per-report 10 --steps-per-eval 20 --val-batches -1 --seed 1 >"$out.txt"
say "After: the same prompt and seed"
sample --adapter-path "$out"
say "Held-out loss"
read -r before after < <(sed -nE 's/^validation loss ([0-9.]+) -> ([0-9.]+).*/\1 \2/p' "$out.txt")
awk -v before="$before" -v after="$after" 'BEGIN {
  printf "before %.4f   after %.4f   (perplexity %.1f -> %.1f)\n", before, after, exp(before), exp(after) }'
# The same as $out/loss.svg in few words: the held-out loss over the steps, as far as it came down.
sed -nE 's/.*"step": ?([0-9]+).*/\1 &/p' "$out/metrics.jsonl" | sed -nE 's/^([0-9]+) .*"val_loss": ?([0-9.]+).*/\1 \2/p' |
  awk -v low="$after" -v high="$before" '{
    bar = sprintf("%*s", 2 + 48 * ($2 - low) / (high - low + 1e-9), ""); gsub(/ /, "#", bar)
    printf "step %3d  %.4f  %s\n", $1, $2, bar }'
echo "curve   $out/loss.svg"
echo "adapter $out (PEFT format), after $((SECONDS - start)) s"
rm "$out.txt"
