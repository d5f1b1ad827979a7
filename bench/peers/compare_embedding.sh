#!/usr/bin/env bash
# Embeds the same texts with wick and with sentence-transformers, by turns, and prints medians and spread. PYTHON names an
# interpreter that has torch and sentence-transformers. ONNX_MODEL is the folder that its ONNX backend exported
# (SentenceTransformer(MODEL, backend="onnx").save_pretrained(FOLDER)), ONNX_PYTHON the interpreter that has optimum and
# onnxruntime; without the folder that backend is left out.
#
#   PYTHON=venv/bin/python bench/peers/compare_embedding.sh MODEL [ROUNDS]
set -euo pipefail
model=$1
rounds=${2:-5}
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
bench=${BENCH:-build/release/bin/embedding_bench}
peer=bench/peers/sentence_transformers_bench.py
repetitions=${REPETITIONS:-3}
single=${SINGLE:-100}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
# Threads that spin while they wait would make either side crawl where anything else wants a core.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

load() { cut -d' ' -f1 /proc/loadavg; }
before=$(load)
runs=${RUNS:-$(mktemp -d)}
"$python" $peer texts "$model" "$runs/texts.json" ${SHARE:+--share "$SHARE"}
for ((i = 1; i <= rounds; ++i)); do
  echo "round $i of $rounds" >&2
  for dtype in f32 bf16; do
    "$bench" --model "$model" --texts "$runs/texts.json" --dtype $dtype --repetitions "$repetitions" \
      --single "$single" --json >"$runs/wick-$dtype-$i.jsonl"
  done
  for dtype in ${TORCH_DTYPES:-f32}; do
    "$python" $peer run "$model" "$runs/texts.json" --dtype "$dtype" --repetitions "$repetitions" \
      --single "$single" >"$runs/torch-$dtype-$i.jsonl" 2>"$runs/errors.log"
  done
  if [[ -n "${ONNX_MODEL:-}" ]]; then
    "${ONNX_PYTHON:-$python}" $peer run "$ONNX_MODEL" "$runs/texts.json" --backend onnx --repetitions "$repetitions" \
      --single "$single" >"$runs/onnx-$i.jsonl" 2>"$runs/errors.log"
  fi
done
echo "load average $before before, $(load) after; $OMP_NUM_THREADS threads"
"$python" $peer table "$runs"/*.jsonl
