#include "ops/attention/attention.h"
#include "ops/op.h"
#include "ops/rope_append/rope_append.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace wick {

Kernels<AttentionForward> attention_forward{{attention_forward_cpu}};
Kernels<AttentionBackward> attention_backward{{attention_backward_cpu}};
Kernels<AttentionAppend> attention_append_kernels;
Kernels<AttentionScratchBytes> attention_scratch_by{{attention_scratch_cpu, attention_scratch_cudnn}};

KeptScores kept_scores(std::int64_t heads, std::int64_t kv_heads, std::int64_t places, std::int64_t longest) {
  constexpr std::int64_t kLimit = std::int64_t{512} << 20;
  const std::int64_t each = heads / kv_heads * places * longest * 2;
  for (std::int64_t n = kv_heads; n > 0; --n) {
    if (kv_heads % n == 0 && n * each <= kLimit) return {n, n * each};
  }
  return {};
}

std::int64_t attention_scratch(DeviceType device, const AttentionSizes& sizes) {
  return attention_scratch_by.on(device)(sizes);
}
std::int64_t attention_scratch_cpu(const AttentionSizes& s) {  // a row of dk and dv for each head
  return 2 * s.tokens * s.heads * s.head_dim * static_cast<std::int64_t>(sizeof(float));
}
std::int64_t attention_scratch_cudnn(const AttentionSizes& s) {
  const bool narrow = s.dtype == DType::bf16 || s.dtype == DType::f16;
  const std::int64_t scores = narrow && s.longest > 0 ? kept_scores(s.heads, s.kv_heads, s.tokens, s.longest).bytes : 0;
  return s.tokens * s.heads * static_cast<std::int64_t>(sizeof(float)) + scores;
}

namespace {

constexpr const char* kOp = "attention";

// 1 where query `i` of a sequence sees key `j`: the last query stands at the last key.
Tensor visible(std::int64_t queries, std::int64_t keys, const AttentionLayout& layout, Device device) {
  std::vector<std::int32_t> mask(static_cast<std::size_t>(queries * keys));
  for (std::int64_t i = 0; i < queries; ++i) {
    const std::int64_t position = i + keys - queries;
    for (std::int64_t j = 0; j < keys; ++j) {
      const bool sees = j <= position && (layout.window == 0 || position - j < layout.window);
      mask[static_cast<std::size_t>(i * keys + j)] = sees ? 1 : 0;
    }
  }
  return Tensor::from(mask, {queries, keys}).to(device);
}

// What the bias adds to the scores, [kv_heads, heads / kv_heads, queries, keys].
Tensor added_scores(const Tensor& bias, std::int64_t queries, std::int64_t keys, std::int64_t kv_heads) {
  const std::int64_t reach = bias.size(1) / 2;
  std::vector<std::int32_t> columns(static_cast<std::size_t>(queries * keys));
  for (std::int64_t i = 0; i < queries; ++i) {
    const std::int64_t position = i + keys - queries;
    for (std::int64_t j = 0; j < keys; ++j) {
      columns[static_cast<std::size_t>(i * keys + j)] =
          static_cast<std::int32_t>(std::clamp(j - position, -reach, reach) + reach);
    }
  }
  const Tensor at = Tensor::from(columns, {queries * keys}).to(bias.device());
  const Tensor picked = gather_rows(transpose(bias, 0, 1), at);
  return reshape(transpose(picked, 0, 1), {kv_heads, bias.size(0) / kv_heads, queries, keys});
}

// [tokens, heads, d] as [kv_heads, heads / kv_heads, tokens, d].
Tensor by_group(const Tensor& x, std::int64_t kv_heads) {
  const std::int64_t group = x.size(1) / kv_heads;
  return permute(reshape(x, {x.size(0), kv_heads, group, x.size(2)}), {1, 2, 0, 3});
}

// One sequence. Every query sees a key, or there are no keys at all.
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout, double scale) {
  const std::int64_t kv_heads = k.size(1);
  const Tensor keys = transpose(by_group(k, kv_heads), -1, -2);
  Tensor weights = mul(matmul(by_group(q, kv_heads), keys), scale);
  if (k.size(0) > 0) {
    if (layout.bias.defined()) weights = add(weights, added_scores(layout.bias, q.size(0), k.size(0), kv_heads));
    if (layout.causal) {
      const Tensor mask = visible(q.size(0), k.size(0), layout, q.device());
      weights = where(mask, weights, -std::numeric_limits<double>::infinity());
    }
    const Tensor e = exp(sub(weights, max(weights, -1, true)));
    weights = div(e, sum(e, -1, true));
  }
  return reshape(permute(matmul(weights, by_group(v, kv_heads)), {2, 0, 1, 3}), q.shape());
}

