"""Makes tiny sentence-embedding models with random weights, one of each architecture beside BERT, and what
sentence-transformers makes of some texts with them:

    python make_encoders.py       # with torch, transformers, tokenizers, peft and sentence-transformers

Writes the folders roberta, xlm-roberta, mpnet and qwen3, each with expected.json: the ids and offsets of every text,
its vector, and the vector that it gets with the adapter which PEFT writes to the folder adapter. The tokenizer of
xlm-roberta is ../tokenizer/unigram_spm.json, which the test puts beside the rest.
"""
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (AutoModel, MPNetConfig, MPNetModel, Qwen3Config, Qwen3Model, RobertaConfig, RobertaModel,
                          XLMRobertaConfig, XLMRobertaModel)

here = Path(__file__).parent
tokenizers = here.parent / "tokenizer"
corpus = json.loads((tokenizers / "bert_texts.json").read_text())
corpus = [text for text in corpus if text.isascii()]
texts = ["", "hello", "The quick brown fox jumps over the lazy dog.", "naïve café — 北京 🙂", "one two three " * 60, "?!",
         "a <mask> b <pad> c", "Many words, and then some more of them. " * 2]


def roberta_tokenizer():
    """Byte-level BPE; the padding is not where RoBERTa's usually is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<unk>", "<pad>"]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), True, False)
    return tokenizer


def mpnet_tokenizer():
    """WordPiece as BERT's, with RoBERTa's special tokens around a text."""
    words = Counter(word for text in corpus for word in re.findall("[a-z]{2,}", text.lower()))
    frequent = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:250]]
    ends = sorted({word[-3:] for word in frequent if len(word) > 3})
    characters = [chr(c) for c in range(33, 127)]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]"] + characters + frequent
    tokens += ["##" + piece for piece in characters + ends]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(tokens[:5])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return tokenizer


def qwen3_tokenizer():
    """Qwen's, and an <|endoftext|> behind each text, as Qwen3-Embedding's has it."""
    tokenizer = Tokenizer.from_file(str(tokenizers / "qwen2.json"))
    end = "<|endoftext|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        processors.TemplateProcessing(single=f"$A {end}", pair=f"$A {end} $B {end}",
                                      special_tokens=[(end, tokenizer.token_to_id(end))])])
    return tokenizer


small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, initializer_range=0.2)
marks = dict(bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
             mask_token="<mask>")


def model_of(name, tokenizer):
    """The model, its longest text and its pooling."""
    vocab = tokenizer.get_vocab_size()
    if name == "roberta":
        config = RobertaConfig(vocab_size=vocab, max_position_embeddings=60, type_vocab_size=1, pad_token_id=3,
                               bos_token_id=0, eos_token_id=1, layer_norm_eps=1e-5, **small)
        return RobertaModel(config, add_pooling_layer=False), 56, "mean_tokens", marks | {"unk_token": "<unk>"}
    if name == "xlm-roberta":
        config = XLMRobertaConfig(vocab_size=vocab, max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
                                  **small)
        return XLMRobertaModel(config, add_pooling_layer=False), 50, "cls_token", marks | {"unk_token": "<unk>"}
    if name == "mpnet":
        config = MPNetConfig(vocab_size=vocab, max_position_embeddings=162, layer_norm_eps=1e-5, **small)
        return MPNetModel(config, add_pooling_layer=False), 150, "mean_tokens", marks | {"unk_token": "[UNK]"}
    config = Qwen3Config(vocab_size=vocab, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=8, intermediate_size=40, max_position_embeddings=128,
                         initializer_range=0.2)
    return Qwen3Model(config), 70, "lasttoken", {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


for seed, name in enumerate(["roberta", "xlm-roberta", "mpnet", "qwen3"]):
    out = here / name
    shutil.rmtree(out, ignore_errors=True)
    (out / "1_Pooling").mkdir(parents=True)
    tokenizer = {"roberta": roberta_tokenizer, "mpnet": mpnet_tokenizer, "qwen3": qwen3_tokenizer,
                 "xlm-roberta": lambda: Tokenizer.from_file(str(tokenizers / "unigram_spm.json"))}[name]()
    torch.manual_seed(seed)
    model, longest, pooling, tokens = model_of(name, tokenizer)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "bias" in parameter_name or "orm" in parameter_name:
                parameter.add_(torch.randn_like(parameter) * (1.0 if "relative" in parameter_name else 0.2))
    model.eval().save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | tokens))
    (out / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest, "do_lower_case": False}))
    modes = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "lasttoken"]
    (out / "1_Pooling" / "config.json").write_text(json.dumps(
        {"word_embedding_dimension": 16} | {"pooling_mode_" + mode: mode == pooling for mode in modes}))
    types = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    (out / "modules.json").write_text(json.dumps([
        {"idx": i, "name": str(i), "path": path, "type": "sentence_transformers.models." + module}
        for i, (path, module) in enumerate(types.items())]))
    embedder = SentenceTransformer(str(out), device="cpu")
    encodings = [embedder.tokenizer(text, truncation=True, max_length=longest, return_offsets_mapping=True)
                 for text in texts]
    vectors = embedder.encode(texts, batch_size=1)
    torch.manual_seed(10 + seed)
    adapted = get_peft_model(AutoModel.from_pretrained(out), LoraConfig(r=2, lora_alpha=4, target_modules="all-linear"))
    with torch.no_grad():
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    adapted.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink()
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tiny-" + name
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order changes from run to run
    (out / "adapter" / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    embedder[0].auto_model = PeftModel.from_pretrained(embedder[0].auto_model, out / "adapter").eval()
    adapted_vectors = embedder.encode(texts, batch_size=1)
    (out / "expected.json").write_text(json.dumps(
        {"texts": texts, "max_tokens": longest, "ids": [encoding["input_ids"] for encoding in encodings],
         "offsets": [encoding["offset_mapping"] for encoding in encodings],
         "vectors": [[round(float(v), 8) for v in row] for row in vectors],
         "adapted": [[round(float(v), 8) for v in row] for row in adapted_vectors]}) + "\n")
    if name == "xlm-roberta":
        (out / "tokenizer.json").unlink()
