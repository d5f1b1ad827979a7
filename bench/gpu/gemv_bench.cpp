// Products of few rows, as decoding has them: each of a model's shapes by itself, and the chain of products of whole
// layers, in a recorded graph.
//
//   gemv_bench [--json] [--rows M]... [--repeats N]
//
// Every product has a weight of its own, as many of them as together pass the L2 cache (at least those of 16 layers for
// the chain), so weights come from memory. GB/s counts each weight once, and neither x nor y.
#include <cstdio>

#include "backend/cuda/gemv.h"
#include "gpu/record.h"
#include "gpu/timing.h"

namespace wick::bench {
namespace {

struct Product {
  const char* name;
  std::int64_t n, k;
  bool swiglu = false;
  bool residual = false;
  bool logits = false;  // f32
};
struct Model {
  const char* name;
  std::vector<Product> products;
};

const std::vector<Model>& models() {
  static const std::vector<Model> all = {
      {"Llama-3.2-1B",
       {{"qkv", 3072, 2048},
        {"o", 2048, 2048, false, true},
        {"gate_up", 16384, 2048, true},
        {"down", 2048, 8192, false, true},
        {"head", 128256, 2048, false, false, true}}},
      {"Qwen2.5-0.5B",
       {{"qkv", 1152, 896},
        {"o", 896, 896, false, true},
        {"gate_up", 9728, 896, true},
        {"down", 896, 4864, false, true},
        {"head", 151936, 896, false, false, true}}},
  };
  return all;
}

// One product, with everything it needs.
struct Placed {
  Tensor x, weight, y;
  cuda::GemvOptions options;

  Placed(const Product& p, std::int64_t m, Device device)
      : x(random({m, p.k}, DType::bf16, device)), weight(random({p.n, p.k}, DType::bf16, device, 0.02)) {
    y = Tensor::zeros({m, p.swiglu ? p.n / 2 : p.n}, p.logits ? DType::f32 : DType::bf16, device);
    if (p.residual) options.residual = random(y.shape(), y.dtype(), device);
    options.swiglu = p.swiglu;
    options.frozen = true;
  }
  void run() const {
    if (!cuda::gemv(x, weight, y, 1, 0, options)) fail(ErrorCode::unsupported, "gemv declined {}", describe(weight));
  }
  double bytes() const { return 2.0 * static_cast<double>(weight.numel()); }
};

struct Row {
  std::string model, product;
  std::int64_t m;
  Spread microseconds;  // of one product, or of one pass through all layers
  double bytes;
};

std::vector<Row> measure(const Model& model, std::int64_t m, Device device, int repeats) {
  const double cache = static_cast<double>(cuda::info(device.index).l2_bytes);
  std::vector<std::vector<Placed>> groups;  // timed together, each as one graph
  std::vector<Row> rows;
  for (const Product& p : model.products) {
    const double bytes = 2.0 * static_cast<double>(p.n * p.k);
    const int count = std::max(4, static_cast<int>(4 * cache / bytes) + 1);
    std::vector<Placed> placed;
    for (int i = 0; i < count; ++i) placed.emplace_back(p, m, device);
    groups.push_back(std::move(placed));
    rows.push_back({model.name, p.name, m, {}, bytes});
  }
  std::vector<Placed> chain;
  double bytes = 0;
  for (int layer = 0; layer < 16; ++layer) {
    for (const Product& p : model.products) {
      if (!p.logits) chain.emplace_back(p, m, device);
    }
  }
  // Each reads what another wrote: gate_up's y is down's x, and so on where the shapes allow it.
  for (std::size_t i = 1; i < chain.size(); ++i) {
    if (chain[i - 1].y.shape() == chain[i].x.shape()) chain[i].x = chain[i - 1].y;
  }
  for (const Placed& p : chain) bytes += p.bytes();
  groups.push_back(std::move(chain));
  rows.push_back({model.name, "16 layers", m, {}, bytes});

  std::vector<Work> works;
  for (const auto& group : groups) {
    works.push_back({[&group] {
      for (const Placed& p : group) p.run();
    }});
  }
  const std::vector<Spread> times = time_in_turn(device, works, repeats, 4);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const double count = i + 1 == rows.size() ? 1 : static_cast<double>(groups[i].size());
    rows[i].microseconds = {times[i].median / count, times[i].low / count, times[i].high / count};
  }
  return rows;
}

int run(int argc, char** argv) {
  bool json = false;
  std::vector<std::int64_t> ms;
  int repeats = 21;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--json") {
      json = true;
    } else if (name == "--rows" && i + 1 < argc) {
      ms.push_back(std::atoll(argv[++i]));
    } else if (name == "--repeats" && i + 1 < argc) {
      repeats = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "gemv_bench [--json] [--rows M]... [--repeats N]\n");
      return 2;
    }
  }
  if (ms.empty()) ms = {1, 4, 8};
  const Device device = gpu();
  for (const Model& model : models()) {
    for (const std::int64_t m : ms) {
      for (const Row& row : measure(model, m, device, repeats)) {
        const double rate = row.bytes / row.microseconds.median * 1e-3;
        if (json) {
          const Json parameters = {{"model", row.model}, {"product", row.product}, {"rows", row.m}, {"dtype", "bf16"}};
          print_record("gemv", parameters, row.microseconds, "us", {{"gb_s", rate}});
        } else {
          std::printf("%-13s %-10s m %lld: %8.2f us (%.2f to %.2f), %5.0f GB/s\n", row.model.c_str(),
                      row.product.c_str(), static_cast<long long>(row.m), row.microseconds.median, row.microseconds.low,
                      row.microseconds.high, rate);
        }
        std::fflush(stdout);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace wick::bench

int main(int argc, char** argv) {
  return wick::bench::guarded([&] { return wick::bench::run(argc, argv); });
}
