"""Makes texts for timing `wick embed`: JSON Lines {"text"} of random words, each a token of the model's own vocabulary.

    python bench/embedding_texts.py MODEL_DIR COUNT [--words 18 34] > texts.jsonl

The same arguments give the same texts.
"""
import argparse
import json
import pathlib
import random


def words_of(tokenizer):
    """The entries of a vocabulary that are ASCII letters only, of which there is a dict (WordPiece, BPE) or a list of pairs
    (Unigram)."""
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    entries = vocabulary if isinstance(vocabulary, dict) else (piece for piece, _ in vocabulary)
    return [entry for entry in entries if len(entry) > 1 and entry.isascii() and entry.isalpha()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL_DIR")
    parser.add_argument("count", type=int, metavar="COUNT")
    parser.add_argument("--words", type=int, nargs=2, default=(18, 34), metavar=("LEAST", "MOST"), help="in a text; default: 18 34")
    options = parser.parse_args()
    least, most = options.words
    if options.count < 0 or not 1 <= least <= most:
        parser.error("COUNT is 0 or more, and 1 <= LEAST <= MOST")
    words = words_of(options.model / "tokenizer.json")
    if not words:
        parser.error(f"{options.model / 'tokenizer.json'} has no token that is a word")
    chance = random.Random(1)
    for _ in range(options.count):
        print(json.dumps({"text": " ".join(chance.choices(words, k=chance.randint(least, most)))}))


if __name__ == "__main__":
    main()