Tensor composite(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout, double scale) {
  const DType wide = q.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor queries = cast(q, wide);
  const Tensor keys = cast(k, wide);
  const Tensor values = cast(v, wide);
  // A device is waited for here: the pieces depend on the values.
  const std::vector<std::int32_t> qo = layout.query_offsets.to_vector<std::int32_t>();
  const std::vector<std::int32_t> ko = layout.key_offsets.to_vector<std::int32_t>();
  std::vector<Tensor> parts;
  for (std::size_t s = 0; s + 1 < qo.size(); ++s) {
    const std::int64_t count = qo[s + 1] - qo[s];
    const std::int64_t key_count = ko[s + 1] - ko[s];
    const auto part = [&](std::int64_t first, std::int64_t length, std::int64_t key_length) {
      return attend(slice(queries, 0, qo[s] + first, length), slice(keys, 0, ko[s], key_length),
                    slice(values, 0, ko[s], key_length), layout, scale);
    };
    // The first queries of a sequence with more queries than keys stand before its first key.
    const std::int64_t blind = layout.causal ? std::max<std::int64_t>(0, count - key_count) : 0;
    if (blind > 0) parts.push_back(part(0, blind, 0));
    parts.push_back(part(blind, count - blind, key_count));
  }
  return cast(concat(parts, 0), q.dtype());
}

// AttentionLayout::longest.
std::int64_t longest(const Tensor& q, const Tensor& k, const AttentionOptions& options) {
  const Tensor& offsets = options.query_offsets;
  const bool as_many_keys =
      !options.key_offsets.defined() || (offsets.defined() && options.key_offsets.raw() == offsets.raw());
  if (!as_many_keys || q.size(0) != k.size(0)) return 0;
  if (!offsets.defined()) return q.size(0);
  if (options.longest < 0 || options.longest > q.size(0)) {
    fail(ErrorCode::invalid_argument, "[{}] the longest sequence has {} of {} tokens", kOp, options.longest, q.size(0));
  }
  if (options.longest == 0 || offsets.device().type != DeviceType::cpu) return options.longest;
  const std::vector<std::int32_t> at = offsets.to(DType::i32).to_vector<std::int32_t>();
  for (std::size_t i = 0; i + 1 < at.size(); ++i) {
    if (at[i + 1] - at[i] > options.longest) {
      fail(ErrorCode::invalid_argument, "[{}] sequence {} has {} tokens, the longest was to have {}", kOp, i,
           at[i + 1] - at[i], options.longest);
    }
  }
  return options.longest;
}

// AttentionLayout::bias.
Tensor checked_bias(const Tensor& q, const Tensor& bias) {
  if (!bias.defined()) return {};
  const DType wide = q.dtype() == DType::f64 ? DType::f64 : DType::f32;
  if (bias.rank() != 2 || bias.size(0) != q.size(1) || bias.size(1) % 2 == 0 || bias.dtype() != wide) {
    fail(ErrorCode::invalid_argument, "[{}] bias is {}, expected {} [{}, an odd number]", kOp, describe(bias),
         to_string(wide), q.size(1));
  }
  check_same_device(kOp, q, "bias", bias);
  return bias.detach().contiguous();
}

AttentionLayout check(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  check_floating(kOp, "q", q);
  const std::pair<const char*, const Tensor*> others[] = {{"k", &k}, {"v", &v}};
  for (const auto& [what, t] : others) {
    check_same_dtype(kOp, q, what, *t);
    check_same_device(kOp, q, what, *t);
  }
  if (q.rank() != 3) fail(ErrorCode::invalid_argument, "[{}] q must be [tokens, heads, d], is {}", kOp, describe(q));
  if (k.rank() != 3) fail(ErrorCode::invalid_argument, "[{}] k must be [tokens, heads, d], is {}", kOp, describe(k));
  check_same_shape(kOp, "k", k, "v", v);
  if (k.size(2) != q.size(2) || q.size(2) == 0) {
    fail(ErrorCode::invalid_argument, "[{}] the head dimension of q is {}, of k {}", kOp, q.size(2), k.size(2));
  }
  if (k.size(1) == 0 || q.size(1) % k.size(1) != 0) {
    fail(ErrorCode::invalid_argument, "[{}] {} query heads are no multiple of {} key heads", kOp, q.size(1), k.size(1));
  }
  if (!std::isfinite(options.scale) || options.scale < 0) {
    fail(ErrorCode::invalid_argument, "[{}] scale is {}, expected 0 or more", kOp, options.scale);
  }
  if (options.window < 0 || (options.window > 0 && !options.causal)) {
    fail(ErrorCode::invalid_argument, "[{}] window is {}, expected 0, or more where attention is causal", kOp,
         options.window);
  }
  constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();
  if (q.size(0) >= kMaxTokens || k.size(0) >= kMaxTokens) {
    fail(ErrorCode::invalid_argument, "[{}] {} queries and {} keys, expected fewer than {}", kOp, q.size(0), k.size(0),
         kMaxTokens);
  }
  const auto whole = [&](std::int64_t tokens) {
    const Tensor offsets = Tensor::zeros({2}, DType::i32, q.device());
    offsets.slice(0, 1, 1).fill(static_cast<double>(tokens));
    return offsets;
  };
  const Tensor& keys = options.key_offsets.defined() ? options.key_offsets : options.query_offsets;
  AttentionLayout layout{
      .scale = static_cast<float>(options.scale),
      .causal = options.causal,
      .window = options.window,
      .query_offsets = options.query_offsets.defined()
                           ? checked_offsets(kOp, "query_offsets", options.query_offsets, q.size(0))
                           : whole(q.size(0)),
      .key_offsets = keys.defined() ? checked_offsets(kOp, "key_offsets", keys, k.size(0)) : whole(k.size(0))};
  check_same_device(kOp, q, "query_offsets", layout.query_offsets);
  check_same_device(kOp, q, "key_offsets", layout.key_offsets);
  if (layout.query_offsets.numel() != layout.key_offsets.numel()) {
    fail(ErrorCode::invalid_argument, "[{}] query_offsets has {} elements, key_offsets {}", kOp,
         layout.query_offsets.numel(), layout.key_offsets.numel());
  }
  layout.longest = longest(q, k, options);
  layout.bias = checked_bias(q, options.bias);
  return layout;
}

