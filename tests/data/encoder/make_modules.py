"""Makes modules.expected.json and 2_Dense: the folder of make_encoder.py with other modules around its transformer, and
the vectors that sentence-transformers (5 or later) gives for each.

    python make_modules.py        # with torch, transformers and sentence-transformers

A case is the JSON files that it puts into the folder, the prompt's name where there is one, and the vectors.
"""
import json
import shutil
import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense

here = Path(__file__).parent
texts = ["", "hello", "The Quick brown FOX jumps over the lazy dog.", "one two three " * 40, "a b c d e"]
torch.manual_seed(11)
dense = Dense(16, 12)
with torch.no_grad():
    dense.linear.weight.copy_(torch.randn(12, 16) * 0.5)
    dense.linear.bias.copy_(torch.randn(12) * 0.5)
(here / "2_Dense").mkdir(exist_ok=True)
dense.save(str(here / "2_Dense"))

old = {"Transformer": "sentence_transformers.models.Transformer", "Pooling": "sentence_transformers.models.Pooling",
       "Dense": "sentence_transformers.models.Dense", "Normalize": "sentence_transformers.models.Normalize"}
new = {"Transformer": "sentence_transformers.base.modules.transformer.Transformer",
       "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
       "Dense": "sentence_transformers.base.modules.dense.Dense",
       "Normalize": "sentence_transformers.base.modules.normalize.Normalize"}


def modules(names, *kinds):
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
    return [{"idx": i, "name": str(i), "path": paths[k], "type": names[k]} for i, k in enumerate(kinds)]


def dense_config(activation, **more):
    return {"in_features": 16, "out_features": 12, "bias": True, "activation_function": activation} | more


with_dense = modules(old, "Transformer", "Pooling", "Dense", "Normalize")
version_6 = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
             "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}}
tokenizer_config = json.loads((here / "tokenizer_config.json").read_text())
prompts = {"prompts": {"query": "one two ", "document": ""}, "default_prompt_name": "query",
           "similarity_fn_name": "dot", "__version__": {"sentence_transformers": "3.0.0"}}
cases = [
    {"files": {"modules.json": with_dense, "2_Dense/config.json": dense_config("torch.nn.modules.activation.Tanh")}},
    {"files": {"modules.json": with_dense, "2_Dense/config.json": dense_config("torch.nn.modules.linear.Identity")}},
    {"files": {"modules.json": with_dense[:3], "2_Dense/config.json": dense_config("torch.nn.modules.activation.GELU")}},
    {"files": {"modules.json": with_dense[:3], "2_Dense/config.json": dense_config("torch.nn.modules.activation.ReLU")}},
    {"files": {"modules.json": modules(new, "Transformer", "Pooling", "Normalize", "Dense"),
               "3_Normalize/config.json": {"module_input_name": "sentence_embedding",
                                           "module_output_name": "sentence_embedding"},
               "2_Dense/config.json": dense_config("torch.nn.modules.activation.Tanh",
                                                   module_input_name="sentence_embedding",
                                                   module_output_name="sentence_embedding"),
               "1_Pooling/config.json": {"embedding_dimension": 16, "pooling_mode": "lasttoken",
                                         "include_prompt": True},
               "sentence_bert_config.json": version_6,
               "tokenizer_config.json": tokenizer_config | {"model_max_length": 20}}},
    {"files": {"modules.json": modules(new, "Transformer", "Pooling"),
               "1_Pooling/config.json": {"embedding_dimension": 16, "pooling_mode": ["max", "cls"],
                                         "include_prompt": True}}},
    {"files": {"config_sentence_transformers.json": prompts}, "prompt": "query"},
    {"files": {"sentence_bert_config.json": {"max_seq_length": 40, "do_lower_case": True}}, "keeps_case": True},
]
for case in cases:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        shutil.copytree(here, folder)
        tokenizer = json.loads((here.parent / "tokenizer" / "bert.json").read_text())
        if case.get("keeps_case"):
            tokenizer["normalizer"]["lowercase"] = False
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        for path, contents in case["files"].items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(json.dumps(contents))
        vectors = SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=1)
        case["vectors"] = [[round(float(v), 8) for v in row] for row in vectors]
(here / "modules.expected.json").write_text(json.dumps({"texts": texts, "cases": cases}) + "\n")
