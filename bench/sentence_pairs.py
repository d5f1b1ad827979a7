"""Makes pairs for `wick train --task contrastive` from a book: a sentence, and the two on either side of it
(the inverse cloze task of Lee et al. 2019).

    python bench/sentence_pairs.py BOOK OUT        # folders with train.jsonl and valid.jsonl; BOOK's rows are {"text"}

No sentence is in two pairs, and none crosses a row of the book. Sentences of fewer than six words are left out.
"""
import json
import re
import sys
from pathlib import Path

book, out = map(Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)
for name in ("train.jsonl", "valid.jsonl"):
    pairs = []
    for line in (book / name).read_text().splitlines():
        text = re.sub(r"\s+", " ", json.loads(line)["text"])
        sentences = [s for s in re.split(r"(?<=[.!?]) (?=[A-Z\"'])", text) if len(s.split()) >= 6]
        pairs += [(b, f"{a} {c}") for a, b, c in zip(*(sentences[i::3] for i in range(3)))]
    (out / name).write_text("".join(json.dumps({"anchor": a, "positive": b}) + "\n" for a, b in pairs))
    print(f"{out / name}: {len(pairs)} pairs")
