"""How far transformers and PEFT in bf16 are from the reference answers here, which are in float32: the yardstick of golden_test
for bf16. The largest over prompts, or parameters, of |bf16 - f32| / |f32|, Euclidean.

    python tests/data/golden/peft_bf16.py       # transformers 5.17, peft 0.21, torch 2.11 on a CPU
"""
import json
import pathlib

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent


def distance(found, wanted):
    size = wanted.norm().item()
    return (found.float() - wanted).norm().item() / size if size > 0 else 0.0


def padded(rows, name, filler):
    longest = max(len(row["input_ids"]) for row in rows)
    return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])


def main():
    for folder in sorted(path for path in HERE.iterdir() if path.is_dir()):
        model_folder = HERE.parents[2] / "models" / "tales" if folder.name == "tales" else folder / "model"

        def load():
            return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)

        answers = load_file(folder / "logits.safetensors")
        model, far = load(), []
        with torch.no_grad():
            for name in (name for name in answers if name.startswith("logits.")):
                ids = answers[name.replace("logits", "ids")].reshape(1, -1)
                far.append(distance(model(input_ids=ids).logits[0], answers[name]))
        print(f"{folder.name}: logits {max(far):.4f}")

        rows = [json.loads(line) for line in (folder / "rows.jsonl").open()]
        ids, labels = padded(rows, "input_ids", 0), padded(rows, "labels", -100)
        mask = padded([{**row, "mask": [1] * len(row["input_ids"])} for row in rows], "mask", 0)
        for run in ("qv-r8", "all-r4-rs"):
            adapted = PeftModel.from_pretrained(load(), folder / run / "adapter-start", is_trainable=True)
            loss = adapted(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            wanted = load_file(folder / run / "grads-step1.safetensors")
            far = []
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    key = name.replace(".default", "")
                    key = key if key in wanted else key.replace("base_model.model.", "")
                    far.append(distance(parameter.grad, wanted[key]))
            first = json.loads((folder / run / "steps.json").read_text())["losses"][0]
            print(f"{folder.name} {run}: gradients {max(far):.4f}, loss {abs(loss.item() - first) / first:.1e}")


if __name__ == "__main__":
    main()
