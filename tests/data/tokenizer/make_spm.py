"""Makes the tokenizers spm*.json of this folder and what the package tokenizers (0.23.3) makes with them of
spm_texts.json, and of ids that no text has.

python make_spm.py

They are BPE over characters with byte fallback, as files made from sentencepiece models have it: spm as Llama 2 and
Mistral 7B v0.1, spm_first with Metaspace in place of a normalizer ("legacy": false) and Phi-3's added tokens,
spm_gemma as Gemma, and spm_odd with what these do not use: bytes without a token, merges of bytes and of the unknown
token, two ways to one token, added tokens that are normalized.
"""

import json
import pathlib
import random

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

here = pathlib.Path(__file__).parent

CORPUS = """
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice
she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "and what is the
use of a book," thought Alice "without pictures or conversations?" So she was considering in her own mind (as well as
she could, for the hot day made her feel very sleepy and stupid), whether the pleasure of making a daisy-chain would be
worth the trouble of getting up and picking the daisies, when suddenly a White Rabbit with pink eyes ran close by her.
def reads(text):    return [word for word in text.split()  if word]  # 0 1 23 456
Der Käfer läuft über die Straße. L'été, le garçon était là. El niño soñó. Привет, мир.
"""

SPACES = ["", " ", "  ", "   ", "       ", "\t", "\n", "\n\n", "\r\n", " \n ", "\t\t x", "\u00a0", "\u3000", "\u200b",
          "\u2028", "\u2581", "\u2581\u2581", " \u2581 ", "a\u2581b", "\u2581a", "a", " a", "a ", "  a  ", " a b ",
          "a  b", "a   b    c", "\na", "a\n", "a\n\n b", "\ta\tb", "x" * 60, " " * 60, "ab " * 30, "\u2581" * 33]

AWKWARD = [
    "The Rabbit's book.", "the the the", "Straße über", "L'été", "cafe\u0301", "café", "e\u0301e\u0301", "\u0301",
    "a\u0300\u0301\u0302b", "日本語", "中文 and text", " 日本", "日本 語 ", "안녕 하세요", "שלום", "مرحبا بكم", "ไทย",
    "Привет, мир", "ʼn ĸ ŧ", "ﬁne ½ ²", "İi ıI", "\U0001F600", "a\U0001F600b", " \U0001F600 \U0001F601 ",
    "\U0001F468\u200d\U0001F469\u200d\U0001F467", "\U0001F1E9\U0001F1EA", "\U0001F44D\U0001F3FD!", "\U0010FFFF",
    "\ue000\ue001", "\ufffd", "\ufffd\ufffdx", "\ufeffbom", "\x00", "a\x00b", "\x01\x02\x7f", "\x80\x9f", "\ud7ff\ue000",
    "<0x41>", "<0x0A>", "<0xFG>", "<0x", "<unk>", "<unk> <unk>", "<s>", "</s>", "<s></s>", "<s> a", "a <s>", "a<s>b",
    " <s> ", "a </s> b", "</s>\n", "\n</s>", "<s>the</s>the", "< s >", "<S>", "<s", "s>", "<<s>>", "</s></s> ",
    "word", " word", "word ", " word ", "swords", "a word a", "a word, word", "word\u0301", "_word", "wordword",
    "<|user|>", "<|user|>\n hi<|end|>\n<|assistant|>", "  <|user|>  <|end|>  ", "\u3000<|end|>\u3000", "<|end|> <|end|>",
    "x <|user|> y", "<tool>", "a<tool>b", " <tool>", "  <tool>  x", "\u2581<tool>", "<tool><tool>", "<tool> <tool>",
    "<TOOL>", "[INST] Read! [/INST] It was. </s>", "1 23 456 7890", "3.14e-10", "a_b-c.d,e;f:g", "((()))", "\\n\\t",
    "http://a.b/c?d=e&f=%20", "$x = {y: [1, 2]};", "    if word:\n        return\n", "\tif\n\t\telse\n", "A\u2009B",
    "zZzZzZ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ее", "œuvre", "ﷺ", "𝒜𝒷", "㍿",
    "qq\U0001F600\U0001F600qq", "日" * 30, "é" * 50, "the" * 25, " the" * 25, "\U0001F600" * 13, "Ωmega 日 x Ω",
]


def random_texts(count):
    draw = random.Random(5)
    words = CORPUS.split()
    parts = [" ", "  ", "\n", "\t", "\u2581", "é", "e\u0301", "日", "語", "\U0001F600", "\u200d", "<s>", "</s>", "<unk>",
             "<|end|>", " <tool>", "word", "a", "b", ".", "Ω", "\u0301", "\x00", "ß", "the", " the", "и"]
    texts = []
    for i in range(count):
        if i % 2 == 0:
            texts.append("".join(draw.choice(parts) for _ in range(draw.randint(1, 12))))
        else:
            texts.append(draw.choice(["", " "]) + draw.choice([" ", "  ", ""]).join(
                draw.choice(words if draw.random() < 0.8 else parts) for _ in range(draw.randint(1, 9))))
    return texts


