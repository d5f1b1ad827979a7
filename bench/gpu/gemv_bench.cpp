// Products of few rows, as decoding has them: each of a model's shapes by itself, and the chain of products of whole
// layers, in a recorded graph.
//
//   gemv_bench [--json] [--rows M]... [--repeats N] [--model NAME]
//   gemv_bench --plans [--rows M]... [--repeats N] [--model NAME] [--show N]
//
// Every product has a weight of its own, as many of them as together pass the L2 cache (at least those of 16 layers for
// the chain), so weights come from memory. GB/s counts each weight once, and neither x nor y.
//
// With --plans each product is divided in every way that the kernel takes, alone and in the chain, with the norms that
// a decoder has. The best N are printed, and the plan that is chosen (*). A product's best plan in the chain stays
// there while those behind it are tried.
#include <algorithm>
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
  bool logits = false;                     // f32
  bool norm() const { return !residual; }  // in a decoder
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

  Placed(const Product& p, std::int64_t m, Device device, bool norm = false)
      : x(random({m, p.k}, DType::bf16, device)), weight(random({p.n, p.k}, DType::bf16, device, 0.02)) {
    y = Tensor::zeros({m, p.swiglu ? p.n / 2 : p.n}, p.logits ? DType::f32 : DType::bf16, device);
    if (p.residual) options.residual = random(y.shape(), y.dtype(), device);
    if (norm) options.norm = random({p.k}, DType::bf16, device);
    options.eps = 1e-6F;
    options.swiglu = p.swiglu;
    options.frozen = true;
  }
  void run(const cuda::GemvPlan* plan = nullptr) const {
    cuda::GemvOptions all = options;
    all.plan = plan;
    if (!cuda::gemv(x, weight, y, 1, 0, all)) fail(ErrorCode::unsupported, "gemv declined {}", describe(weight));
  }
  double bytes() const { return 2.0 * static_cast<double>(weight.numel()); }
};

struct Row {
  std::string model, product;
  std::int64_t m;
  Spread microseconds;  // of one product, or of one pass through all layers
  double bytes;
};

// As many products with weights of their own as together pass the cache.
std::vector<Placed> alone(const Product& p, std::int64_t m, Device device, bool norm = false) {
  const double cache = static_cast<double>(cuda::info(device.index).l2_bytes);
  const int count = std::max(4, static_cast<int>(4 * cache / (2.0 * static_cast<double>(p.n * p.k))) + 1);
  std::vector<Placed> placed;
  for (int i = 0; i < count; ++i) placed.emplace_back(p, m, device, norm && p.norm());
  return placed;
}

constexpr int kLayers = 16;

// The products of the layers, one behind the other.
std::vector<Placed> chained(const Model& model, std::int64_t m, Device device, bool norm = false) {
  std::vector<Placed> chain;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const Product& p : model.products) {
      if (!p.logits) chain.emplace_back(p, m, device, norm && p.norm());
    }
  }
  // Each reads what another wrote: gate_up's y is down's x, and so on where the shapes allow it.
  for (std::size_t i = 1; i < chain.size(); ++i) {
    if (chain[i - 1].y.shape() == chain[i].x.shape()) chain[i].x = chain[i - 1].y;
  }
  return chain;
}

