#!/usr/bin/env python3
"""Token ids of random texts beside those of the Python package tokenizers, for any number of tokenizer.json files.

    python bench/peers/compare_tokenizers.py [--count 100000] [--encode build/release/bin/encode_lines] TOKENIZER.json...

Texts mix words, letters with and without accents, CJK, emoji and their joiners, Arabic, Devanagari, Thai, compatibility
characters, spaces of all kinds, the names of special tokens, and any character of the basic plane. Prints how many texts
differ, with the first of them, and exits with 1 if any does. The tests hold 2,000 texts for each kind of tokenizer; this is
for more of them. What differs should be characters that are newer than the Unicode tables of either side (README.md).
"""

import argparse
import json
import random
import subprocess
import sys

from tokenizers import Tokenizer

ALPHABETS = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", " \t\n\u2009\u00a0\u3000",
             ".,;:!?'\"-()[]{}@#$%^&*_+=/\\|<>~`", "éèüßñçøåæœ", "абвгдежзиклмнопрстуф", "漢字仮名交じり文中国語한국어",
             "😀🎉👩\u200d👩\u200d👧\u200d👦🇩🇪", "ﬁﬂ①②½ⅣＡｂｃ\u200b\ufeff\u0301\u0308", "العربيةעברית", "हिन्दी", "ไทย"]
WORDS = "the of and to in a is that it was for on are with as his they be at one have this from or had by not word".split()
SPECIAL = ["<s>", "</s>", "<pad>", "<mask>", " <mask> ", "[MASK]", "[CLS]", "<unk>", "<|endoftext|>"]


def random_text(rng):
    parts = []
    for _ in range(rng.choice([0, 1, 3, 8, 20, 60])):
        kind = rng.random()
        if kind < 0.4:
            parts.append(rng.choice(WORDS))
        elif kind < 0.45:
            parts.append(rng.choice(SPECIAL))
        elif kind < 0.9:
            alphabet = rng.choice(ALPHABETS)
            parts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 8))))
        else:
            code = rng.randint(0x20, 0xFFFF)
            parts.append("x" if 0xD800 <= code <= 0xDFFF else chr(code))
        if rng.random() < 0.6:
            parts.append(" ")
    return "".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="TOKENIZER.json")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--encode", default="build/release/bin/encode_lines")
    options = parser.parse_args()
    rng = random.Random(7)
    texts = [random_text(rng) for _ in range(options.count)]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    differ = 0
    for file in options.files:
        said = subprocess.run([options.encode, file], input=lines, capture_output=True, text=True, check=True).stdout
        found = [[int(i) for i in line.split()] for line in said.splitlines()]
        peer = Tokenizer.from_file(file)
        peer.no_padding()
        expected = [encoding.ids for encoding in peer.encode_batch(texts)]
        bad = [i for i in range(len(texts)) if i >= len(found) or found[i] != expected[i]]
        print(f"{file}: {len(bad)} of {len(texts)} differ", flush=True)
        if bad:
            i = bad[0]
            print(f"  {json.dumps(texts[i])}\n  wick {found[i] if i < len(found) else None}\n  peer {expected[i]}")
        differ += len(bad)
    sys.exit(differ > 0)


if __name__ == "__main__":
    main()
