"""A LoRA training step with PEFT on a GPU: the peer of `wick bench train`. Random weights of a shape, random tokens.

    python bench/peers/peft_gpu.py bench/shapes/llama-3.2-1b.json --rank 16 --sequences 4 [--compile] [--json]
"""
import argparse
import pathlib
import time

import torch
from peft import LoraConfig, get_peft_model
from record import print_record, spread_of
from transformers import AutoConfig, AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("shape")
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--sequences", type=int, default=4)
parser.add_argument("--length", type=int, default=2048)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--json", action="store_true", help="one JSON object a line, as bench/README.md describes")
options = parser.parse_args()

config = AutoConfig.from_pretrained(options.shape)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
torch.set_default_dtype(torch.float32)
model.config.use_cache = False
targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(model, LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=targets,
                                         task_type="CAUSAL_LM"))
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
step_model = torch.compile(model) if options.compile else model
ids = torch.randint(0, config.vocab_size, (options.sequences, options.length), device="cuda")
times = []
for step in range(3 + options.steps):
    torch.cuda.synchronize()
    start = time.perf_counter()
    loss = step_model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss.item()
    torch.cuda.synchronize()
    if step >= 3:
        times.append(time.perf_counter() - start)
median, low, high = spread_of(times)
tokens = options.sequences * options.length
free, total = torch.cuda.mem_get_info()
taken, allocated = (total - free) / 2**30, torch.cuda.max_memory_allocated() / 2**30
if options.json:
    by = f"PEFT {'compiled' if options.compile else 'eager'}"
    case = {"model": pathlib.Path(options.shape).stem, "sequences": options.sequences, "length": options.length,
            "rank": options.rank, "dtype": "bf16"}
    print_record(by, "train", case, (tokens / median, tokens / high, tokens / low), "tokens/s")
    print_record(by, "train, memory", case, taken, "GiB")
    print_record(f"{by}, allocated", "train, memory", case, allocated, "GiB")
else:
    print(f"peft {options.shape}{' compiled' if options.compile else ''}: {tokens / median:.0f} tokens/s, "
          f"{median * 1e3:.2f} ms a step ({low * 1e3:.2f} to {high * 1e3:.2f}), "
          f"peak {allocated:.2f} GiB allocated, {taken:.2f} GiB taken")
