#!/usr/bin/env bash
# Trains the same LoRA adapter on the same rows with `wick train` and with PEFT on PyTorch, by turns, and prints medians and
# spread. PYTHON names an interpreter that has torch, transformers and peft; nothing else of wick needs one.
#
#   PYTHON=venv/bin/python bench/peers/compare_cpu.sh [REPETITIONS]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
wick=${WICK:-build/wick}
model=${MODEL:-models/tales}
texts=${TEXTS:-data/alice/train.jsonl}
repetitions=${1:-5}
steps=${STEPS:-24}
batch=4
rank=8
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
# Threads that spin while they wait would make either side crawl where anything else wants a core.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

load() { cut -d' ' -f1 /proc/loadavg; }
before=$(load)
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
"$python" bench/peers/peft_cpu.py rows "$model" "$texts" "$runs/rows.jsonl" 2>/dev/null
for ((i = 1; i <= repetitions; ++i)); do
  for dtype in f32 bf16; do
    echo "repetition $i of $repetitions, $dtype" >&2
    "$wick" train --model "$model" --data "$runs/rows.jsonl" --adapter-path "$runs/wick-$dtype-$i" --dtype "$dtype" \
      --target-modules all-linear --rank $rank --alpha $((2 * rank)) --batch-size $batch --no-shuffle --iters "$steps" \
      --learning-rate 1e-4 --steps-per-report 1 --val-batches 0 --save-every 0 >/dev/null 2>&1
    "$python" bench/peers/peft_cpu.py train "$model" "$runs/rows.jsonl" "$runs/peft-$dtype-$i.json" --dtype "$dtype" \
      --rank $rank --batch-size $batch --steps "$steps" >/dev/null 2>&1
  done
done
echo "load average $before before, $(load) after; $OMP_NUM_THREADS threads"
"$python" bench/peers/table.py "$runs" $batch
