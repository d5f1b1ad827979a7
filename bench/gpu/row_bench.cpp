// RMS norm (alone and with the residual add), layer norm and softmax, forward and backward with frozen weights, beside
// a copy of device memory in the same run.
//
//   row_bench [--json] [--elements N] [--repeats N] [--op NAME]... [--shape ROWSxCOLUMNS:DTYPE]... [--heads N]
//   [--plans] [--policies]
//
// Timed are the kernels, many launches recorded as one graph, on memory that lies ready. "memory": the launches go
// through as many sets of tensors as together pass the L2 cache four times, as in training. "cache": all launches work
// on one set, as the microbenchmarks of others do. Bytes are those of all inputs and results, each counted once. --json
// prints records instead of a table. --heads: RMS norm alone; N rows of x and dx are heads of a token, which lie
// together, tokens twice as far apart, as queries do between keys and values. --plans: layer norm of long bf16 rows in
// each way in which a cluster may hold them, beside what the op chooses, and whether results are the same. --policies:
// bf16 rows under each plan that the op has a kernel for, with each combination of marks for L2.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "backend/cuda/row_plan.h"
#include "gpu/layer_norm_plans.h"
#include "gpu/record.h"
#include "gpu/timing.h"
#include "ops/layer_norm/layer_norm.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/softmax/softmax.h"

namespace wick::bench {
namespace {

struct RowShape {
  std::int64_t rows, columns;
  DType dtype;
};

struct Options {
  bool json = false;
  bool plans = false;
  bool policies = false;
  std::int64_t elements = std::int64_t{1} << 27;
  int repeats = 11;
  std::int64_t heads = 0;
  std::vector<std::string> ops;
  std::vector<RowShape> shapes;
};

constexpr float kEps = 1e-5F;
constexpr int kRounds = 3;
constexpr std::int64_t kLaunchesInCache = 64;
constexpr std::size_t kLeastLaunches = 8;  // a graph has a start of its own
constexpr std::int64_t kMostSets = 512;

// What the ops of one shape read and write, in as many sets as are needed.
class Case {
 public:
  Case(const RowShape& shape, std::int64_t heads, Device device) : shape_(shape), device_(device) {
    const double matrix = static_cast<double>(shape.rows * shape.columns) * static_cast<double>(size_of(shape.dtype));
    const double cache = static_cast<double>(cuda::info(device.index).l2_bytes);
    const auto sets = static_cast<std::int64_t>(std::ceil(4 * cache / (2 * matrix)));
    weight_ = random({shape.columns}, shape.dtype, device);
    bias_ = random({shape.columns}, shape.dtype, device);
    for (std::int64_t i = 0; i < std::clamp<std::int64_t>(sets, 1, kMostSets); ++i) {
      const auto filled = [&] { return random({shape.rows, shape.columns}, shape.dtype, device); };
      const auto statistics = [&] { return Tensor::full({2, shape.rows}, 1, DType::f32, device); };
      const auto placed = [&] {
        if (heads == 0) return filled();
        const std::int64_t tokens = shape.rows / heads;
        const std::int64_t width = heads * shape.columns;
        const Tensor all = random({tokens, 2 * width}, shape.dtype, device);
        return all.slice(1, 0, width).view({tokens, heads, shape.columns});
      };
      sets_.push_back({placed(), filled(), filled(), filled(), filled(), filled(), placed(), statistics()});
    }
  }