std::vector<Row> measure(const Model& model, std::int64_t m, Device device, int repeats) {
  std::vector<std::vector<Placed>> groups;  // timed together, each as one graph
  std::vector<Row> rows;
  for (const Product& p : model.products) {
    groups.push_back(alone(p, m, device));
    rows.push_back({model.name, p.name, m, {}, groups.back()[0].bytes()});
  }
  groups.push_back(chained(model, m, device));
  double bytes = 0;
  for (const Placed& p : groups.back()) bytes += p.bytes();
  rows.push_back({model.name, std::to_string(kLayers) + " layers", m, {}, bytes});

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

std::vector<double> medians(Device device, const std::vector<Work>& works, int repeats, double count) {
  std::vector<double> result;
  for (const Spread& us : time_in_turn(device, works, repeats, 2)) result.push_back(us.median / count);
  return result;
}

cuda::GemvShape shape_of(const Product& p) { return {p.swiglu ? p.n / 2 : p.n, p.k, p.swiglu}; }

// Every plan of every product; `show` of each are printed.
void try_plans(const Model& model, std::int64_t m, Device device, int repeats, std::size_t show) {
  struct Tried {
    cuda::GemvPlan plan;
    double alone, chain, expected;  // us, of the product or of a layer
  };
  const int multiprocessors = cuda::info(device.index).multiprocessors;
  const std::vector<Placed> chain = chained(model, m, device, true);
  const std::size_t per_layer = chain.size() / kLayers;
  std::vector<cuda::GemvPlan> best;  // of the products of a layer
  for (std::size_t i = 0; i < per_layer; ++i) {
    best.push_back(cuda::choose_gemv_plan(shape_of(model.products[i]), multiprocessors));
  }
  const std::vector<cuda::GemvPlan> chosen = best;
  const auto layers = [&](const std::vector<cuda::GemvPlan>& plans) {
    return Work{[&chain, plans] {
      for (std::size_t i = 0; i < chain.size(); ++i) chain[i].run(&plans[i % plans.size()]);
    }};
  };
  const auto in_chain = [&](std::size_t product, const std::vector<cuda::GemvPlan>& plans) {
    std::vector<Work> works;
    for (const cuda::GemvPlan& plan : plans) {
      std::vector<cuda::GemvPlan> all = best;
      all[product] = plan;
      works.push_back(layers(all));
    }
    std::vector<double> us = medians(device, works, repeats, kLayers);
    best[product] = plans[static_cast<std::size_t>(std::ranges::min_element(us) - us.begin())];
    return us;
  };
  const auto plans_of = [&](const Product& p) { return cuda::gemv_plans(shape_of(p), multiprocessors); };
  for (std::size_t product = 0; product < per_layer; ++product) in_chain(product, plans_of(model.products[product]));
  for (std::size_t product = 0; product < model.products.size(); ++product) {
    const Product& p = model.products[product];
    const std::vector<cuda::GemvPlan> plans = plans_of(p);
    const std::vector<Placed> placed = alone(p, m, device, true);
    std::vector<Work> by_itself;
    for (const cuda::GemvPlan& plan : plans) {
      by_itself.push_back({[&placed, plan] {
        for (const Placed& each : placed) each.run(&plan);
      }});
    }
    const std::vector<double> single = medians(device, by_itself, repeats, static_cast<double>(placed.size()));
    const std::vector<double> whole = product < per_layer ? in_chain(product, plans) : single;
    std::vector<Tried> tried;
    for (std::size_t i = 0; i < plans.size(); ++i) {
      tried.push_back({plans[i], single[i], whole[i], 1e-3 * cuda::gemv_time(shape_of(p), plans[i], multiprocessors)});
    }
    std::ranges::stable_sort(tried, {}, &Tried::chain);
    const cuda::GemvPlan choice = cuda::choose_gemv_plan(shape_of(p), multiprocessors);
    std::printf("%s %s, m %lld, %zu plans: us alone, expected, of a layer in the chain\n", model.name, p.name,
                static_cast<long long>(m), plans.size());
    for (std::size_t i = 0; i < tried.size(); ++i) {
      const auto& [plan, us, layer, expected] = tried[i];
      if (i >= show && plan != choice) continue;
      std::printf("%4zu%s %2d warps, %2d parts, %d loads, %d ahead, %d blocks: %7.2f %7.2f", i + 1,
                  plan == choice ? "*" : " ", plan.warps, plan.parts, plan.loads, plan.ahead, plan.resident, us,
                  expected);
      product < per_layer ? std::printf(" %7.2f\n", layer) : std::printf("\n");
    }
    std::fflush(stdout);
  }
  const std::vector<double> both = medians(device, {layers(chosen), layers(best)}, 3 * repeats, kLayers);
  std::printf("%s, m %lld, us of a layer's products: %.2f as chosen, %.2f with the best plans\n", model.name,
              static_cast<long long>(m), both[0], both[1]);
}

int run(int argc, char** argv) {
  bool json = false;
  bool plans = false;
  std::vector<std::int64_t> ms;
  int repeats = 0;
  int show = 8;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--json") {
      json = true;
    } else if (name == "--rows" && i + 1 < argc) {
      ms.push_back(std::atoll(argv[++i]));
    } else if (name == "--repeats" && i + 1 < argc) {
      repeats = std::max(1, std::atoi(argv[++i]));
    } else if (name == "--plans") {
      plans = true;
    } else if (name == "--model" && i + 1 < argc) {
      only = argv[++i];
    } else if (name == "--show" && i + 1 < argc) {
      show = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr,
                   "gemv_bench [--json] [--rows M]... [--repeats N] [--model NAME]\n"
                   "gemv_bench --plans [--rows M]... [--repeats N] [--model NAME] [--show N]\n");
      return 2;
    }
  }
  if (ms.empty()) ms = plans ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{1, 4, 8};
  if (repeats == 0) repeats = plans ? 5 : 21;
  const Device device = gpu();
  for (const Model& model : models()) {
    if (!only.empty() && only != model.name) continue;
    for (const std::int64_t m : ms) {
      if (plans) {
        try_plans(model, m, device, repeats, static_cast<std::size_t>(show));
        continue;
      }
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
