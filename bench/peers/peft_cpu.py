"""A LoRA training step of PEFT on PyTorch, on the CPU: the peer of `wick train` in compare_cpu.sh.

peft_cpu.py rows MODEL TEXTS.jsonl ROWS.jsonl     tokenizes {"text"} rows to the {"input_ids", "labels"} that both train on
peft_cpu.py train MODEL ROWS.jsonl RECORD.json    trains, and writes the time, tokens and loss of every step
"""

import argparse
import json
import os
import resource
import time


def read_rows(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def rows(options):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    with open(options.rows, "w", encoding="utf-8") as out:
        for row in read_rows(options.texts):
            ids = tokenizer(row["text"])["input_ids"] + [tokenizer.eos_token_id]
            out.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def collate(batch, torch):
    """Padded on the right to the longest row, as transformers' collators do."""
    longest = max(len(row["input_ids"]) for row in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full((len(batch), longest), -100, dtype=torch.long)
    for i, row in enumerate(batch):
        n = len(row["input_ids"])
        ids[i, :n] = torch.tensor(row["input_ids"])
        labels[i, :n] = torch.tensor(row["labels"])
        mask[i, :n] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(options):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    # PEFT's own choice for a bf16 model: adapters in f32.
    config = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)
    data = read_rows(options.rows)
    steps = []
    at = 0
    for _ in range(options.steps):
        start = time.perf_counter()
        batch = collate([data[(at + i) % len(data)] for i in range(options.batch_size)], torch)
        at += options.batch_size
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        steps.append(
            {
                "seconds": time.perf_counter() - start,
                "trained_tokens": int((batch["labels"][:, 1:] != -100).sum()),
                "computed_tokens": batch["input_ids"].numel(),
                "loss": value,
            }
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open(options.record, "w", encoding="utf-8") as out:
        json.dump({"steps": steps, "peak_memory_bytes": peak}, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("rows")
    verb.add_argument("model")
    verb.add_argument("texts")
    verb.add_argument("rows")
    verb.set_defaults(run=rows)
    verb = verbs.add_parser("train")
    verb.add_argument("model")
    verb.add_argument("rows")
    verb.add_argument("record")
    verb.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    verb.add_argument("--rank", type=int, default=8)
    verb.add_argument("--batch-size", type=int, default=4)
    verb.add_argument("--steps", type=int, default=24)
    verb.set_defaults(run=train)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
