// The matrix products of a LoRA training step of a model, in bf16: cuBLASLt's first proposal beside the algorithm that
// tuning chooses.
//
//   gemm_bench [--json] [--tokens M] [--rank R] [--repeats N] [SHAPE.json]...
//
// Without a shape, those of bench/shapes, from the root of the sources. Tuned algorithms come from the file that
// training uses, and go there when they are new (WICK_GEMM_TUNING=PATH for another file; off compares nothing). Both
// sides take turns on the same inputs, in recorded graphs, in as many sets as together pass the L2 cache twice.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "backend/gemm.h"
#include "gpu/record.h"
#include "gpu/timing.h"
#include "wick/model.h"

namespace wick::bench {
namespace {

struct Options {
  bool json = false;
  std::int64_t tokens = 8192;
  std::int64_t rank = 16;
  int repeats = 11;
  std::vector<std::string> shapes;
};

// c [m, n] = a [m, k] b [k, n].
struct Product {
  std::string name;
  Tensor a, b, c;
  bool add = false;
};

// All siblings of one linear layer with their adapters, as lora_linear multiplies them.
struct Layer {
  const char* name;
  std::int64_t in, out, siblings;
};

std::vector<Product> products_of(const Layer& layer, const Options& o, Device device) {
  const std::int64_t m = o.tokens;
  const std::int64_t r = (layer.siblings * o.rank + 15) / 16 * 16;
  const auto matrix = [&](std::int64_t rows, std::int64_t columns) {
    return random({rows, columns}, DType::bf16, device, 0.1);
  };
  const Tensor x = matrix(m, layer.in + r);
  const Tensor dy = matrix(m, layer.out + r);
  const Tensor weight = matrix(layer.out + r, layer.in + r);
  const Tensor x_core = x.slice(1, 0, layer.in);
  const Tensor dy_core = dy.slice(1, 0, layer.out);
  const Tensor h = x.slice(1, layer.in, r);
  const Tensor g = dy.slice(1, layer.out, r);
  const Tensor a = weight.slice(0, layer.out, r).slice(1, 0, layer.in);
  const Tensor b = weight.slice(0, 0, layer.out).slice(1, layer.in, r);
  const auto result = [&](std::int64_t rows, std::int64_t columns, DType dtype = DType::bf16) {
    return Tensor::zeros({rows, columns}, dtype, device);
  };
  const std::string name = layer.name;
  return {
      {name + " y", x, weight.slice(0, 0, layer.out).transpose(0, 1), result(m, layer.out)},
      {name + " dx", dy, weight.slice(1, 0, layer.in), result(m, layer.in)},
      {name + " h", x_core, a.transpose(0, 1), h},
      {name + " g", dy_core, b, g},
      {name + " dA", g.transpose(0, 1), x_core, result(r, layer.in, DType::f32), true},
      {name + " dB", dy_core.transpose(0, 1), h, result(layer.out, r, DType::f32), true},
  };
}

void report(const Options& o, const std::string& model, const Layer& layer, Device device) {
  const std::vector<Product> first = products_of(layer, o, device);
  const auto bytes = [](const Tensor& t) {
    return static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype()));
  };
  const double cache = static_cast<double>(cuda::info(device.index).l2_bytes);
  double inputs = bytes(first[0].a) + bytes(first[0].b);
  std::vector<std::vector<Product>> sets = {first};
  for (double held = inputs; held < 2 * cache; held += inputs) sets.push_back(products_of(layer, o, device));
  std::vector<Work> works;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const auto run = [&sets, i] {
      for (const std::vector<Product>& set : sets) {
        gemm(set[i].a, set[i].b, set[i].c, 1.0, set[i].add ? 1.0 : 0.0);
      }
    };
    works.push_back({run});
    works.push_back({[run] {
      const GemmTuning tuning;
      run();
    }});
  }
  const std::vector<Spread> times = time_in_turn(device, works, o.repeats, 4);
  for (std::size_t i = 0; i < first.size(); ++i) {
    const Product& p = first[i];
    const double flops =
        2.0 * static_cast<double>(p.a.size(0)) * static_cast<double>(p.b.size(1)) * static_cast<double>(p.a.size(1));
    const auto sets_count = static_cast<double>(sets.size());
    const auto us = [&](std::size_t at) {
      return Spread{times[at].median / sets_count, times[at].low / sets_count, times[at].high / sets_count};
    };
    const Spread proposed = us(2 * i);
    const Spread tuned = us(2 * i + 1);
    const auto rate = [&](const Spread& time) { return flops / time.median / 1e6; };
    if (o.json) {
      const Json parameters = {{"model", model},   {"product", p.name}, {"m", p.a.size(0)}, {"n", p.b.size(1)},
                               {"k", p.a.size(1)}, {"rank", o.rank},    {"dtype", "bf16"}};
      print_record("gemm", parameters, tuned, "us", {{"tflops", rate(tuned)}});
      print_record("gemm", parameters, proposed, "us",
                   {{"by", "cuBLASLt's first proposal"}, {"tflops", rate(proposed)}});
    } else {
      std::printf("%-28s %-12s %6lld x %6lld x %6lld  proposed %8.1f us %6.1f TFLOP/s  tuned %8.1f us %6.1f  %.3fx\n",
                  model.c_str(), p.name.c_str(), static_cast<long long>(p.a.size(0)),
                  static_cast<long long>(p.b.size(1)), static_cast<long long>(p.a.size(1)), proposed.median,
                  rate(proposed), tuned.median, rate(tuned), proposed.median / tuned.median);
    }
  }
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const char* const value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--json") {
      o.json = true;
    } else if (name == "--tokens") {
      o.tokens = std::atoll(value), ++i;
    } else if (name == "--rank") {
      o.rank = std::atoll(value), ++i;
    } else if (name == "--repeats") {
      o.repeats = std::max(1, std::atoi(value)), ++i;
    } else if (name.starts_with("--")) {
      std::fprintf(stderr, "gemm_bench [--json] [--tokens M] [--rank R] [--repeats N] [SHAPE.json]...\n");
      return 2;
    } else {
      o.shapes.push_back(name);
    }
  }
  if (o.shapes.empty()) {
    o.shapes = {"bench/shapes/qwen2.5-0.5b.json", "bench/shapes/llama-3.2-1b.json", "bench/shapes/llama-3.1-8b.json"};
  }
  const Device device = gpu();
  for (const std::string& path : o.shapes) {
    const std::string model = std::filesystem::path(path).stem().string();
    const ModelConfig c = ModelConfig::from_file(path);
    const std::int64_t q = c.num_attention_heads * c.head_dim;
    const std::int64_t kv = c.num_key_value_heads * c.head_dim;
    const Layer layers[] = {{"qkv", c.hidden_size, q + 2 * kv, 3},
                            {"o", q, c.hidden_size, 1},
                            {"gate_up", c.hidden_size, 2 * c.intermediate_size, 2},
                            {"down", c.intermediate_size, c.hidden_size, 1}};
    for (const Layer& layer : layers) report(o, model, layer, device);
  }
  return 0;
}

}  // namespace
}  // namespace wick::bench

int main(int argc, char** argv) {
  return wick::bench::guarded([&] { return wick::bench::run(argc, argv); });
}