  struct Kernel {
    const char* op;
    const char* direction;
    int matrices;  // read or written
    int vectors;   // weights read
    int numbers;   // of a row, read or written
    const cuda::RowKernels& plans;
    std::function<void(std::size_t)> run;
  };
  std::vector<Kernel> kernels() const {
    const DeviceType cuda = DeviceType::cuda;
    const auto rstd = [](const Set& s) { return s.statistics.select(0, 1); };
    return {
        {"rms_norm", "forward", 2, 1, 1, cuda::kOneInput,
         [=, this](std::size_t i) {
           const Set& s = sets_[i];
           require(rms_norm_forward.on(cuda)(s.x, Tensor(), weight_, kEps, Tensor(), s.y, rstd(s)));
         }},
        {"rms_norm", "backward", 3, 1, 1, cuda::kBackward,
         [=, this](std::size_t i) {
           const Set& s = sets_[i];
           require(rms_norm_backward.on(cuda)(s.dy, Tensor(), s.x, weight_, rstd(s), s.dx, Tensor()));
         }},
        {"rms_norm_residual", "forward", 4, 1, 1, cuda::kTwoInputs,
         [=, this](std::size_t i) {
           const Set& s = sets_[i];
           require(rms_norm_forward.on(cuda)(s.x, s.residual, weight_, kEps, s.sum, s.y, rstd(s)));
         }},
        {"rms_norm_residual", "backward", 4, 1, 1, cuda::kBackward,
         [=, this](std::size_t i) {
           const Set& s = sets_[i];
           require(rms_norm_backward.on(cuda)(s.dy, s.dsum, s.x, weight_, rstd(s), s.dx, Tensor()));
         }},
        {"layer_norm", "forward", 2, 2, 2, cuda::kTwoWeights,
         [=, this](std::size_t i) {
           const Set& s = sets_[i];
           require(layer_norm_forward.on(cuda)(s.x, Tensor(), weight_, bias_, kEps, Tensor(), s.y, s.statistics));
         }},
        {"layer_norm", "backward", 3, 1, 2, cuda::kBackward,
         [=, this](std::size_t i) {
           const Set& s = sets_[i];
           require(layer_norm_backward.on(cuda)(s.dy, s.x, weight_, s.statistics, s.dx, Tensor()));
         }},
        {"softmax", "forward", 2, 0, 0, cuda::kOneInput,
         [=, this](std::size_t i) { require(softmax_forward.on(cuda)(sets_[i].x, sets_[i].y)); }},
        {"softmax", "backward", 3, 0, 0, cuda::kBackward,
         [=, this](std::size_t i) { require(softmax_backward.on(cuda)(sets_[i].dy, sets_[i].x, sets_[i].dx)); }},
    };
  }

  double bytes(const Kernel& kernel) const {
    const auto size = static_cast<double>(size_of(shape_.dtype));
    const auto rows = static_cast<double>(shape_.rows);
    const auto columns = static_cast<double>(shape_.columns);
    return (kernel.matrices * rows + kernel.vectors) * columns * size + kernel.numbers * rows * 4;
  }
  std::size_t sets() const { return sets_.size(); }

