"""Makes a LoRA adapter of the tiny encoder with PEFT, and what PyTorch computes with it:

    python make_adapter.py        # with torch, transformers, peft and sentence-transformers

Writes adapter/ (as PEFT saves it, factors of the pooler included), adapter_expected.json (vectors of expected.json's
texts; losses of sentence-transformers' MultipleNegativesRankingLoss) and adapter_gradients.safetensors (of each loss).
"""
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer, losses
from transformers import AutoModel

here = Path(__file__).parent
torch.manual_seed(7)
base = AutoModel.from_pretrained(here)
adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value", "dense"]))
with torch.no_grad():
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.3)
adapted.save_pretrained(here / "adapter")
(here / "adapter" / "README.md").unlink()
config = json.loads((here / "adapter" / "adapter_config.json").read_text())
config["base_model_name_or_path"] = "tiny-encoder"
config["target_modules"] = sorted(config["target_modules"])  # a set, whose order changes from run to run
(here / "adapter" / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))

shutil.copy(here.parent / "tokenizer" / "bert.json", here / "tokenizer.json")
model = SentenceTransformer(str(here), device="cpu")
model[0].auto_model = PeftModel.from_pretrained(model[0].auto_model, here / "adapter", is_trainable=True)
texts = json.loads((here / "expected.json").read_text())["texts"]
vectors = [[round(float(v), 8) for v in row] for row in model.encode(texts, batch_size=1)]

rows = [["the quick brown fox", "a fox that jumps", "hello"], ["naive cafe", "one cafe", "two three"],
        ["one two three", "three two one", "lazy dogs"], ["hello there", "hello you over there", "a b c d e"]]
directions = {False: ("query_to_doc",), True: ("query_to_doc", "doc_to_query")}
cases, gradients = [], {}
for index, (columns, scale, symmetric) in enumerate([(2, 20, False), (3, 20, False), (2, 5, True)]):
    model.eval()  # no dropout
    loss_function = losses.MultipleNegativesRankingLoss(model, scale=scale, directions=directions[symmetric],
                                                      partition_mode="per_direction")
    features = [model.tokenize([row[c] for row in rows]) for c in range(columns)]
    model.zero_grad()
    loss = loss_function(features, torch.zeros(len(rows)))
    loss.backward()
    cases.append({"columns": columns, "temperature": 1 / scale, "symmetric": symmetric, "loss": loss.item()})
    for name, parameter in model[0].auto_model.named_parameters():
        if parameter.grad is not None:
            key = name.removeprefix("base_model.model.").replace(".default", "")
            gradients[f"{index}.{key}"] = parameter.grad.clone()
(here / "adapter_expected.json").write_text(json.dumps({"vectors": vectors, "rows": rows, "losses": cases}) + "\n")
save_file(gradients, here / "adapter_gradients.safetensors")
(here / "tokenizer.json").unlink()
