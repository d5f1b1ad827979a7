"""Choosing a token on a GPU in PyTorch: the peer of bench/gpu/elementwise_bench's sampling, on its vocabularies and options.

    python bench/peers/torch_sampling.py [--device cpu]

Repetition penalty of three tokens, temperature, top-k by torch.topk, top-p by a sort and a running sum, min-p, softmax and
torch.multinomial, in the order and by the operations of transformers; greedily the largest logit. 16 choices as one CUDA
graph, from one row of float32 logits. Eagerly, and compiled where several operations but no sort, which would be the same
kernel, are to be made one. One JSON object a line, as bench/README.md describes. --device cpu shows that the program runs,
nothing else.
"""
import argparse

import torch
from record import each_cell, print_record
from torch_elementwise import in_mode, time_all

VOCABULARIES = [32000, 128256, 151936]
CHOICES = 16
OPTIONS = {
    "greedy": {},
    "greedy with penalty": {"penalty": 1.1},
    "temperature 0.8": {"temperature": 0.8},
    "top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "top-k 50": {"temperature": 0.8, "top_k": 50},
    "top-k 50, top-p 0.9, min-p 0.02": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.02},
}
COMPILED = ["greedy with penalty", "temperature 0.8"]
RULED_OUT = float("-inf")


def filtered(logits, seen, penalty=1.0, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0):
    """The logits [1, vocabulary] that the next token is chosen by; seen [1, tokens]: those that are penalised."""
    if penalty != 1:
        old = logits.gather(1, seen)
        logits = logits.scatter(1, seen, torch.where(old < 0, old * penalty, old / penalty))
    if temperature > 0:
        logits = logits / temperature
    if top_k > 0:
        logits = logits.masked_fill(logits < torch.topk(logits, top_k).values[:, -1:], RULED_OUT)
    if top_p < 1:
        ordered, ids = torch.sort(logits, descending=True)
        probabilities = ordered.softmax(-1)
        beyond = probabilities.cumsum(-1) - probabilities >= top_p  # those before it are enough
        logits = logits.masked_fill(beyond.scatter(1, ids, beyond), RULED_OUT)
    if min_p > 0:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < min_p * probabilities.max(-1, keepdim=True).values, RULED_OUT)
    return logits


def choose(logits, seen, **options):
    logits = filtered(logits, seen, **options)
    if "temperature" not in options:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1)


def measure(name, vocabulary, mode, device):
    logits = 8 * 3**0.5 * (2 * torch.rand(1, vocabulary, device=device) - 1)  # a deviation of 8, as ours
    seen = torch.tensor([[1, 2, 3]], device=device)
    kept = [None] * CHOICES

    def run(fn):
        with torch.no_grad():
            for i in range(CHOICES):
                kept[i] = fn(logits, seen, **OPTIONS[name])

    fn = in_mode(choose, mode)
    for us in time_all({name: lambda: lambda: run(fn)}, device).values():
        print_record(f"torch {mode}", f"sampling {name}", {"vocabulary": vocabulary}, [t / CHOICES for t in us], "us")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    vocabularies = VOCABULARIES if options.device == "cuda" else [200]
    each_cell([(name, vocabulary, mode, options.device) for vocabulary in vocabularies for name in OPTIONS
               for mode in (["eager", "compiled"] if name in COMPILED else ["eager"])], measure)


if __name__ == "__main__":
    main()