 private:
  struct Set {
    Tensor x, residual, sum, y, dy, dsum, dx;
    Tensor statistics;
  };
  RowShape shape_;
  Device device_;
  Tensor weight_, bias_;
  std::vector<Set> sets_;
};

void measure(const Options& options, const RowShape& shape, Device device, double copy) {
  const Case all(shape, options.heads, device);
  struct Cell {
    Case::Kernel kernel;
    bool cached;
    std::int64_t launches;
  };
  std::vector<Cell> cells;
  std::vector<Work> works;
  for (const Case::Kernel& kernel : all.kernels()) {
    if (!options.ops.empty() && std::find(options.ops.begin(), options.ops.end(), kernel.op) == options.ops.end()) {
      continue;
    }
    for (const bool cached : {false, true}) {
      if (cached && all.sets() == 1) continue;
      const std::size_t sets = cached ? 1 : all.sets();
      const std::int64_t launches =
          cached ? kLaunchesInCache : static_cast<std::int64_t>(std::max(sets, kLeastLaunches));
      cells.push_back({kernel, cached, launches});
      works.push_back({[run = kernel.run, sets, launches] {
                         for (std::int64_t i = 0; i < launches; ++i) run(static_cast<std::size_t>(i) % sets);
                       },
                       true});
    }
  }
  const std::vector<Spread> times = time_in_turn(device, works, options.repeats, kRounds);
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const Cell& cell = cells[i];
    const auto launches = static_cast<double>(cell.launches);
    const Spread us = {times[i].median / launches, times[i].low / launches, times[i].high / launches};
    const double bytes = all.bytes(cell.kernel);
    const double rate = bytes / us.median / 1e3;
    const char* from = cell.cached ? "cache" : "memory";
    const std::string dtype(to_string(shape.dtype));
    if (options.json) {
      std::string op = cell.kernel.op;
      std::replace(op.begin(), op.end(), '_', ' ');
      print_record(op + " " + cell.kernel.direction,
                   {{"rows", shape.rows}, {"columns", shape.columns}, {"dtype", dtype}, {"from", from}}, us, "us",
                   {{"gb_s", rate}, {"share", rate / copy}});
    } else {
      std::printf("%-18s %-8s %7lldx%-7lld %-4s %-6s %9.2f  [%9.2f, %9.2f] %7.0f %6.1f%%\n", cell.kernel.op,
                  cell.kernel.direction, static_cast<long long>(shape.rows), static_cast<long long>(shape.columns),
                  dtype.c_str(), from, us.median, us.low, us.high, rate, 100 * rate / copy);
    }
  }
  std::fflush(stdout);
}

// The largest difference of the last rows, an odd number of them, and of all rows' statistics.
double difference(const Tensor& y, const Tensor& stats, const Tensor& other_y, const Tensor& other_stats) {
  const auto of = [](const Tensor& a, const Tensor& b) {
    const auto values = [](const Tensor& t) { return t.contiguous().to(DType::f64).to_vector<double>(); };
    const std::vector<double> as = values(a);
    const std::vector<double> bs = values(b);
    double most = 0;
    for (std::size_t i = 0; i < as.size(); ++i) most = std::max(most, std::abs(as[i] - bs[i]));
    return most;
  };
  const std::int64_t last = std::min<std::int64_t>(3, y.size(0));
  const std::int64_t first = y.size(0) - last;
  return std::max(of(y.slice(0, first, last), other_y.slice(0, first, last)), of(stats, other_stats));
}

void measure_plans(const Options& options, const RowShape& shape, Device device, double copy) {
  const auto matrix = [&] { return random({shape.rows, shape.columns}, shape.dtype, device); };
  const auto statistics = [&] { return Tensor::full({2, shape.rows}, 1, DType::f32, device); };
  const Tensor x = matrix();
  const Tensor weight = random({shape.columns}, shape.dtype, device);
  const Tensor bias = random({shape.columns}, shape.dtype, device);
  const Tensor expected = matrix();
  const Tensor expected_stats = statistics();
  const Tensor y = matrix();
  const Tensor stats = statistics();
  std::vector<LayerNormPlan> plans = layer_norm_plans(x, weight, bias, kEps, y, stats);
  plans.insert(plans.begin(),
               {"as the op chooses", [&] {
                  require(layer_norm_forward.on(DeviceType::cuda)(x, Tensor(), weight, bias, kEps, Tensor(), y, stats));
                }});
  std::vector<Work> works;
  for (const LayerNormPlan& plan : plans) {
    works.push_back({[&plan] {
                       for (std::size_t i = 0; i < kLeastLaunches; ++i) plan.run();
                     },
                     true});
  }
  const std::vector<Spread> times = time_in_turn(device, works, options.repeats, kRounds);
  require(layer_norm_forward.on(DeviceType::cuda)(x, Tensor(), weight, bias, kEps, Tensor(), expected, expected_stats));
  const double bytes =
      2.0 * static_cast<double>(x.numel() + shape.columns) * static_cast<double>(size_of(shape.dtype)) +
      8.0 * static_cast<double>(shape.rows);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    y.copy_from(x);
    stats.copy_from(Tensor::full({2, shape.rows}, 1, DType::f32, device));
    plans[i].run();
    const double us = times[i].median / kLeastLaunches;
    std::printf("%7lldx%-7lld %-36s %9.2f us  [%9.2f, %9.2f] %6.1f%%, apart %.2g\n", static_cast<long long>(shape.rows),
                static_cast<long long>(shape.columns), plans[i].name.c_str(), us, times[i].low / kLeastLaunches,
                times[i].high / kLeastLaunches, bytes / us / 1e3 / copy * 100,
                difference(y, stats, expected, expected_stats));
  }
  std::fflush(stdout);
}

