// Attention of short packed sequences, every query seeing every key, as encoders have it in bf16 and f16. A warp takes
// 32 queries of one head and walks over the keys 32 at a time; everything stays in its registers. A lane reads 16 bytes
// of a row, so four lanes read 32 elements of it: which of them the tensor cores take for which column of a fragment
// does not matter as long as queries and keys agree, and what comes out of the product with the values lies the same
// way.

#include "ops/attention/attention_cuda.cuh"
#include "ops/attention/attention_decode_sums.cuh"

namespace wick::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRows = 32;           // queries of a warp, and keys of a step
constexpr int kGroups = kRows / 8;  // of keys
constexpr int kAtoms = kRows / 16;  // of queries
constexpr int kSpan = 32;           // elements of a row that four lanes read at once

template <class T>
struct ShortArguments {
  AttentionProblem problem;
  Heads<const T> q, k, v;
  Heads<T> y;
  float* lse;  // null: not wanted
  std::int64_t lse_row;
  int tiles;  // of queries in a sequence, at most
  int units;  // warps that have something to do
};

// A lane's 16 bytes of a row; zeros where there are none.
template <class T>
__device__ inline uint4 read_row(const Heads<const T>& from, int row, int head, int element, bool valid) {
  return valid ? *reinterpret_cast<const uint4*>(from.at(row, head) + element) : uint4{};
}

template <class T, int kSpans>
__device__ inline void attend(const ShortArguments<T>& in, const Sequence& s, int head, int first) {
  const AttentionProblem& p = in.problem;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int lane_row = lane / 4;
  const int pair = 2 * (lane % 4);
  const int kv_head = head / p.group();
  const auto element = [&](int i) { return kSpan * i + 8 * (lane % 4); };
  const auto row_of = [&](int a, int h) { return first + 16 * a + 8 * h + lane_row; };

  uint4 q[kAtoms][2][kSpans];
#pragma unroll
  for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < kSpans; ++i) {
        q[a][h][i] = read_row(in.q, s.first_query + row_of(a, h), head, element(i),
                              row_of(a, h) < s.queries && element(i) < p.head_dim);
      }
    }
  }

  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  float highest[kAtoms][2];
  float total[kAtoms][2];  // this lane's columns only
  float sums[kAtoms][4 * kSpans][4];
#pragma unroll
  for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      highest[a][h] = -INFINITY;
      total[a][h] = 0.0F;
    }
#pragma unroll
    for (int n = 0; n < 4 * kSpans; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[a][n][e] = 0.0F;
    }
  }

  for (int at = 0; at < s.keys; at += kRows) {
    uint4 k[kGroups][kSpans];
    uint4 v[kGroups][kSpans];
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const int key = at + 8 * n + lane_row;
#pragma unroll
      for (int i = 0; i < kSpans; ++i) {
        k[n][i] = read_row(in.k, s.first_key + key, kv_head, element(i), key < s.keys && element(i) < p.head_dim);
      }
    }
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const int key = at + 8 * n + lane_row;
#pragma unroll
      for (int i = 0; i < kSpans; ++i) {
        v[n][i] = read_row(in.v, s.first_key + key, kv_head, element(i), key < s.keys && element(i) < p.head_dim);
      }
    }

    float scores[kAtoms][kGroups][4];
#pragma unroll
    for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[a][n][e] = 0.0F;
#pragma unroll
        for (int i = 0; i < kSpans; ++i) {
          const uint4& upper = q[a][0][i];
          const uint4& lower = q[a][1][i];
          multiply_add<T>(scores[a][n], {upper.x, lower.x, upper.y, lower.y}, k[n][i].x, k[n][i].y);
          multiply_add<T>(scores[a][n], {upper.z, lower.z, upper.w, lower.w}, k[n][i].z, k[n][i].w);
        }
        if (at + kRows > s.keys) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (at + 8 * n + pair + e % 2 >= s.keys) scores[a][n][e] = -INFINITY;
          }
        }
      }
    }

    // A step has a key that is seen, so no maximum is -inf.
#pragma unroll
    for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = highest[a][h];
#pragma unroll
        for (int n = 0; n < kGroups; ++n) top = fmaxf(top, fmaxf(scores[a][n][2 * h], scores[a][n][2 * h + 1]));
        top = quad_max(top);
        const float base = top * scale_log2;
        const float keep = fast_exp2(highest[a][h] * scale_log2 - base);
        highest[a][h] = top;
        float sum = 0.0F;
#pragma unroll
        for (int n = 0; n < kGroups; ++n) {
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            scores[a][n][e] = fast_exp2(fmaf(scores[a][n][e], scale_log2, -base));
            sum += scores[a][n][e];
          }
        }
        total[a][h] = total[a][h] * keep + sum;
