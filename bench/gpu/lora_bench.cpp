// The bordered LoRA linear, forward and backward, over the frozen base's two GEMMs, and each of its parts, with the
// library's GEMM in the place of each of our kernels beside it.
//
//   lora_bench [--json] [--tokens M] [--rank R]... [--shape KxN]... [--repeats N] [--outer-plans]
//
// --outer-plans instead times the gradients of the factors where g is known, divided in every sensible way.
//
// Timed are results of all tokens into memory that lies ready, in bf16. Each time runs through as many sets of inputs
// as together pass the L2 cache, all forwards and then all backwards, so that inputs come from memory as in training
// (the outputs' memory is shared by the sets); base and bordered take turns.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "backend/gemm.h"
#include "gpu/lora_plans.h"
#include "gpu/record.h"
#include "gpu/timing.h"
#include "ops/lora_linear/lora_linear.h"

namespace wick::bench {
namespace {

struct Options {
  bool json = false;
  std::int64_t tokens = 8192;
  std::vector<std::int64_t> ranks;
  std::vector<std::pair<std::int64_t, std::int64_t>> shapes;
  int repeats = 15;
  bool outer_plans = false;
};

struct Inputs {
  Tensor x, dy;                    // dense, for the base
  Tensor x_rows, dy_rows;          // with spare columns
  Tensor h, g;                     // those columns
  Tensor x_bordered, dy_bordered;  // rows with them
};

Tensor bordered_copy(const Tensor& t, std::int64_t rank) {
  Tensor copy = Tensor::bordered(t.shape(), rank, t.dtype(), t.device());
  copy.copy_from(t);
  return copy;
}

double relative_error(const Tensor& a, const Tensor& b) {
  const std::vector<float> found = a.to(DType::f32).to_vector<float>();
  const std::vector<float> expected = b.to(DType::f32).to_vector<float>();
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double d = static_cast<double>(found[i]) - expected[i];
    difference += d * d;
    size += static_cast<double>(expected[i]) * expected[i];
  }
  return std::sqrt(difference / size);
}

using cuda::OuterPlan;

class Case {
 public:
  Case(const Options& options, Device device, std::int64_t k, std::int64_t n, std::int64_t rank)
      : options_(options), device_(device), k_(k), n_(n), rank_(rank), m_(options.tokens) {
    const Tensor w = random({n, k}, DType::bf16, device, 0.02);
    core_ = w;
    const LoraBranch branch{n, random({rank, k}, DType::f32, device, 0.02), random({n, rank}, DType::f32, device, 0.02),
                            2.0};
    weight_ = LoraWeight(w, std::span(&branch, 1), LoraLayout::bordered);
    if (weight_.rank() != rank) fail(ErrorCode::invalid_argument, "the rank must be a multiple of 16, is {}", rank);
    y_ = Tensor::empty({m_, n}, DType::bf16, device);
    dx_ = Tensor::empty({m_, k}, DType::bf16, device);
    da_ = {Tensor::empty({rank, k}, DType::f32, device)};
    db_ = {Tensor::empty({n, rank}, DType::f32, device)};
    const double bytes = 2.0 * static_cast<double>(m_) * static_cast<double>(k + n);
    const double cache = static_cast<double>(cuda::info(device.index).l2_bytes);
    const int sets = std::max(1, static_cast<int>(std::ceil(4 * cache / bytes)));
    for (int i = 0; i < sets; ++i) {
      Inputs in;
      in.x = random({m_, k}, DType::bf16, device);
      in.dy = random({m_, n}, DType::bf16, device);
      in.x_rows = bordered_copy(in.x, rank);
      in.dy_rows = bordered_copy(in.dy, rank);
      in.h = in.x_rows.border_columns().slice(1, 0, rank);
      in.g = in.dy_rows.border_columns().slice(1, 0, rank);
      in.x_bordered = with_border(in.x_rows, rank);
      in.dy_bordered = with_border(in.dy_rows, rank);
      sets_.push_back(in);
    }
  }

