"""Decoding and reading a prompt with transformers: the peer of `wick bench decode` and `wick bench prefill`.

    python bench/peers/torch_decode.py decode bench/shapes/llama-3.2-1b.json [--mode eager|compiled|graph] [--json]

Random weights of a shape, random tokens, one sequence, greedily. `eager` runs the model as it is with the cache that
grows; `compiled` with a static cache and torch.compile (decoding in the mode "reduce-overhead", which replays CUDA
graphs); `graph` decodes with a static cache from one CUDA graph of a whole uncompiled step. The loop is written out:
it never waits for the device between tokens. Timed are the tokens after the first, or the whole prompt.
"""
import argparse
import pathlib
import time

import torch
from record import print_record, spread_of
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, StaticCache


def random_model(options):
    config = AutoConfig.from_pretrained(options.shape)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    torch.set_default_dtype(torch.float32)
    return model


def synchronize(options):
    if options.device == "cuda":
        torch.cuda.synchronize()


class Run:
    """Reads the prompt into a cache, and makes tokens from there."""

    def __init__(self, model, options):
        self.model, self.options = model, options
        self.ids = torch.randint(0, model.config.vocab_size, (1, options.prompt), device=options.device)
        self.static = None
        if options.mode != "eager":
            self.static = StaticCache(config=model.config, max_cache_len=options.prompt + options.tokens)
        self.cache = self.static
        self.prefill = self.forward
        self.step = self.forward
        if options.mode == "compiled" and options.work == "prefill":
            self.prefill = torch.compile(self.forward, dynamic=False)
        if options.mode == "compiled" and options.work == "decode":
            self.step = torch.compile(self.forward, mode="reduce-overhead", dynamic=False)
        if options.mode == "graph":
            self.step = self.captured_step()

    def forward(self, ids):
        logits = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    def reset(self):
        if self.static is None:
            self.cache = DynamicCache(config=self.model.config)
        else:
            self.static.reset()

    def captured_step(self):
        token = self.forward(self.ids)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.forward(token)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self.forward(token)

        def step(ids):
            token.copy_(ids)
            graph.replay()
            return result
        return step

    def decode(self):
        """Seconds for each token after the first."""
        self.reset()
        token = self.prefill(self.ids)
        synchronize(self.options)
        start = time.perf_counter()
        for _ in range(self.options.tokens):
            if self.options.mode == "compiled":
                torch.compiler.cudagraph_mark_step_begin()
                token = token.clone()
            token = self.step(token)
        synchronize(self.options)
        return (time.perf_counter() - start) / self.options.tokens

    def read_prompt(self):
        """Seconds for the prompt and the token after it."""
        self.reset()
        synchronize(self.options)
        start = time.perf_counter()
        self.prefill(self.ids)
        synchronize(self.options)
        return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["decode", "prefill"])
    parser.add_argument("shape")
    parser.add_argument("--mode", choices=["eager", "compiled", "graph"], default="eager")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as bench/README.md describes")
    options = parser.parse_args()
    if options.mode == "graph" and (options.work == "prefill" or options.device == "cpu"):
        parser.error("a graph is for decoding on a GPU")
    with torch.no_grad():
        run = Run(random_model(options), options)
        measure = run.decode if options.work == "decode" else run.read_prompt
        times = [1e3 * measure() for _ in range(3 + options.repeats)][3:]  # the first ones compile and warm up
    spread = spread_of(times)
    case = {"model": pathlib.Path(options.shape).stem, "prompt": options.prompt, "dtype": "bf16"}
    if options.work == "decode":
        case["tokens"] = options.tokens
    if options.json:
        print_record(f"transformers {options.mode}", options.work, case, spread, "ms")
    else:
        print("{} {} {}: {:.3f} ms ({:.3f} to {:.3f})".format(options.work, options.shape, options.mode, *spread))


if __name__ == "__main__":
    main()