double resolved_scale(const Tensor& q, const AttentionOptions& options) {
  return options.scale > 0 ? options.scale : 1.0 / std::sqrt(static_cast<double>(q.size(2)));
}

// Kernels read d densely.
Tensor dense_columns(const Tensor& x) { return x.stride(2) == 1 || x.size(2) == 1 ? x : x.contiguous(); }

std::vector<Tensor> gradient(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                             const Tensor& lse, const AttentionLayout& layout, double scale,
                             std::span<const GradPlace> places, const std::vector<bool>& needs) {
  std::vector<Tensor> grads(3);
  for (std::size_t i = 0; i < grads.size(); ++i) {
    if (needs[i]) grads[i] = places[i].empty();
  }
  if (run_kernel(kOp, attention_backward, q.device(), dense_columns(dy), q, k, v, y, lse, layout, grads[0], grads[1],
                 grads[2])) {
    return grads;
  }
  const Tensor inputs[] = {q, k, v};
  const Tensor grads_out[] = {dy};
  return composite_gradients(
      [&](std::span<const Tensor> in) { return std::vector<Tensor>{composite(in[0], in[1], in[2], layout, scale)}; },
      inputs, grads_out, needs);
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  AttentionLayout layout = check(q, k, v, options);
  const double scale = resolved_scale(q, options);
  layout.scale = static_cast<float>(scale);
  const Tensor queries = dense_columns(q.detach());
  const Tensor keys = dense_columns(k.detach());
  const Tensor values = dense_columns(v.detach());
  Tensor y = Tensor::empty(q.shape(), q.dtype(), q.device());
  const Tensor lse = recording({q, k, v}) ? Tensor::empty({q.size(1), q.size(0)}, DType::f32, q.device()) : Tensor();
  if (!run_kernel(kOp, attention_forward, q.device(), queries, keys, values, layout, y, lse)) {
    return composite(q, k, v, layout, scale);
  }
  record(kOp, {q, k, v}, {&y},
         [queries, keys, values, y = y.detach(), lse, layout, scale,
          places = std::array{GradPlace(q), GradPlace(k), GradPlace(v)}](std::span<const Tensor> dy,
                                                                         const std::vector<bool>& needs) {
           return gradient(dy[0], queries, keys, values, y, lse, layout, scale, places, needs);
         });
  return y;
}

Tensor attention_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                        const Tensor& keys, const Tensor& values, const AttentionOptions& options, bool at_rest) {
  constexpr const char* kAppend = "attention_append";
  if (!options.key_offsets.defined() || options.key_offsets.numel() != 2) {
    fail(ErrorCode::invalid_argument, "[{}] key_offsets is {}, expected i32 [2]: one sequence", kAppend,
         describe(options.key_offsets));
  }
  const NoGrad no_grad;
  const Tensor end = options.key_offsets.slice(0, 1, 1);
  // A device without a kernel is none that falls back: one op after the other is its way.
  if (q.defined() && q.rank() == 3 && q.size(0) == 1 && attention_append_kernels.on(q.device().type) != nullptr) {
    check_rope_append(q, k, v, cos, sin, end, keys, values);
    AttentionLayout layout = check(q, keys, values, options);
    layout.scale = static_cast<float>(resolved_scale(q, options));
    const Tensor y = Tensor::empty(q.shape(), q.dtype(), q.device());
    if (run_kernel(kAppend, attention_append_kernels, q.device(), dense_columns(q.detach()), dense_columns(k.detach()),
                   dense_columns(v.detach()), cos.detach().contiguous(), sin.detach().contiguous(), layout,
                   keys.detach(), values.detach(), at_rest, y)) {
      return y;
    }
  }
  return attention(rope_append(q, k, v, cos, sin, end, keys, values), keys, values, options);
}

}  // namespace wick