#pragma unroll
        for (int n = 0; n < 4 * kSpans; ++n) {
          sums[a][n][2 * h] *= keep;
          sums[a][n][2 * h + 1] *= keep;
        }
      }
    }

    // Scores lie as the left operand needs them; values have to be turned, eight keys by eight elements at a time.
#pragma unroll
    for (int pairs = 0; pairs < kGroups / 2; ++pairs) {
      unsigned weights[kAtoms][4];
#pragma unroll
      for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float* const of = scores[a][2 * pairs + e / 2] + 2 * (e % 2);
          weights[a][e] = pack_pair<T>(of[0], of[1]);
        }
      }
#pragma unroll
      for (int i = 0; i < kSpans; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const unsigned upper = transpose(word(v[2 * pairs][i], j));
          const unsigned lower = transpose(word(v[2 * pairs + 1][i], j));
#pragma unroll
          for (int a = 0; a < kAtoms; ++a) multiply_add<T>(sums[a][4 * i + j], weights[a], upper, lower);
        }
      }
    }
  }

#pragma unroll
  for (int a = 0; a < kAtoms; ++a) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float all = quad_sum(total[a][h]);
      if (row_of(a, h) >= s.queries) continue;
      const float by = all == 0 ? 0.0F : 1.0F / all;
      const int row = s.first_query + row_of(a, h);
#pragma unroll
      for (int i = 0; i < kSpans; ++i) {
        if (element(i) >= p.head_dim) continue;
        const auto packed = [&](int j) {
          return pack_pair<T>(sums[a][4 * i + j][2 * h] * by, sums[a][4 * i + j][2 * h + 1] * by);
        };
        *reinterpret_cast<uint4*>(in.y.at(row, head) + element(i)) = {packed(0), packed(1), packed(2), packed(3)};
      }
      if (in.lse != nullptr && pair == 0) {
        in.lse[head * in.lse_row + row] = log_sum_exp(highest[a][h], all, p.scale);
      }
    }
  }
}

// The queries after the last sequence count as one more, without keys.
template <class T, int kSpans>
__global__ void __launch_bounds__(kWarps * 32) short_kernel(const ShortArguments<T> in) {
  const int unit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (unit >= in.units) return;
  wait_for_previous();
  allow_next();
  const AttentionProblem& p = in.problem;
  const int head = unit % p.heads;
  const int tile = unit / p.heads;
  const Sequence s = sequence_of(p, tile / in.tiles, Side::queries);
  for (int first = tile % in.tiles * kRows; first < s.queries; first += in.tiles * kRows) {
    attend<T, kSpans>(in, s, head, first);
  }
}

}  // namespace

Declined attention_forward_short(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                 const Tensor& y, const Tensor& lse) {
  if (q.dtype() != DType::bf16 && q.dtype() != DType::f16) return "its tensor cores take bf16 and f16";
  if (layout.causal) return "causal attention";
  if (layout.bias.defined()) return "a bias by distance";
  if (layout.longest == 0 || layout.longest > kShortSequence) return "sequences that are long, or may be";
  if (q.size(2) > 2 * kSpan || q.size(2) % 8 != 0) return "a head dimension over 64, or no multiple of 8";
  const AttentionProblem p = attention_problem(q, k, layout, {&q, &k, &v, &y});
  if (!p.vectors) return "rows that do not start on 16 bytes";
  const std::int64_t tiles = (layout.longest + kRows - 1) / kRows;
  const std::int64_t units = (p.sequences + std::int64_t{1}) * tiles * p.heads;
  if (units > INT_MAX - kWarps) return "more warps than are counted";
  const auto run = [&]<class T>(T) {
    const ShortArguments<T> in{.problem = p,
                               .q = by_heads<const T>(q),
                               .k = by_heads<const T>(k),
                               .v = by_heads<const T>(v),
                               .y = by_heads<T>(y),
                               .lse = pointer<float>(lse),
                               .lse_row = lse.defined() ? lse.stride(0) : 0,
                               .tiles = static_cast<int>(tiles),
                               .units = static_cast<int>(units)};
    const double rows =
        2.0 * (static_cast<double>(p.heads) * p.tokens + static_cast<double>(p.kv_heads) * p.key_tokens);
    const Work work{"attention of short sequences", rows * p.head_dim * sizeof(T), attention_flops(p, 2)};
    launch(work, p.head_dim <= kSpan ? short_kernel<T, 1> : short_kernel<T, 2>,
           {.grid = dim3(blocks_for(units, kWarps)), .block = dim3(kWarps * 32), .overlap = true}, in);
  };
  if (q.dtype() == DType::bf16) {
    run(__nv_bfloat16{});
  } else {
    run(__half{});
  }
  return nullptr;
}

}  // namespace wick::cuda