  void run() {
    const auto all = [this](auto part) {
      return [this, part] {
        for (const Inputs& in : sets_) part(in);
      };
    };
    const Tensor w_rows = weight_.bordered().slice(0, 0, n_).transpose(0, 1);
    const Tensor w_columns = weight_.bordered().slice(1, 0, k_);
    const auto base_forward = all([=, this](const Inputs& in) { gemm(in.x, core_.transpose(0, 1), y_); });
    const auto base_backward = all([=, this](const Inputs& in) { gemm(in.dy, core_, dx_); });
    const auto y = all([=, this](const Inputs& in) { gemm(in.x_bordered, w_rows, y_); });
    const auto gradients = all([=, this](const Inputs& in) { factor_gradients(in, da_); });
    const auto g_and_db = all([=, this](const Inputs& in) { factor_gradients(in, {&none_, 1}); });
    const auto da_db = all([=, this](const Inputs& in) { outer_products(in, da_, db_); });
    const auto da_alone = all([=, this](const Inputs& in) { outer_products(in, da_, {&none_, 1}); });
    const auto db_alone = all([=, this](const Inputs& in) { outer_products(in, {&none_, 1}, db_); });
    const auto dx = all([=, this](const Inputs& in) { gemm(in.dy_bordered, w_columns, dx_); });
    const auto h_gemm = all([=, this](const Inputs& in) { gemm(in.x_rows, weight_.a().transpose(0, 1), in.h); });
    const auto g_gemm = all([=, this](const Inputs& in) { gemm(in.dy_rows, weight_.scaled_b(), in.g); });
    const auto da_gemm = all([=, this](const Inputs& in) { gemm(in.g.transpose(0, 1), in.x_rows, da_[0]); });
    const auto db_gemm = all([=, this](const Inputs& in) { gemm(in.dy_rows.transpose(0, 1), in.h, db_[0], 2.0); });
    const auto y_with_h = all([=, this](const Inputs& in) { product(LoraWay::forward, in); });
    const auto dx_with_g = all([=, this](const Inputs& in) { product(LoraWay::backward, in); });
    const auto base = [=] {
      base_forward();
      base_backward();
    };
    // As lora_linear() does it.
    const bool h_inside = narrow_inside(LoraWay::forward, k_, n_, rank_);
    const bool g_inside = narrow_inside(LoraWay::backward, k_, n_, rank_);
    const auto bordered = [=, this] {
      for (const Inputs& in : sets_) {
        if (h_inside) {
          product(LoraWay::forward, in);
          continue;
        }
        gemm(in.x_rows, weight_.a().transpose(0, 1), in.h);
        gemm(in.x_bordered, w_rows, y_);
      }
      for (const Inputs& in : sets_) {
        if (g_inside) {
          product(LoraWay::backward, in);
          outer_products(in, da_, db_);
          continue;
        }
        factor_gradients(in, da_);
        gemm(in.dy_bordered, w_columns, dx_);
      }
    };
    const auto by_library = [=, this] {
      for (const Inputs& in : sets_) {
        gemm(in.x_rows, weight_.a().transpose(0, 1), in.h);
        gemm(in.x_bordered, w_rows, y_);
      }
      for (const Inputs& in : sets_) {
        gemm(in.dy_rows, weight_.scaled_b(), in.g);
        gemm(in.g.transpose(0, 1), in.x_rows, da_[0]);
        gemm(in.dy_rows.transpose(0, 1), in.h, db_[0], 2.0);
        gemm(in.dy_bordered, w_columns, dx_);
      }
    };
    struct Row {
      const char* name;
      Work work;
    };
    const std::vector<Row> rows = {{"base", {base}},
                                   {"bordered", {bordered}},
                                   {"by_library", {by_library}},
                                   {"base_eager", {base, false}},
                                   {"bordered_eager", {bordered, false}},
                                   {"base_y", {base_forward}},
                                   {"base_dx", {base_backward}},
                                   {"y", {y}},
                                   {"g_db_da", {gradients}},
                                   {"g_db", {g_and_db}},
                                   {"da_db", {da_db}},
                                   {"da", {da_alone}},
                                   {"db", {db_alone}},
                                   {"dx", {dx}},
                                   {"h", {h_gemm}},
                                   {"g_gemm", {g_gemm}},
                                   {"da_gemm", {da_gemm}},
                                   {"db_gemm", {db_gemm}},
                                   {"y_with_h", {y_with_h}},
                                   {"dx_with_g", {dx_with_g}}};
    std::vector<Work> works;
    for (const Row& row : rows) works.push_back(row.work);
    const std::vector<Spread> times = time_in_turn(device_, works, options_.repeats, 4);
    const auto of_one_set = [&](std::size_t i) {
      const auto sets = static_cast<double>(sets_.size());
      return Spread{times[i].median / sets, times[i].low / sets, times[i].high / sets};
    };
    const auto time = [&](std::size_t i) { return of_one_set(i).median; };
    if (options_.json) {
      Json parameters = {{"tokens", m_}, {"k", k_}, {"n", n_}, {"rank", rank_}};
      const Spread bordered_time = of_one_set(1);
      print_record("lora linear over base", parameters,
                   {time(1) / time(0), bordered_time.low / time(0), bordered_time.high / time(0)}, "x");
      for (std::size_t i = 0; i < rows.size(); ++i) {
        parameters["part"] = rows[i].name;
        print_record("lora linear", parameters, of_one_set(i), "us");
      }
      const Json all_errors = errors();
      for (const auto& [name, error] : all_errors.items()) {
        parameters["part"] = name;
        const auto value = error.get<double>();
        print_record("lora linear, relative error", parameters, {value, value, value}, "1");
      }
    } else {
      std::printf("%lldx%lld r%lld: base %.1f us, bordered %.3fx (library %.3fx, eager %.3fx) |",
                  static_cast<long long>(k_), static_cast<long long>(n_), static_cast<long long>(rank_), time(0),
                  time(1) / time(0), time(2) / time(0), time(4) / time(3));
      for (std::size_t i = 5; i < rows.size(); ++i) std::printf(" %s %.1f", rows[i].name, time(i));
      std::printf(" | %s\n", dump_json_line(errors()).c_str());
    }
    std::fflush(stdout);
  }

