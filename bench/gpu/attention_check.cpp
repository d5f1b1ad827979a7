#include "gpu/attention_check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>

#include "backend/cuda/runtime.h"
#include "gpu/attention_reference.h"

namespace wick::bench {
namespace {

// All bytes 0xff: NaN in every dtype, so that an element that nobody wrote shows.
Tensor unwritten(const Shape& shape, DType dtype, Device device) {
  const Tensor host = Tensor::empty(shape, dtype);
  if (host.numel() > 0) std::memset(host.raw(), 0xff, host.storage()->bytes());
  return host.to(device);
}

// Where q, k and v lie, or their gradients.
std::vector<Tensor> places(const Case& c, DType dtype, Device device) {
  if (c.layout == Layout::fused) {
    const Tensor whole = unwritten({c.tokens, c.heads + 2 * c.kv_heads, c.d}, dtype, device);
    return {whole.slice(1, 0, c.heads), whole.slice(1, c.heads, c.kv_heads),
            whole.slice(1, c.heads + c.kv_heads, c.kv_heads)};
  }
  const std::int64_t spare = c.layout == Layout::odd ? 3 : 0;
  const auto place = [&](std::int64_t tokens, std::int64_t heads) {
    return unwritten({tokens, heads, c.d + spare}, dtype, device).slice(2, spare / 2, c.d);
  };
  return {place(c.tokens, c.heads), place(c.key_tokens, c.kv_heads), place(c.key_tokens, c.kv_heads)};
}

struct Results {
  Tensor y, lse, dq, dk, dv;
  Declined declined = nullptr;
};

Results run(const Implementation& by, const Case& c, const Inputs& in, double scale, Device device) {
  const std::vector<Tensor> inputs = places(c, in.q.dtype(), device);
  inputs[0].copy_from(in.q);
  inputs[1].copy_from(in.k);
  inputs[2].copy_from(in.v);
  const Tensor dy = in.dy.to(device);
  // Rows behind the last sequence may hold anything.
  const auto spoil = [&](const Tensor& t, std::int64_t from) {
    const Tensor rows = t.slice(0, from, t.size(0) - from);
    if (rows.numel() > 0) rows.copy_from(unwritten(rows.shape(), rows.dtype(), device));
  };
  for (const Tensor* t : {&inputs[0], &dy}) spoil(*t, std::clamp<std::int64_t>(c.query_offsets.back(), 0, c.tokens));
  for (int i : {1, 2}) spoil(inputs[i], std::clamp<std::int64_t>(c.key_offsets.back(), 0, c.key_tokens));
  const std::vector<Tensor> grads = places(c, in.q.dtype(), device);
  const AttentionLayout layout{.scale = static_cast<float>(scale),
                               .causal = c.causal,
                               .window = c.window,
                               .query_offsets = offsets(c.query_offsets, device),
                               .key_offsets = offsets(c.key_offsets, device),
                               .longest = c.longest()};
  Results r{unwritten(in.q.shape(), in.q.dtype(), device), unwritten({c.heads, c.tokens}, DType::f32, device), grads[0],
            grads[1], grads[2]};
  r.declined = by.forward(inputs[0], inputs[1], inputs[2], layout, r.y, r.lse);
  if (r.declined == nullptr && by.backward != nullptr) {
    r.declined = by.backward(dy, inputs[0], inputs[1], inputs[2], r.y, r.lse, layout, r.dq, r.dk, r.dv);
  }
  return r;
}

std::vector<double> values(const Tensor& t) {
  return t.contiguous().to(Device::cpu()).to(DType::f64).to_vector<double>();
}

// The largest difference over the largest expected value; infinite where only one of two values is a number.
double error(const std::vector<double>& found, const std::vector<double>& expected) {
  double difference = 0;
  double size = 1e-30;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isfinite(expected[i])) size = std::max(size, std::abs(expected[i]));
    if (found[i] == expected[i]) continue;
    if (!std::isfinite(found[i]) || !std::isfinite(expected[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(found[i] - expected[i]));
  }
  return difference / size;
}

enum class Outcome { right, wrong, declined };

Outcome check(const Implementation& by, const Case& c, DType dtype, Device device) {
  const Inputs in(c, dtype);
  const double scale = 1 / std::sqrt(static_cast<double>(c.d));
  const Reference expected = reference(c, in, scale);
  const Results first = run(by, c, in, scale, device);
  std::printf("%-6s %-40s %-4s", by.name, c.name.c_str(), std::string(to_string(dtype)).c_str());
  if (first.declined != nullptr) {
    std::printf("  declined: %s\n", first.declined);
    return Outcome::declined;
  }
  const Results second = run(by, c, in, scale, device);
  const bool wide = dtype == DType::f32;
  const struct {
    const char* name;
    const Tensor& found;
    const Tensor& again;
    const std::vector<double>& expected;
    double tolerance;
  } all[] = {{"y", first.y, second.y, expected.y.values, wide ? 1e-5 : 1e-2},
             {"lse", first.lse, second.lse, expected.lse, 1e-5},
             {"dq", first.dq, second.dq, expected.dq.values, wide ? 1e-4 : 2e-2},
             {"dk", first.dk, second.dk, expected.dk.values, wide ? 1e-4 : 2e-2},
             {"dv", first.dv, second.dv, expected.dv.values, wide ? 1e-4 : 2e-2}};
  bool good = true;
  for (const auto& [name, found, again, wanted, tolerance] : std::span(all, by.backward == nullptr ? 2 : 5)) {
    const std::vector<double> result = values(found);
    const double size = error(result, wanted);
    const bool same = error(values(again), result) == 0;
    good = good && size <= tolerance && same;
    std::printf("  %s %.1e%s", name, size, same ? "" : " (varies)");
  }
  std::printf("%s\n", good ? "" : "  FAILED");
  return good ? Outcome::right : Outcome::wrong;
}

// Offsets that no host has checked must not make a kernel leave its tensors (run this under compute-sanitizer); what it
// writes inside is of no account.
void run_garbage(const Implementation& by, DType dtype, Device device) {
  constexpr std::int32_t kLow = std::numeric_limits<std::int32_t>::min();
  constexpr std::int32_t kHigh = std::numeric_limits<std::int32_t>::max();
  const std::vector<std::vector<std::int32_t>> all = {
      {0, 500, 20, 40}, {-7, 3, 1000000000, 40}, {40, 30, 20, 0}, {kHigh, kLow, kHigh, kLow}};
  for (const std::int64_t heads : {1, 4}) {
    for (const std::int64_t tokens : {3, 40}) {
      for (const auto& queries : all) {
        for (const auto& keys : all) {
          const Case c{"garbage", tokens, 150, heads, 1, 64, queries, keys};
          (void)values(run(by, c, Inputs(c, dtype), 0.1, device).dk);
        }
      }
    }
  }
  std::printf("%-6s %-40s %-4s  ran\n", by.name, "garbage offsets", std::string(to_string(dtype)).c_str());
}

// One to four queries, mostly of caches that are filled to a part.
std::vector<Case> decode_cases() {
  struct Heads {
    std::int64_t heads, kv_heads, d;
  };
  std::vector<Case> cases = {
      {"8/2 heads of 64", 1, 1000, 8, 2, 64, {0, 1}, {0, 1000}},
      {"part of a cache", 1, 1000, 14, 2, 64, {0, 1}, {0, 333}},
      {"heads of 128", 1, 700, 8, 2, 128, {0, 1}, {0, 700}},
      {"heads of 256", 1, 400, 2, 1, 256, {0, 1}, {0, 400}},
      {"heads of 7", 1, 300, 3, 1, 7, {0, 1}, {0, 300}},
      {"20/1 heads, window 150", 1, 600, 20, 1, 64, {0, 1}, {0, 600}, true, 150},
      {"three sequences", 3, 700, 4, 2, 64, {0, 1, 2, 3}, {0, 100, 101, 650}},
      {"none and two queries", 3, 400, 4, 2, 64, {0, 2, 2, 3}, {0, 100, 101, 400}},
      {"no keys", 1, 400, 4, 2, 64, {0, 1}, {0, 0}},
      {"odd strides", 1, 300, 4, 2, 128, {0, 1}, {0, 300}, true, 0, Layout::odd},
  };
  const auto add = [&](const Heads& h, std::int64_t queries, std::int64_t length, std::int64_t capacity,
                       std::int64_t window) {
    std::string name = std::to_string(queries) + " at " + std::to_string(length) + " of " + std::to_string(capacity) +
                       ", " + std::to_string(h.heads) + "/" + std::to_string(h.kv_heads) + " of " + std::to_string(h.d);
    if (window > 0) name += ", window " + std::to_string(window);
    cases.push_back({name,
                     queries,
                     capacity,
                     h.heads,
                     h.kv_heads,
                     h.d,
                     {0, static_cast<std::int32_t>(queries)},
                     {0, static_cast<std::int32_t>(length)},
                     true,
                     window});
  };
  for (const std::int64_t length : {1, 17, 128, 256, 300, 1000, 8192}) {
    const std::int64_t capacity = std::max<std::int64_t>(length, 4096);
    add({14, 2, 64}, 1, length, capacity, 0);
    add({7, 1, 64}, 2, length, capacity, 0);
    add({4, 1, 128}, 3, length, capacity, 0);
    add({2, 2, 64}, 4, length, capacity, 0);
    add({4, 2, 64}, 1, length, capacity, 200);
  }
  for (const std::int64_t d : {96, 80, 256}) add({4, 2, d}, 1, 300, 2000, 0);
  add({32, 8, 64}, 1, 1000, 8192, 0);
  add({3, 1, 7}, 2, 300, 2000, 0);
  add({20, 1, 64}, 4, 1000, 2000, 150);
  return cases;
}

}  // namespace

int check_attention(bool decode_only, const std::string& only, Device device) {
  const std::vector<std::int32_t> packed = {0, 70, 70, 71, 300};
  const std::vector<Case> cases = {
      {"causal, 4/2 heads of 64", 300, 300, 4, 2, 64, {0, 300}, {0, 300}},
      {"causal, 8/2 heads of 128", 260, 260, 8, 2, 128, {0, 260}, {0, 260}},
      {"causal, 2/1 heads of 256", 200, 200, 2, 1, 256, {0, 200}, {0, 200}},
      {"causal, 14/2 heads of 64", 140, 140, 14, 2, 64, {0, 140}, {0, 140}},
      {"exact tiles", 256, 256, 2, 1, 64, {0, 256}, {0, 256}},
      {"bidirectional, heads of 128", 150, 150, 2, 2, 128, {0, 150}, {0, 150}, false},
      {"heads of 80", 150, 150, 2, 1, 80, {0, 150}, {0, 150}},
      {"heads of 7", 150, 150, 2, 1, 7, {0, 150}, {0, 150}},
      {"heads of 1", 70, 70, 1, 1, 1, {0, 70}, {0, 70}},
      {"heads of 200", 90, 90, 2, 1, 200, {0, 90}, {0, 90}},
      {"window 100", 400, 400, 2, 1, 64, {0, 400}, {0, 400}, true, 100},
      {"window 2", 100, 100, 1, 1, 64, {0, 100}, {0, 100}, true, 2},
      {"window 70, heads of 128", 300, 300, 4, 1, 128, {0, 300}, {0, 300}, true, 70},
      {"packed with empty sequences", 300, 300, 4, 2, 64, packed, packed},
      {"packed, window 33", 300, 300, 2, 1, 128, packed, packed, true, 33},
      {"packed, bidirectional", 300, 300, 2, 1, 64, packed, packed, false},
      {"packed, rows left over", 320, 340, 4, 2, 64, packed, packed},
      {"few queries of a cache", 50, 500, 4, 1, 64, {0, 20, 50}, {0, 200, 450}},
      {"few queries of a cache, window 90", 50, 500, 4, 1, 128, {0, 20, 50}, {0, 200, 450}, true, 90},
      {"more queries than keys", 300, 120, 2, 1, 64, {0, 200, 300}, {0, 70, 120}},
      {"no keys", 70, 0, 2, 1, 64, {0, 70}, {0, 0}, false},
      {"fused projection", 200, 200, 6, 2, 64, {0, 200}, {0, 200}, true, 0, Layout::fused},
      {"fused projection, heads of 128", 130, 130, 4, 2, 128, {0, 130}, {0, 130}, true, 0, Layout::fused},
      {"odd strides", 150, 150, 2, 1, 64, {0, 150}, {0, 150}, true, 0, Layout::odd},
      {"large scores", 150, 150, 2, 1, 64, {0, 150}, {0, 150}, true, 0, Layout::dense, 4},
  };
  // Shapes that cuDNN takes; its lengths are the host's word.
  const std::vector<std::int32_t> mixed = {0, 7, 135, 136, 520, 520, 600};
  const std::vector<Case> cudnn_cases = {
      {"dense, 4/2 heads of 64", 512, 512, 4, 2, 64, {0, 256, 512}, {0, 256, 512}},
      {"dense, 14/2 heads of 64", 384, 384, 14, 2, 64, {0, 128, 256, 384}, {0, 128, 256, 384}},
      {"dense, 8/2 heads of 128", 256, 256, 8, 2, 128, {0, 256}, {0, 256}},
      {"dense, 4/4 heads of 64", 256, 256, 4, 4, 64, {0, 256}, {0, 256}},
      {"dense, bidirectional", 256, 256, 4, 2, 64, {0, 128, 256}, {0, 128, 256}, false},
      {"dense, window 100", 512, 512, 4, 2, 64, {0, 512}, {0, 512}, true, 100},
      {"dense, fused projection", 512, 512, 6, 2, 64, {0, 256, 512}, {0, 256, 512}, true, 0, Layout::fused},
      {"dense, fused, heads of 128", 256, 256, 4, 2, 128, {0, 256}, {0, 256}, true, 0, Layout::fused},
      {"dense, heads a few at a time", 8192, 8192, 8, 2, 64, {0, 8192}, {0, 8192}, true, 64},
      {"one sequence of 300", 300, 300, 4, 2, 64, {0, 300}, {0, 300}},
      {"packed, 4/2 heads of 64", 600, 600, 4, 2, 64, mixed, mixed},
      {"packed, 14/2 heads of 64", 600, 600, 14, 2, 64, mixed, mixed},
      {"packed, 8/2 heads of 128", 600, 600, 8, 2, 128, mixed, mixed},
      {"packed, 4/4 heads of 64", 600, 600, 4, 4, 64, mixed, mixed},
      {"packed, bidirectional", 600, 600, 4, 2, 64, mixed, mixed, false},
      {"packed, window 100", 600, 600, 4, 2, 64, mixed, mixed, true, 100},
      {"packed, fused projection", 600, 600, 6, 2, 64, mixed, mixed, true, 0, Layout::fused},
      {"packed, large scores", 600, 600, 4, 2, 64, mixed, mixed, true, 0, Layout::dense, 4},
  };
  int failed = 0;
  int declined = 0;
  std::size_t checks = 0;
  const auto check_all = [&](const Implementation& by, const std::vector<Case>& those,
                             std::initializer_list<DType> dtypes) {
    for (const Case& c : those) {
      if ((by.name + (" " + c.name)).find(only) == std::string::npos) continue;
      for (const DType dtype : dtypes) {
        const Outcome outcome = check(by, c, dtype, device);
        failed += outcome == Outcome::wrong ? 1 : 0;
        // cuDNN may; the others' cases are their own.
        if (outcome == Outcome::declined) ++(&by == &kCudnn ? declined : failed);
        ++checks;
      }
    }
  };
  const bool on_hopper = cuda::info(device.index).major == 9;
  if (!decode_only) {
    check_all(kOwn, cases, {DType::bf16, DType::f16, DType::f32});
    check_all(kCudnn, cudnn_cases, {DType::bf16, DType::f16});
    std::vector<Case> hopper_cases = {
        {"many tiles, 8/2 heads of 64", 1100, 1100, 8, 2, 64, {0, 1100}, {0, 1100}},
        {"many tiles, 4/1 heads of 128", 1100, 1100, 4, 1, 128, {0, 900, 1100}, {0, 900, 1100}},
        {"many tiles, 40/40 heads of 64", 700, 700, 40, 40, 64, {0, 700}, {0, 700}},
    };
    for (const std::vector<Case>* those : {&cases, &cudnn_cases}) {
      for (const Case& c : *those) {
        if ((c.d == 64 || c.d == 128) && c.layout != Layout::odd && c.key_tokens > 0) hopper_cases.push_back(c);
      }
    }
    if (on_hopper) check_all(kHopper, hopper_cases, {DType::bf16, DType::f16});
  }
  check_all(kDecode, decode_cases(), {DType::bf16, DType::f16, DType::f32});
  if (only.empty()) {
    for (const DType dtype : {DType::bf16, DType::f32}) run_garbage(kOwn, dtype, device);
    if (on_hopper) run_garbage(kHopper, DType::bf16, device);
  }
  std::printf("%d of %zu failed, %d were declined\n\n", failed, checks, declined);
  return checks > 0 ? failed : 1;
}

}  // namespace wick::bench
