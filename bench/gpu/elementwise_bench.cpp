// SwiGLU, RoPE, GELU, the embedding, AdamW and sampling, kernel by kernel, as a share of the bandwidth of a copy
// measured in the same run.
//
//   elementwise_bench [--json] [--only NAME] [--repeats N]
//
// Timed is a call into memory that lies ready; sets of inputs and outputs that together pass the L2 cache take turns,
// so everything comes from memory. Bytes are each input once and each output once.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "generate/device_sampler.h"
#include "gpu/record.h"
#include "ops/adamw/adamw.h"
#include "ops/embedding/embedding.h"
#include "ops/gelu/gelu.h"
#include "ops/rope/rope.h"
#include "ops/swiglu/swiglu.h"

namespace wick::bench {
namespace {

constexpr Device kDevice{DeviceType::cuda, 0};

struct Options {
  bool json = false;
  std::string only;
  int repeats = 21;
};

/// The time of one call of `run(set)`, all sets in turn in one recording. Give it sets that together pass the cache.
Spread time_sets(int sets, int repeats, const std::function<void(std::size_t)>& run) {
  const auto all = [&] {
    for (int set = 0; set < sets; ++set) run(static_cast<std::size_t>(set));
  };
  const Spread times = time_in_turn(kDevice, {{.run = all}}, repeats, 1)[0];
  return {times.median / sets, times.low / sets, times.high / sets};
}

double bytes_of(const Tensor& t) { return static_cast<double>(t.numel()) * static_cast<double>(size_of(t.dtype())); }

// Sets whose bytes pass four times the cache.
int sets_for(double bytes) {
  const double wanted = 4 * static_cast<double>(cuda::info().l2_bytes) / bytes;
  return wanted < 2 ? 2 : wanted > 64 ? 64 : static_cast<int>(wanted) + 1;
}

Json case_of(const Shape& shape, DType dtype) {
  return {{"shape", extents(shape)}, {"dtype", std::string(to_string(dtype))}};
}

// gate and up are the halves of the rows of one buffer, as the projection writes them.
void swiglu_rows(const Report& report, std::int64_t tokens, std::int64_t n, DType dtype) {
  const double matrix = static_cast<double>(tokens * n) * static_cast<double>(size_of(dtype));
  const int sets = sets_for(6 * matrix);
  std::vector<Tensor> both, y, dy, dboth;
  for (int s = 0; s < sets; ++s) {
    both.push_back(random({tokens, 2 * n}, dtype, kDevice));
    dboth.push_back(Tensor::empty({tokens, 2 * n}, dtype, kDevice));
    y.push_back(Tensor::empty({tokens, n}, dtype, kDevice));
    dy.push_back(random({tokens, n}, dtype, kDevice));
  }
  const auto half = [n](const Tensor& t, int which) { return t.slice(1, which * n, n); };
  const auto& forward = swiglu_forward.on(DeviceType::cuda);
  const auto& backward = swiglu_backward.on(DeviceType::cuda);
  report.row("swiglu", case_of({tokens, n}, dtype),
             time_sets(sets, report.repeats(),
                       [&](std::size_t s) { require(forward(half(both[s], 0), half(both[s], 1), y[s])); }),
             3 * matrix);
  report.row(
      "swiglu backward", case_of({tokens, n}, dtype),
      time_sets(sets, report.repeats(),
                [&](std::size_t s) {
                  require(backward(dy[s], half(both[s], 0), half(both[s], 1), half(dboth[s], 0), half(dboth[s], 1)));
                }),
      5 * matrix);
}

void gelu_rows(const Report& report, std::int64_t tokens, std::int64_t n, DType dtype) {
  const double matrix = static_cast<double>(tokens * n) * static_cast<double>(size_of(dtype));
  const int sets = sets_for(3 * matrix);
  std::vector<Tensor> x, y, dy;
  for (int s = 0; s < sets; ++s) {
    x.push_back(random({tokens, n}, dtype, kDevice));
    y.push_back(Tensor::empty({tokens, n}, dtype, kDevice));
    dy.push_back(random({tokens, n}, dtype, kDevice));
  }
  for (const GeluKind kind : {GeluKind::exact, GeluKind::tanh}) {
    const std::string name = kind == GeluKind::exact ? "gelu exact" : "gelu tanh";
    report.row(name, case_of({tokens, n}, dtype),
               time_sets(sets, report.repeats(),
                         [&](std::size_t s) { require(gelu_forward.on(DeviceType::cuda)(x[s], kind, y[s])); }),
               2 * matrix);
    report.row(name + " backward", case_of({tokens, n}, dtype),
               time_sets(sets, report.repeats(),
                         [&](std::size_t s) { require(gelu_backward.on(DeviceType::cuda)(dy[s], x[s], kind, y[s])); }),
               3 * matrix);
  }
}

void rope_rows(const Report& report, std::int64_t tokens, std::int64_t heads, std::int64_t d, DType dtype) {
  const Tensor cos = random({tokens, d / 2}, DType::f32, kDevice);
  const Tensor sin = random({tokens, d / 2}, DType::f32, kDevice);
  const Tensor positions = random_ids(tokens, tokens, kDevice);
  const double matrix = static_cast<double>(tokens * heads * d) * static_cast<double>(size_of(dtype));
  const int sets = sets_for(2 * matrix);
  std::vector<Tensor> x, y;
  for (int s = 0; s < sets; ++s) {
    x.push_back(random({tokens, heads, d}, dtype, kDevice));
    y.push_back(Tensor::empty({tokens, heads, d}, dtype, kDevice));
  }
  report.row("rope", case_of({tokens, heads, d}, dtype),
             time_sets(sets, report.repeats(),
                       [&](std::size_t s) {
                         require(rope_rotate.on(DeviceType::cuda)(x[s], cos, sin, positions, false, y[s]));
                       }),
             2 * matrix + 2 * bytes_of(cos));
}

void embedding_rows(const Report& report, std::int64_t vocab, std::int64_t d, std::int64_t tokens, DType dtype) {
  const Tensor table = random({vocab, d}, dtype, kDevice);
  const Tensor dtable = Tensor::empty({vocab, d}, dtype, kDevice);
  const double matrix = static_cast<double>(tokens * d) * static_cast<double>(size_of(dtype));
  const int sets = sets_for(2 * matrix);
  std::vector<Tensor> ids, y;
  for (int s = 0; s < sets; ++s) {
    ids.push_back(random_ids(tokens, vocab, kDevice));
    y.push_back(random({tokens, d}, dtype, kDevice));
  }
  Json parameters = case_of({tokens, d}, dtype);
  parameters["vocabulary"] = vocab;
  report.row("embedding backward", parameters,
             time_sets(sets, report.repeats(),
                       [&](std::size_t s) {
                         dtable.fill(0);  // as the op does
                         require(embedding_backward.on(DeviceType::cuda)(y[s], ids[s], dtable));
                       }),
             matrix + bytes_of(dtable));
  report.row("embedding", parameters,
             time_sets(sets, report.repeats(),
                       [&](std::size_t s) { require(embedding_forward.on(DeviceType::cuda)(table, ids[s], y[s])); }),
             2 * matrix);
}

void adamw_rows(const Report& report, std::int64_t count) {
  const double buffer = 4.0 * static_cast<double>(count);
  const int sets = sets_for(4 * buffer);
  struct Set {
    Tensor p, g, m, v;
  };
  std::vector<Set> all;
  for (int s = 0; s < sets; ++s) {
    all.push_back({random({count}, DType::f32, kDevice), random({count}, DType::f32, kDevice),
                   random({count}, DType::f32, kDevice, 0.1), Tensor::full({count}, 0.5, DType::f32, kDevice)});
  }
  const Tensor norm = Tensor::zeros({1}, DType::f64, kDevice);
  const Tensor schedule = Tensor::from(std::vector<double>{1e-4, 0.4, 0.1}, {3}).to(kDevice);
  const Json parameters = case_of({count}, DType::f32);
  report.row("gradient norm", parameters,
             time_sets(sets, report.repeats(),
                       [&](std::size_t s) { require(gradient_norm_kernels.on(DeviceType::cuda)(all[s].g, norm)); }),
             buffer);
  report.row("adamw", parameters,
             time_sets(sets, report.repeats(),
                       [&](std::size_t s) {
                         const Set& set = all[s];
                         require(adamw_step_kernels.on(DeviceType::cuda)(set.p, set.g, set.m, set.v, {}, 10, 1.0));
                       }),
             7 * buffer);
  report.row("clipped adamw", parameters,
             time_sets(sets, report.repeats(),
                       [&](std::size_t s) {
                         const Set& set = all[s];
                         require(clipped_adamw_step_kernels.on(DeviceType::cuda)(set.p, set.g, set.m, set.v, {}, 1.0,
                                                                                 schedule, norm));
                       }),
             8 * buffer);
}

void sampling_rows(const Report& report, std::int64_t vocab) {
  const Tensor logits = random({vocab}, DType::f32, kDevice, 8);
  const Tensor id = Tensor::empty({1}, DType::i32, kDevice);
  const auto row = [&](const char* name, const SamplingOptions& options) {
    DeviceSampler sampler(options, 1, vocab, std::vector<std::int32_t>{1, 2, 3}, kDevice);
    report.row("sampling " + std::string(name), {{"vocabulary", vocab}},
               time_sets(16, report.repeats(), [&](std::size_t) { sampler.next(logits, id); }), 0);
  };
  row("greedy", {});
  row("greedy with penalty", {.repetition_penalty = 1.1});
  row("temperature 0.8", {.temperature = 0.8});
  row("top-p 0.9", {.temperature = 0.8, .top_p = 0.9});
  row("top-k 50", {.temperature = 0.8, .top_k = 50});
  row("top-k 50, top-p 0.9, min-p 0.02", {.temperature = 0.8, .top_k = 50, .top_p = 0.9, .min_p = 0.02});
}

void run(const Options& options) {
  const Report report(kDevice, options.json, options.repeats);
  const auto wants = [&](const std::string& name) { return name.find(options.only) != std::string::npos; };
  for (const DType dtype : {DType::bf16, DType::f32}) {
    if (wants("swiglu")) {
      swiglu_rows(report, 8192, 4864, dtype);
      swiglu_rows(report, 8192, 8192, dtype);
      swiglu_rows(report, 4096, 14336, dtype);
    }
    if (wants("gelu")) gelu_rows(report, 8192, 3072, dtype);
    if (wants("rope")) {
      rope_rows(report, 8192, 14, 64, dtype);
      rope_rows(report, 8192, 32, 128, dtype);
    }
    if (wants("embedding")) embedding_rows(report, 32000, 1024, 8192, dtype);
  }
  if (wants("adamw")) {
    for (const std::int64_t count : {4399104, 11272192, 67108864}) adamw_rows(report, count);
  }
  if (wants("sampling")) {
    for (const std::int64_t vocab : {32000, 128256, 151936}) sampling_rows(report, vocab);
  }
}

}  // namespace
}  // namespace wick::bench

int main(int argc, char** argv) {
  wick::bench::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool has_value = i + 1 < argc;
    if (argument == "--json") {
      options.json = true;
    } else if (argument == "--only" && has_value) {
      options.only = argv[++i];
    } else if (argument == "--repeats" && has_value && std::atoi(argv[i + 1]) > 0) {
      options.repeats = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: elementwise_bench [--json] [--only NAME] [--repeats N]\n");
      return 2;
    }
  }
  return wick::bench::guarded([&] {
    (void)wick::bench::gpu();
    wick::bench::run(options);
    return 0;
  });
}
