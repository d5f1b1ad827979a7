// Products of few rows, as decoding has them: each of a model's shapes by itself, and the chain of products of whole
// layers, in a recorded graph.
//
//   gemv_bench [--json] [--rows M]... [--repeats N]
//   gemv_bench --plans [--model NAME] [--repeats N]
//
// --plans: one row, by several plans of gemv_streamed() and by registers, in turn. *layer* is of a chain of all of a
// model's layers with their norms and attention of 256 keys, as a decoded token has them.
//
// Every product has a weight of its own, as many of them as together pass the L2 cache (at least those of 16 layers for
// the chain), so weights come from memory. GB/s counts each weight once, and neither x nor y.
#include <cstdio>
#include <optional>

#include "backend/cuda/gemv_streamed.h"
#include "gpu/record.h"
#include "gpu/timing.h"
#include "wick/ops.h"

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
  int layers;
  std::int64_t heads, kv_heads;  // of 64
  std::vector<Product> products;
};

const std::vector<Model>& models() {
  static const std::vector<Model> all = {
      {"Llama-3.2-1B",
       16,
       32,
       8,
       {{"qkv", 3072, 2048},
        {"o", 2048, 2048, false, true},
        {"gate_up", 16384, 2048, true},
        {"down", 2048, 8192, false, true},
        {"head", 128256, 2048, false, false, true}}},
      {"Qwen2.5-0.5B",
       24,
       14,
       2,
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

// How the products of a layer are done, in their order; by registers where there is no plan.
struct Way {
  std::string name;
  std::optional<cuda::GemvPlan> plans[4];
};

std::vector<Way> ways() {
  const cuda::GemvPlan usual;
  std::vector<Way> all = {{"registers", {}},
                          {"as decoding has it", {usual, usual, usual, usual}},
                          {"gate_up alone", {{}, {}, usual, {}}},
                          {"down alone", {{}, {}, {}, usual}},
                          {"gate_up, down", {{}, {}, usual, usual}},
                          {"qkv, o", {usual, usual, {}, {}}}};
  const auto add = [&](const cuda::GemvPlan& p) {
    const auto named = [](const char* what, int value) { return what + std::to_string(value) + " "; };
    all.push_back({named("warps ", p.warps) + named("blocks ", p.blocks) + named("stage ", p.stage) +
                       named("ring ", p.ring) + named("flight ", p.in_flight),
                   {p, p, p, p}});
  };
  for (const int stage : {8, 16}) {
    for (const int ring : {64, 96, 112}) {
      for (const int in_flight : {16, 24, 32, 48, 64}) add({.stage = stage, .ring = ring, .in_flight = in_flight});
    }
  }
  for (const int ring : {32, 48, 128, 160}) add({.ring = ring});
  for (const int warps : {4, 16}) add({.warps = warps});
  add({.in_flight = 8});
  add({.in_flight = 1024});  // all that the ring has room for
  add({.stage = 4});
  add({.stage = 32, .in_flight = 64});
  for (const int ring : {32, 48}) {
    for (const int in_flight : {12, 16, 24}) add({.blocks = 2, .stage = 8, .ring = ring, .in_flight = in_flight});
  }
  return all;
}

struct Layer {
  std::vector<Placed> products;
  Tensor keys, values;
};

// One token through all layers; what is between them has fixed places.
class Token {
 public:
  Token(const Model& model, Device device) : model_(model) {
    constexpr std::int64_t kCapacity = 512;
    constexpr std::int32_t kKeys = 256;
    for (int i = 0; i < model.layers; ++i) {
      Layer layer;
      for (const Product& p : model.products) {
        if (p.logits) continue;
        layer.products.emplace_back(p, 1, device);
        if (!p.residual) layer.products.back().options.norm = random({p.k}, DType::bf16, device);
        layer.products.back().options.eps = 1e-6F;
      }
      layer.keys = random({kCapacity, model.kv_heads, 64}, DType::bf16, device);
      layer.values = random({kCapacity, model.kv_heads, 64}, DType::bf16, device);
      layers_.push_back(std::move(layer));
    }
    cos_ = random({kCapacity, 32}, DType::f32, device);
    sin_ = random({kCapacity, 32}, DType::f32, device);
    options_.query_offsets = Tensor::from(std::vector<std::int32_t>{0, 1}, {2}).to(device);
    options_.key_offsets = Tensor::from(std::vector<std::int32_t>{0, kKeys}, {2}).to(device);
    hidden_ = random({1, model.products[0].k}, DType::bf16, device);
  }

  void run(const Way& way) const {
    Tensor hidden = hidden_;
    for (const Layer& layer : layers_) {
      const auto product = [&](std::size_t i, const Tensor& x, const Tensor& residual) {
        const Placed& p = layer.products[i];
        cuda::GemvOptions options = p.options;
        options.residual = residual;
        multiply(way.plans[i], x, p.weight, p.y, options);
        return p.y;
      };
      const Tensor qkv = product(0, hidden, {});
      const auto part = [&](std::int64_t first, std::int64_t count) {
        return reshape(slice(qkv, 1, first * 64, count * 64), {1, count, 64});
      };
      const Tensor mixed = attention_append(part(0, model_.heads), part(model_.heads, model_.kv_heads),
                                            part(model_.heads + model_.kv_heads, model_.kv_heads), cos_, sin_,
                                            layer.keys, layer.values, options_, true);
      hidden = product(1, reshape(mixed, {1, model_.heads * 64}), hidden);
      hidden = product(3, product(2, hidden, {}), hidden);
    }
  }

  /// The i-th product of all layers, one after the other.
  void run_product(const Way& way, std::size_t i) const {
    for (const Layer& layer : layers_) {
      const Placed& p = layer.products[i];
      multiply(way.plans[i], p.x, p.weight, p.y, p.options);
    }
  }

 private:
  static void multiply(const std::optional<cuda::GemvPlan>& plan, const Tensor& x, const Tensor& weight,
                       const Tensor& y, const cuda::GemvOptions& options) {
    const bool done = plan ? cuda::gemv_streamed(x, weight, y, 1, 0, options, *plan)
                           : cuda::gemv_in_registers(x, weight, y, 1, 0, options);
    if (!done) fail(ErrorCode::unsupported, "declined: {} by {}", describe(x), describe(weight));
  }

  const Model& model_;
  std::vector<Layer> layers_;
  Tensor cos_, sin_, hidden_;
  AttentionOptions options_;
};

void compare_plans(const Model& model, Device device, int repeats) {
  const NoGrad no_grad;
  const Token token(model, device);
  const std::vector<Way> all = ways();
  std::vector<Work> works;
  for (const Way& way : all) {
    works.push_back({[&] { token.run(way); }});
    for (std::size_t i = 0; i < 4; ++i) works.push_back({[&, i] { token.run_product(way, i); }});
  }
  const std::vector<Spread> times = time_in_turn(device, works, repeats, 4);
  std::printf("%-48s %8s %16s %8s %8s %8s %8s   (us)\n", model.name, "layer", "", "qkv", "o", "gate_up", "down");
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto each = [&](std::size_t at) { return times[5 * i + at].median / model.layers; };
    std::printf("%-48s %8.2f (%5.2f to %5.2f) %8.2f %8.2f %8.2f %8.2f\n", all[i].name.c_str(), each(0),
                times[5 * i].low / model.layers, times[5 * i].high / model.layers, each(1), each(2), each(3), each(4));
  }
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  bool json = false;
  bool plans = false;
  std::string only;
  std::vector<std::int64_t> ms;
  int repeats = 21;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--json") {
      json = true;
    } else if (name == "--plans") {
      plans = true;
    } else if (name == "--model" && i + 1 < argc) {
      only = argv[++i];
    } else if (name == "--rows" && i + 1 < argc) {
      ms.push_back(std::atoll(argv[++i]));
    } else if (name == "--repeats" && i + 1 < argc) {
      repeats = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "gemv_bench [--json | --plans] [--model NAME] [--rows M]... [--repeats N]\n");
      return 2;
    }
  }
  if (ms.empty()) ms = {1, 4, 8};
  const Device device = gpu();
  for (const Model& model : models()) {
    if (!only.empty() && only != model.name) continue;
    if (plans) {
      compare_plans(model, device, repeats);
      continue;
    }
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
