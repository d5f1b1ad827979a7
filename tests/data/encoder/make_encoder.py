"""Makes a tiny BERT sentence-embedding model with random weights and the vectors that sentence-transformers gives:

    python make_encoder.py        # with torch, transformers and sentence-transformers

Writes this folder, and expected.json. The tokenizer is ../tokenizer/bert.json, which the test puts beside the rest.
"""
import json
import shutil
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

here = Path(__file__).parent
out = here
tokenizer = json.loads((here.parent / "tokenizer" / "bert.json").read_text())
torch.manual_seed(5)
config = BertConfig(vocab_size=max(tokenizer["model"]["vocab"].values()) + 1, hidden_size=16, num_hidden_layers=2,
                    num_attention_heads=2, intermediate_size=40, max_position_embeddings=48, initializer_range=0.2)
model = BertModel(config, add_pooling_layer=False).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "bias" in name or "LayerNorm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
model.save_pretrained(out)
shutil.copy(here.parent / "tokenizer" / "bert.json", out / "tokenizer.json")
(out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]",
    "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}))
(out / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, "do_lower_case": False}))
types = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
(out / "modules.json").write_text(json.dumps([
    {"idx": i, "name": str(i), "path": path, "type": "sentence_transformers.models." + name}
    for i, (path, name) in enumerate(types.items())]))
texts = ["", "hello", "The quick brown fox jumps over the lazy dog.", "naive cafe", "one two three " * 40, "?!", "a b c d e"]
cases = []
modes = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "lasttoken"]
for on in ([2], [0], [1], [4], [3], [0, 1, 2]):
    pooling = {"word_embedding_dimension": 16} | {"pooling_mode_" + m: i in on for i, m in enumerate(modes)}
    (out / "1_Pooling").mkdir(exist_ok=True)
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    vectors = SentenceTransformer(str(out), device="cpu").encode(texts, batch_size=1)
    cases.append({"pooling": pooling, "vectors": [[round(float(v), 8) for v in row] for row in vectors]})
(out / "1_Pooling" / "config.json").write_text(json.dumps(cases[0]["pooling"]))
(out / "expected.json").write_text(json.dumps({"texts": texts, "cases": cases}) + "\n")
(out / "tokenizer.json").unlink()