// Every plan for rows of `packs` packs that `kernels` has a kernel for, but those of clusters of several rows.
std::vector<cuda::RowPlan> possible_plans(std::int64_t packs, const cuda::RowKernels& kernels) {
  using cuda::Span;
  std::vector<cuda::RowPlan> plans;
  const auto threads = [](std::int64_t length, int held) {
    return static_cast<unsigned>((length + held * 32 - 1) / (held * 32) * 32);
  };
  for (const int held : {kernels.brief, kernels.brief_2}) {
    if (held == 0 || threads(packs, held) > 32 || (held == kernels.brief_2 && packs <= 32 * kernels.brief)) continue;
    for (const unsigned teams : {4U, 2U, 1U}) {
      plans.push_back({Span::warp, held, held == kernels.brief ? held : 2, 32, teams});
    }
  }
  const auto in_blocks = [&](int held, unsigned most, unsigned clusters) {
    for (unsigned cluster = 1; held != 0 && cluster <= clusters; cluster *= 2) {
      const unsigned team = threads((packs + cluster - 1) / cluster, held);
      if (team > most || (cluster > 1 && team < 128)) continue;
      plans.push_back({cluster > 1 ? Span::cluster : Span::block, held, 2, team, 1, cluster});
    }
  };
  in_blocks(kernels.few, cuda::RowKernels::few_threads, 1);
  in_blocks(kernels.middle, cuda::RowKernels::many_threads, 1);
  in_blocks(kernels.many, cuda::RowKernels::many_threads, 8);
  return plans;
}

void measure_policies(const Options& options, const RowShape& shape, Device device, double copy) {
  using cuda::Evict;
  constexpr Evict kReads[] = {Evict::usual, Evict::first, Evict::last};
  constexpr Evict kWrites[] = {Evict::usual, Evict::first};
  const Case all(shape, 0, device);
  const auto packs = shape.columns * static_cast<std::int64_t>(size_of(shape.dtype)) / 16;
  for (const Case::Kernel& kernel : all.kernels()) {
    const bool wanted = options.ops.empty()
                            ? std::string(kernel.direction) == "forward"
                            : std::find(options.ops.begin(), options.ops.end(), kernel.op) != options.ops.end();
    if (!wanted) continue;
    struct Line {
      std::string name;
      std::size_t first;
    };
    std::vector<Line> lines;
    std::vector<Work> works;
    const auto repeated = [&all, run = kernel.run] {
      const std::size_t launches = std::max(all.sets(), kLeastLaunches);
      for (std::size_t i = 0; i < launches; ++i) run(i % all.sets());
    };
    const auto add = [&](const std::string& name, const cuda::RowPlan& plan) {
      lines.push_back({name, works.size()});
      for (const Evict reads : kReads) {
        for (const Evict writes : kWrites) {
          works.push_back({[=] {
                             const cuda::RowTrial trial({reads, writes}, plan);
                             repeated();
                           },
                           true});
        }
      }
    };
    works.push_back({repeated, true});
    add("the op's plan", {});
    for (const cuda::RowPlan& plan : possible_plans(packs, kernel.plans)) {
      const char* const span = plan.span == cuda::Span::warp ? "warp" : "block";
      add((plan.span == cuda::Span::cluster ? std::to_string(plan.cluster) + " x " : std::to_string(plan.teams) + " ") +
              span + " " + std::to_string(plan.team) + " x " + std::to_string(plan.packs),
          plan);
    }
    const std::vector<Spread> times = time_in_turn(device, works, options.repeats, 1);
    const auto us = [&](std::size_t i) {
      return times[i].median / static_cast<double>(std::max(all.sets(), kLeastLaunches));
    };
    std::printf("\n%s %s %lldx%lld %s: as the op chooses %.2f us, %.1f%% of a copy\n", kernel.op, kernel.direction,
                static_cast<long long>(shape.rows), static_cast<long long>(shape.columns),
                std::string(to_string(shape.dtype)).c_str(), us(0), all.bytes(kernel) / us(0) / 1e3 / copy * 100);
    for (const Line& line : lines) {
      std::printf("  %-20s", line.name.c_str());
      for (std::size_t i = 0; i < std::size(kReads) * std::size(kWrites); ++i)
        std::printf(" %8.2f", us(line.first + i));
      std::printf("\n");
    }
    std::fflush(stdout);
  }
}

