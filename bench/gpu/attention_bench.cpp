// Attention kernels on a GPU, ours and cuDNN's: held to a float64 reference, then timed.
//
//   attention_bench [check|time] [decode] [--json] [--only WORDS]
//
// --only: checks alone, those with WORDS in their names ("hopper packed"). Checked is the largest error over the
// largest reference value of y, lse and all gradients, and that a second run gives the same bytes. Timed are forward
// and backward at the shapes of three models, in recorded graphs that go round as many sets of tensors as pass the L2
// cache four times (operations counted: 4 d for each pair of a query head and a key it sees in forward, 10 d in
// backward), and decoding from graphs that go round as many caches as are twice the L2 cache together (bytes counted:
// keys and values up to the length; the share is of what the memory's clock and width allow).

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "gpu/attention_check.h"
#include "gpu/record.h"
#include "gpu/timing.h"

namespace wick::bench {
namespace {

bool as_json = false;

struct Model {
  const char* name;
  std::int64_t heads, kv_heads, d;
};

void time_training(const Implementation& by, const Model& m, std::int64_t sequences, std::int64_t length, DType dtype,
                   Device device) {
  const std::int64_t tokens = sequences * length;
  std::vector<std::int32_t> boundaries;
  for (std::int64_t s = 0; s <= sequences; ++s) boundaries.push_back(static_cast<std::int32_t>(s * length));
  const Shape of_queries = {tokens, m.heads, m.d};
  const Shape of_keys = {tokens, m.kv_heads, m.d};
  const auto filled = [&](const Shape& shape) { return random(shape, dtype, device); };
  const auto empty = [&](const Shape& shape) { return Tensor::empty(shape, dtype, device); };
  struct Set {
    Tensor q, k, v, dy, y, lse, dq, dk, dv;
  };
  // As many as pass four times the cache by what forward reads and writes.
  const auto bytes =
      static_cast<double>(2 * tokens * (m.heads + m.kv_heads) * m.d) * static_cast<double>(size_of(dtype));
  const int count = std::max(1, static_cast<int>(std::ceil(4 * static_cast<double>(cuda::info().l2_bytes) / bytes)));
  std::vector<Set> sets;
  for (int i = 0; i < count; ++i) {
    sets.push_back({filled(of_queries), filled(of_keys), filled(of_keys), filled(of_queries), empty(of_queries),
                    Tensor::empty({m.heads, tokens}, DType::f32, device), empty(of_queries), empty(of_keys),
                    empty(of_keys)});
  }
  const Tensor at = offsets(boundaries, device);
  const AttentionLayout layout{.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(m.d))),
                               .causal = true,
                               .window = 0,
                               .query_offsets = at,
                               .key_offsets = at,
                               .longest = length};
  const auto forward = [&](const Set& s) { return by.forward(s.q, s.k, s.v, layout, s.y, s.lse); };
  if (const Declined reason = forward(sets[0])) {
    std::printf("%-5s %-13s declined: %s\n", by.name, m.name, reason);
    return;
  }
  const auto all_forward = [&] {
    for (const Set& s : sets) (void)forward(s);
  };
  const auto all_backward = [&] {
    for (const Set& s : sets) (void)by.backward(s.dy, s.q, s.k, s.v, s.y, s.lse, layout, s.dq, s.dk, s.dv);
  };
  const int rounds = std::max(1, (dtype == DType::f32 ? 3 : 20) / count);
  std::vector<Spread> times = time_in_turn(device, {{all_forward}, {all_backward}}, 5, rounds);
  for (Spread& time : times) time = {time.median / count, time.low / count, time.high / count};
  const auto pairs = static_cast<double>(m.heads * sequences * length * (length + 1) / 2);
  const auto rate = [&](double operations, const Spread& time) {
    return operations * pairs * static_cast<double>(m.d) / time.median / 1e6;
  };
  if (as_json) {
    const Json parameters = {{"heads", m.heads}, {"kv_heads", m.kv_heads},
                             {"d", m.d},         {"sequences", sequences},
                             {"length", length}, {"dtype", std::string(to_string(dtype))}};
    // What the op takes is called wick: cuDNN's forward, Hopper's backward, and for float32 the only kernel there is.
    const auto name = [&](const Implementation& chosen) {
      return &by == &chosen || dtype == DType::f32 ? std::string("wick") : "wick, " + std::string(by.name);
    };
    print_record("attention forward", parameters, times[0], "us",
                 {{"by", name(kCudnn)}, {"tflops", rate(4, times[0])}});
    print_record("attention backward", parameters, times[1], "us",
                 {{"by", name(kHopper)}, {"tflops", rate(10, times[1])}});
    return;
  }
  std::printf("%-5s %-13s %2d/%d heads of %3d, %d x %4d, %-4s", by.name, m.name, static_cast<int>(m.heads),
              static_cast<int>(m.kv_heads), static_cast<int>(m.d), static_cast<int>(sequences),
              static_cast<int>(length), std::string(to_string(dtype)).c_str());
  std::printf("  forward %8.1f us (%.1f to %.1f), %5.1f TFLOP/s", times[0].median, times[0].low, times[0].high,
              rate(4, times[0]));
  std::printf("  backward %8.1f us (%.1f to %.1f), %5.1f TFLOP/s\n", times[1].median, times[1].low, times[1].high,
              rate(10, times[1]));
}