  void run_outer_plans() {
    for (const Inputs& in : sets_) {
      gemm(in.x_rows, weight_.a().transpose(0, 1), in.h);
      gemm(in.dy_rows, weight_.scaled_b(), in.g);
    }
    const Tensor* const none = &none_;
    time_outer_plans("da_db", da_, db_);
    time_outer_plans("da", da_, {none, 1});
    time_outer_plans("db", {none, 1}, db_);
  }

 private:
  // All plans by time: the fastest, the fastest of each size of cluster, and the one that is chosen. Where there are
  // clusters of dy and of x, those of dy stand first.
  void time_outer_plans(const char* part, std::span<const Tensor> da, std::span<const Tensor> db) {
    const auto work = [=, this] {
      for (const Inputs& in : sets_) outer_products(in, da, db);
    };
    OuterPlan chosen;
    {
      const cuda::OuterTrial trial;
      work();
      chosen = trial.plan();
    }
    if (chosen.clusters() == 0) return;
    const int widest = OuterPlan::kMaxBoxes * 16 / static_cast<int>(rank_);
    const int multiprocessors = cuda::info(device_.index).multiprocessors;
    const std::vector<OuterPlan> plans = outer_plans(chosen, widest, multiprocessors);
    const Tensor a = da_[0].clone();
    const Tensor b = db_[0].clone();
    std::vector<Work> works;
    std::vector<double> differences;
    for (const OuterPlan& plan : plans) {
      works.push_back({[=] {
        const cuda::OuterTrial trial(plan);
        work();
      }});
      works.back().run();
      differences.push_back(std::max(relative_error(da_[0], a), relative_error(db_[0], b)));
    }
    const std::vector<Spread> times = time_in_turn(device_, works, std::min(options_.repeats, 7), 4);
    std::vector<std::size_t> order(plans.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::sort(order, {}, [&](std::size_t i) { return times[i].median; });
    std::printf("%lldx%lld r%lld %s: %zu plans\n", static_cast<long long>(k_), static_cast<long long>(n_),
                static_cast<long long>(rank_), part, plans.size());
    std::vector<int> sizes;  // of clusters, of which one was printed
    for (std::size_t place = 0; place < order.size(); ++place) {
      const std::size_t i = order[place];
      const OuterPlan& plan = plans[i];
      const bool seen = std::ranges::find(sizes, plan.cluster()) != sizes.end();
      if (!seen) sizes.push_back(plan.cluster());
      const bool wrong = !(differences[i] < 1e-5);
      if (place >= 10 && seen && i != 0 && !wrong) continue;
      int busiest = 0;
      for (int cluster = 0; cluster < plan.clusters(); ++cluster) {
        const OuterPlan::Share share = plan.share(cluster, 0);
        busiest = std::max(busiest, share.boxes * share.row_boxes);
      }
      const auto sets = static_cast<double>(sets_.size());
      std::printf(
          "  %3zu. %6.2f us (from %6.2f)  %3d + %3d clusters of %d, %3d boxes in the busiest block, "
          "%3d blocks%s%s\n",
          place + 1, times[i].median / sets, times[i].low / sets, plan.columns[0].parts, plan.columns[1].parts,
          plan.cluster(), busiest, plan.clusters() * plan.cluster(), i == 0 ? "  <- chosen" : "",
          wrong ? "  RESULTS DIFFER" : "");
    }
    std::fflush(stdout);
  }

  void factor_gradients(const Inputs& in, std::span<const Tensor> da) const {
    const Declined reason =
        lora_factor_gradients.on(DeviceType::cuda)(in.dy_rows, in.x_rows, in.h, weight_, in.g, da, db_, false);
    if (reason == nullptr) return;
    gemm(in.dy_rows, weight_.scaled_b(), in.g);
    gemm(in.dy_rows.transpose(0, 1), in.h, db_[0], 2.0);
    if (da[0].defined()) gemm(in.g.transpose(0, 1), in.x_rows, da[0]);
    declined(reason);
  }
  // The same where g is known.
  void outer_products(const Inputs& in, std::span<const Tensor> da, std::span<const Tensor> db) const {
    const Declined reason =
        lora_outer_products.on(DeviceType::cuda)(in.dy_rows, in.x_rows, in.h, in.g, weight_, da, db, false);
    if (reason == nullptr) return;
    if (da[0].defined()) gemm(in.g.transpose(0, 1), in.x_rows, da[0]);
    if (db[0].defined()) gemm(in.dy_rows.transpose(0, 1), in.h, db[0], 2.0);
    declined(reason);
  }
  void product(LoraWay way, const Inputs& in) const {
    const bool forward = way == LoraWay::forward;
    const Declined reason = lora_product.on(DeviceType::cuda)(way, forward ? in.x_rows : in.dy_rows, weight_, Tensor(),
                                                              forward ? in.h : in.g, forward ? y_ : dx_);
    if (reason != nullptr) declined(reason);
  }
  static void declined(const char* reason) {
    static std::string said;
    if (said == reason) return;
    said = reason;
    std::fprintf(stderr, "by the library: %s\n", reason);
  }

  // Our kernels' results against the library's, of the first inputs.
  Json errors() const {
    const Inputs& in = sets_[0];
    gemm(in.x_rows, weight_.a().transpose(0, 1), in.h);
    factor_gradients(in, da_);
    const Tensor g = in.g.clone();
    const Tensor da = da_[0].clone();
    const Tensor db = db_[0].clone();
    gemm(in.dy_rows, weight_.scaled_b(), in.g);
    gemm(in.g.transpose(0, 1), in.x_rows, da_[0]);
    gemm(in.dy_rows.transpose(0, 1), in.h, db_[0], 2.0);
    const Tensor library_da = da_[0].clone();
    const Tensor library_db = db_[0].clone();
    outer_products(in, da_, db_);
    const Tensor library_h = in.h.clone();
    const Tensor library_g = in.g.clone();
    gemm(in.x_bordered, weight_.bordered().slice(0, 0, n_).transpose(0, 1), y_);
    gemm(in.dy_bordered, weight_.bordered().slice(1, 0, k_), dx_);
    const Tensor y = y_.clone();
    const Tensor dx = dx_.clone();
    product(LoraWay::forward, in);
    product(LoraWay::backward, in);
    return {{"y of y_with_h", relative_error(y_, y)},
            {"h of y_with_h", relative_error(in.h, library_h)},
            {"dx of dx_with_g", relative_error(dx_, dx)},
            {"g of dx_with_g", relative_error(in.g, library_g)},
            {"g", relative_error(g, library_g)},
            {"da", relative_error(da, library_da)},
            {"db", relative_error(db, library_db)},
            {"da of da_db", relative_error(da_[0], library_da)},
            {"db of da_db", relative_error(db_[0], library_db)}};
  }

  const Options& options_;
  Device device_;
  std::int64_t k_, n_, rank_, m_;
  LoraWeight weight_;
  Tensor core_, y_, dx_;
  Tensor none_;
  std::vector<Tensor> da_, db_;
  std::vector<Inputs> sets_;
};

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const char* const value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--json") {
      options.json = true;
      continue;
    }
    if (name == "--outer-plans") {
      options.outer_plans = true;
      continue;
    }
    ++i;
    long long k = 0;
    long long n = 0;
    if (name == "--tokens") {
      options.tokens = std::atoll(value);
    } else if (name == "--rank") {
      options.ranks.push_back(std::atoll(value));
    } else if (name == "--repeats") {
      options.repeats = std::max(1, std::atoi(value));
    } else if (name == "--shape" && std::sscanf(value, "%lldx%lld", &k, &n) == 2) {
      options.shapes.emplace_back(k, n);
    } else {
      std::fprintf(stderr,
                   "lora_bench [--json] [--tokens M] [--rank R]... [--shape KxN]... [--repeats N] "
                   "[--outer-plans]\n");
      return 2;
    }
  }
  if (options.outer_plans) {
    if (options.ranks.empty()) options.ranks = {16};
    if (options.shapes.empty()) options.shapes = {{896, 896}, {2048, 2048}, {2048, 8192}, {4096, 4096}};
  }
  if (options.ranks.empty()) options.ranks = {16, 64};
  if (options.shapes.empty()) {
    options.shapes = {{896, 896},   {896, 4864},  {4864, 896},   {2048, 2048}, {2048, 8192},
                      {8192, 2048}, {4096, 4096}, {4096, 14336}, {14336, 4096}};
  }
  const Device device = gpu();
  const NoGrad no_grad;
  for (const auto& [k, n] : options.shapes) {
    for (const std::int64_t rank : options.ranks) {
      Case c(options, device, k, n, rank);
      options.outer_plans ? c.run_outer_plans() : c.run();
    }
  }
  return 0;
}

}  // namespace
}  // namespace wick::bench

int main(int argc, char** argv) {
  return wick::bench::guarded([&] { return wick::bench::run(argc, argv); });
}