int usage() {
  std::fprintf(stderr,
               "row_bench [--json] [--elements N] [--repeats N] [--op NAME]... [--shape ROWSxCOLUMNS:DTYPE]... "
               "[--heads N] [--plans] [--policies]\n");
  return 2;
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--json" || name == "--plans" || name == "--policies") {
      (name == "--json" ? options.json : name == "--plans" ? options.plans : options.policies) = true;
      continue;
    }
    if (++i == argc) return usage();
    const char* const value = argv[i];
    long long rows = 0;
    long long columns = 0;
    char dtype[8] = {};
    if (name == "--elements") {
      options.elements = std::atoll(value);
    } else if (name == "--repeats") {
      options.repeats = std::max(1, std::atoi(value));
    } else if (name == "--heads") {
      options.heads = std::max(1, std::atoi(value));
      options.ops = {"rms_norm"};
    } else if (name == "--op") {
      options.ops.emplace_back(value);
    } else if (name == "--shape" && std::sscanf(value, "%lldx%lld:%7s", &rows, &columns, dtype) == 3) {
      options.shapes.push_back({rows, columns, dtype_from_string(dtype)});
    } else {
      return usage();
    }
  }
  if (options.shapes.empty() && options.plans) {
    for (const std::int64_t columns : {24576, 32768, 65536, 131072}) {
      options.shapes.push_back({std::max<std::int64_t>(1, options.elements / columns), columns, DType::bf16});
    }
  } else if (options.shapes.empty()) {
    if (!options.policies) options.shapes = {{1024, 1024, DType::f32}, {64, 1024, DType::f32}, {1, 4096, DType::bf16}};
    for (std::int64_t columns = 1024; columns <= 131072; columns *= 2) {
      options.shapes.push_back({std::max<std::int64_t>(1, options.elements / columns), columns, DType::bf16});
    }
  }
  for (RowShape& shape : options.shapes) {
    if (options.heads > 0) shape.rows = std::max<std::int64_t>(1, shape.rows / options.heads) * options.heads;
  }
  const Device device = gpu();
  const NoGrad no_grad;
  const Spread copy = copy_rate(device, options.repeats);
  if (options.plans) {
    std::printf("%s, copy %.0f GB/s [%.0f, %.0f]\n", cuda::info(device.index).name.c_str(), copy.median, copy.low,
                copy.high);
    for (const RowShape& shape : options.shapes) measure_plans(options, shape, device, copy.median);
    return 0;
  }
  if (options.policies) {
    std::printf("%s, copy %.0f GB/s [%.0f, %.0f]\nreads/writes are evicted: u(sually), f(irst), l(ast); us\n",
                cuda::info(device.index).name.c_str(), copy.median, copy.low, copy.high);
    std::printf("  rows, threads, packs      u/u      u/f      f/u      f/f      l/u      l/f\n");
    for (const RowShape& shape : options.shapes) measure_policies(options, shape, device, copy.median);
    return 0;
  }
  if (!options.json) {
    std::printf("%s, copy %.0f GB/s [%.0f, %.0f]\n", cuda::info(device.index).name.c_str(), copy.median, copy.low,
                copy.high);
    std::printf("%-18s %-8s %15s %-4s %-6s %9s  %22s %7s %7s\n", "op", "", "shape", "", "from", "us", "[least, most]",
                "GB/s", "of copy");
  }
  for (const RowShape& shape : options.shapes) measure(options, shape, device, copy.median);
  return 0;
}

}  // namespace
}  // namespace wick::bench

int main(int argc, char** argv) {
  return wick::bench::guarded([&] { return wick::bench::run(argc, argv); });
}