// What the device reads at best, in bytes a second.
double memory_rate(Device device) {
  int kilohertz = 0;
  int bits = 0;
  cuda::check(cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device.index), "the memory's clock");
  cuda::check(cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device.index), "the memory's width");
  return 2e3 * kilohertz * bits / 8;
}

void time_decoding(const Model& m, std::int64_t length, std::int64_t capacity, Device device) {
  const auto bytes = static_cast<double>(2 * length * m.kv_heads * m.d * 2);
  // Each call reads other rows: the caches are views of two pools, each begins where the last one's rows end.
  const std::int64_t caches = static_cast<std::int64_t>(2.0 * static_cast<double>(cuda::info().l2_bytes) / bytes) + 4;
  const Tensor keys = random({caches * length + capacity, m.kv_heads, m.d}, DType::bf16, device);
  const Tensor values = random(keys.shape(), DType::bf16, device);
  const Tensor q = random({1, m.heads, m.d}, DType::bf16, device);
  const Tensor y = Tensor::empty(q.shape(), DType::bf16, device);
  const AttentionLayout layout{.scale = 0.1F,
                               .causal = true,
                               .window = 0,
                               .query_offsets = offsets({0, 1}, device),
                               .key_offsets = offsets({0, static_cast<std::int32_t>(length)}, device)};
  const auto round = [&] {
    for (std::int64_t i = 0; i < caches; ++i) {
      (void)cuda::attention_forward_own(q, keys.slice(0, i * length, capacity), values.slice(0, i * length, capacity),
                                        layout, y, Tensor());
    }
  };
  const Spread time = time_in_turn(device, {{round}}, 5, 10)[0];
  const auto calls = static_cast<double>(caches);
  const double rate = bytes * calls / time.median * 1e6;
  if (as_json) {
    const Json parameters = {
        {"heads", m.heads}, {"kv_heads", m.kv_heads}, {"d", m.d}, {"length", length}, {"dtype", "bf16"}};
    print_record("attention of one query", parameters, {time.median / calls, time.low / calls, time.high / calls}, "us",
                 {{"gb_s", rate / 1e9}});
    return;
  }
  std::printf("%-13s %2d/%d heads of %3d, decode at %6d of %6d  %7.2f us (%.2f to %.2f), %7.1f GB/s, %5.1f %%\n",
              m.name, static_cast<int>(m.heads), static_cast<int>(m.kv_heads), static_cast<int>(m.d),
              static_cast<int>(length), static_cast<int>(capacity), time.median / calls, time.low / calls,
              time.high / calls, rate / 1e9, 100 * rate / memory_rate(device));
}

void run_times(bool decode_only, Device device) {
  const Model qwen{"Qwen2.5-0.5B", 14, 2, 64};
  const Model llama_1b{"Llama-3.2-1B", 32, 8, 64};
  const Model llama_8b{"Llama-3.1-8B", 32, 8, 128};
  if (!decode_only) {
    for (const Implementation* const each : {&kOwn, &kHopper, &kCudnn}) {
      const Implementation& by = *each;
      time_training(by, qwen, 4, 2048, DType::bf16, device);
      time_training(by, llama_1b, 4, 2048, DType::bf16, device);
      time_training(by, llama_8b, 2, 2048, DType::bf16, device);
      time_training(by, llama_1b, 1, 8192, DType::bf16, device);
      time_training(by, llama_8b, 1, 8192, DType::bf16, device);
    }
    time_training(kOwn, qwen, 1, 2048, DType::f32, device);
  }
  for (const std::int64_t length : {128, 256, 512, 2048, 8192, 32768, 131072}) {
    for (const Model& m : {qwen, llama_1b, llama_8b}) {
      time_decoding(m, length, std::max<std::int64_t>(length, 8192), device);
    }
  }
}

}  // namespace
}  // namespace wick::bench

int main(int count, char** arguments) {
  std::vector<std::string> words(arguments + 1, arguments + count);
  const std::vector<std::string> known = {"check", "time", "decode", "--json"};
  std::string only;
  if (const auto at = std::find(words.begin(), words.end(), "--only"); words.end() - at > 1) {
    only = at[1];
    words.erase(at, at + 2);
    words.emplace_back("check");
  }
  for (const std::string& word : words) {
    if (std::find(known.begin(), known.end(), word) != known.end()) continue;
    std::fprintf(stderr, "usage: attention_bench [check|time] [decode] [--json] [--only WORDS]\n");
    return word == "--help" ? 0 : 2;
  }
  const auto said = [&](const char* word) { return std::find(words.begin(), words.end(), word) != words.end(); };
  wick::bench::as_json = said("--json");
  return wick::bench::guarded([&] {
    const wick::Device device = wick::bench::gpu();
    const int failed = said("time") ? 0 : wick::bench::check_attention(said("decode"), only, device);
    if (!said("check")) wick::bench::run_times(said("decode"), device);
    return failed > 0 ? 1 : 0;
  });
}