def trained(size):
    """A vocabulary and its merges, with the bytes behind three special tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"],
                                  limit_alphabet=75)
    tokenizer.train_from_iterator(CORPUS.strip().split("\n") * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens[3:3] = [f"<0x{byte:02X}>" for byte in range(256)]
    # Runs of spaces, as Llama's vocabulary has them.
    merges = [tuple(merge) for merge in model["merges"]]
    for length in (1, 2, 4):
        tokens.append("\u2581" * 2 * length)
        merges.append(("\u2581" * length, "\u2581" * length))
    return tokens, merges


PREPEND = {"type": "Prepend", "prepend": "\u2581"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
BACK = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
BYTES_AND_FUSE = [{"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BEGIN = {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}


def sequence(kind, parts):
    return {"type": "Sequence", kind: parts}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def file_of(tokens, merges, added, **parts):
    """A tokenizer.json. `added`: (content, flags that are set), a new token if the vocabulary does not have it."""
    options = {"dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
               "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    model = {"type": "BPE"} | {key: parts.pop(key, value) for key, value in options.items()}
    model |= {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    flags = ["single_word", "lstrip", "rstrip", "normalized", "special"]
    entries, next_id = [], len(tokens)
    for content, its_flags in added:
        known = content in model["vocab"]
        entries.append({"id": model["vocab"][content] if known else next_id, "content": content}
                       | {flag: flag in its_flags.split() for flag in flags})
        next_id += 0 if known else 1
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": entries, "normalizer": None,
            "pre_tokenizer": None, "post_processor": BEGIN} | parts | {"model": model}


def make_files():
    special = [("<unk>", "special"), ("<s>", "special"), ("</s>", "special")]
    tokens, merges = trained(380)
    strings = [f"{left} {right}" for left, right in merges]
    chain = sequence("decoders", [BACK] + BYTES_AND_FUSE)
    stripping = sequence("decoders", [BACK] + BYTES_AND_FUSE + [STRIP])
    prepending = sequence("normalizers", [PREPEND, REPLACE])

    yield "spm", file_of(tokens, merges, special, normalizer=prepending, decoder=stripping)
    yield "spm_first", file_of(
        tokens, strings,
        special[:2] + [("</s>", "special rstrip"), ("<|user|>", "special rstrip"), ("<|end|>", "special lstrip rstrip"),
                       ("<tool>", "lstrip"), ("word", "single_word")],
        pre_tokenizer=metaspace("first", False), decoder=stripping)
    yield "spm_gemma", file_of(
        tokens, merges, special + [("\u2581\u2581\u2581", ""), ("<|user|>", "special"), ("<tool>", "normalized")],
        normalizer=REPLACE, decoder=chain,
        pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False})

    odd, ways = [token for token in tokens if token not in ("<0xA9>", "<0x98>", "<0xE8>")], list(merges)
    for pair in [("<0xF0>", "<0x9F>"), ("<unk>", "<unk>"), ("e", "<unk>"), ("<0x0A>", "a"), ("\u2581", "<0xE6>")]:
        odd.append("".join(pair))
        ways.insert(7 * len(pair[0]), pair)
    for token in [token for token in odd if 3 <= len(token) <= 5 and "<" not in token][:40]:
        if token[:1] in odd and token[1:] in odd and (token[0], token[1:]) not in ways:
            ways.insert(len(ways) // 2, (token[0], token[1:]))
    yield "spm_odd", file_of(
        odd, ways,
        [("<unk>", "special"), ("<s>", "special normalized"), ("</s>", "special normalized rstrip"),
         ("<tool>", "normalized lstrip"), ("word", "normalized single_word"), ("<|end|>", "lstrip rstrip"),
         ("\t", "lstrip rstrip")],
        fuse_unk=False, ignore_merges=True, normalizer=prepending, pre_tokenizer=metaspace("always", True),
        decoder=sequence("decoders", [metaspace("always", True), {"type": "ByteFallback"}]),
        post_processor=sequence("processors", [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, BEGIN]))


def case_of(tokenizer, text):
    """What is left out is the same as what stands before it."""
    encoding = tokenizer.encode(text)
    case = {"ids": encoding.ids, "offsets": [end for offset in encoding.offsets for end in offset]}
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    decoded = tokenizer.decode(encoding.ids, skip_special_tokens=False)
    skipped = tokenizer.decode(encoding.ids, skip_special_tokens=True)
    case |= {"ids_plain": plain} if plain != encoding.ids else {}
    case |= {"decoded": decoded} if decoded != text else {}
    return case | ({"decoded_skip": skipped} if skipped != decoded else {})


def random_ids(tokenizer, draw):
    """Tokens among which are bytes, often parts of a character, that make no text, and ids that no token has."""
    ids = []
    while len(ids) < 12 and draw.random() < 0.9:
        character = draw.choice(["é", "日", "\U0001F600", "\n", "z", "\ufffd"]).encode()
        ids += [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in character[:draw.randint(1, 4)]]
        if draw.random() < 0.5:
            ids.append(draw.randrange(tokenizer.get_vocab_size() + 2))
    return [i for i in ids if i is not None]


def write(name, lines):
    text = "[\n" + ",\n".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) for line in lines) + "\n]\n"
    (here / name).write_text(text, encoding="utf-8")


texts = list(dict.fromkeys(SPACES + AWKWARD + random_texts(140)))
write("spm_texts.json", texts)
decodes, draw = [], random.Random(6)
for name, file in make_files():
    text = json.dumps(file, ensure_ascii=False, separators=(",", ":"))
    (here / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_str(text)
    write(f"{name}_cases.json", [case_of(tokenizer, text) for text in texts])
    for _ in range(60):
        ids = random_ids(tokenizer, draw)
        decodes.append({"file": name, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                        "decoded_skip": tokenizer.decode(ids, skip_special_tokens=True)})
write("spm_decodes.json", decodes)
