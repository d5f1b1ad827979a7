"""Sentence embeddings with transformers: the peer of `wick bench embed`.

    python bench/peers/torch_embed.py bench/shapes/minilm.json [--mode eager|compiled] [--dtype bf16|f16] [--json]

A BertModel of a shape with random weights and sdpa attention, random tokens, every sentence of one length, so that
nothing is padded and no mask is needed. Timed is all from ids in host memory to vectors in host memory: a batch's ids
are copied to the GPU from page-locked memory, the mean over tokens and the length 1 are made in float32, and a batch's
vectors are copied back, beside the next batch, to page-locked memory and from there to the result.
"""
import argparse
import pathlib
import time

import torch
import torch.nn.functional as F
from record import print_record, spread_of
from transformers import AutoConfig, BertModel

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


class Embedder:
    def __init__(self, options):
        config = AutoConfig.from_pretrained(options.shape)
        torch.manual_seed(0)
        self.options = options
        self.cuda = options.device == "cuda"
        model = BertModel(config, add_pooling_layer=False)
        model.set_attn_implementation("sdpa")
        self.model = model.to(options.device, DTYPES[options.dtype]).eval()
        rows = max(1, options.batch_tokens // options.length)
        ids = torch.randint(0, config.vocab_size, (options.sentences, options.length))
        self.batches = [part.contiguous() for part in ids.split(rows)]
        if self.cuda:
            self.batches = [part.pin_memory() for part in self.batches]
            self.beside = torch.cuda.Stream()
        self.slots = [torch.empty(rows, config.hidden_size, pin_memory=self.cuda) for _ in range(2)]
        self.vectors = torch.compile(self.forward, dynamic=False) if options.mode == "compiled" else self.forward

    def forward(self, ids):
        hidden = self.model(input_ids=ids).last_hidden_state
        return F.normalize(hidden.float().mean(1), dim=1)

    @torch.inference_mode()
    def run(self):
        result = torch.empty(self.options.sentences, self.model.config.hidden_size)
        pending = None
        at = 0

        def take():
            nonlocal at
            rows, event, _ = pending
            if event is not None:
                event.synchronize()
            result[at:at + len(rows)] = rows
            at += len(rows)

        for i, part in enumerate(self.batches):
            found = self.vectors(part.to(self.options.device, non_blocking=True))
            rows = self.slots[i % 2][:len(part)]
            event = None
            if self.cuda:
                self.beside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self.beside):
                    rows.copy_(found, non_blocking=True)
                    event = torch.cuda.Event()
                    event.record()
            else:
                rows.copy_(found)
            if pending is not None:
                take()
            pending = rows, event, found
        take()
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--mode", default="eager", choices=["eager", "compiled"])
    parser.add_argument("--dtype", default="bf16", choices=list(DTYPES))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--sentences", type=int, default=1 << 17)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--batch-tokens", type=int, default=1 << 16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    embedder = Embedder(options)
    times = []
    for i in range(2 + options.repeats):  # the first compiles, the second finds memory
        start = time.perf_counter()
        found = embedder.run()
        if i >= 2:
            times.append(time.perf_counter() - start)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(found)), atol=1e-3)
    median, low, high = spread_of(times)
    rates = [options.sentences / t for t in (median, high, low)]
    if options.json:
        case = {"model": pathlib.Path(options.shape).stem, "dtype": options.dtype, "length": options.length,
                "batch_tokens": options.batch_tokens}
        print_record(f"transformers {options.mode}", "embed", case, rates, "sentences/s")
    else:
        print(f"embed {options.shape}, {options.mode}, {options.dtype}: {rates[0]:.0f} sentences/s of {options.length} "
              f"tokens ({rates[1]:.0f} to {rates[2]:.0f}), {rates[0] * options.length / 1e6:.2f} million tokens/s")


if __name__ == "__main__":
    main()
