// Attention on plain multiply-adds: f32, whose tolerance rules out TF32, and in backward the head dims that the tensor
// core kernels have no registers for. Tiles of 16 x 16 threads: a thread has rows y + 16 i; of scores the columns
// x + 16 j, of results the four columns 4 x + 64 c. The walk is that of attention_forward.cu and attention_backward.cu.

#include "ops/attention/attention_cuda.cuh"

namespace wick::cuda {
namespace {

constexpr int kLanes = 16;
constexpr int kThreads = kLanes * kLanes;

using Float4 = Pack<float, 4>;

// Rows of kDim floats lie four further apart, so that eight rows of one column are in different banks.
template <int kDim>
constexpr int kPitch = kDim + 4;

__device__ inline int lane_x() { return static_cast<int>(threadIdx.x) % kLanes; }
__device__ inline int lane_y() { return static_cast<int>(threadIdx.x) / kLanes; }

template <class T>
struct GenericArguments {
  AttentionProblem problem;
  Heads<const T> q, k, v, dy;
  Heads<T> y, dq, dk, dv;
  float* lse;
  std::int64_t lse_row;
  const float* delta;
  int slots;
};

template <int kHeadDim>
struct GenericShape {
  static constexpr int kDim = kHeadDim;
  static constexpr int kForward = kDim <= 128 ? 64 : 32;  // queries, and keys, of a tile
  static constexpr int kBackward = kDim <= 64 ? 64 : 32;  // rows of both sides
  template <int kRows>
  static constexpr std::size_t shared(int row_tiles) {
    return sizeof(float) * static_cast<std::size_t>(row_tiles * kRows * kPitch<kDim> + kRows * kPitch<kRows>);
  }
};

// `count` rows as floats, zeros in the rest of a tile of kRows.
template <int kDim, int kRows, class T>
__device__ inline void load_rows(float* tile, const T* from, std::int64_t row_stride, int count, int head_dim) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDim; i += kThreads) {
    const int row = i / kDim;
    const int column = i % kDim;
    const bool there = row < count && column < head_dim;
    tile[row * kPitch<kDim> + column] = there ? to_float(from[row * row_stride + column]) : 0.0F;
  }
}

// scores[i][j] = row y + 16 i of a by row x + 16 j of b.
template <int kDim, int kRows>
__device__ inline void multiply_rows(float (&scores)[kRows / kLanes][kRows / kLanes], const float* a, const float* b,
                                     int head_dim) {
  constexpr int kEach = kRows / kLanes;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) scores[i][j] = 0.0F;
  }
#pragma unroll 2
  for (int k = 0; k < head_dim; k += 4) {  // rows are padded with zeros
    Float4 right[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) right[j] = load_pack<float, 4>(b + (lane_x() + kLanes * j) * kPitch<kDim> + k);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const Float4 left = load_pack<float, 4>(a + (lane_y() + kLanes * i) * kPitch<kDim> + k);
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[i][j] = fmaf(left[e], right[j][e], scores[i][j]);
      }
    }
  }
}

template <int kRows>
__device__ inline void store_scores(float* tile, const float (&scores)[kRows / kLanes][kRows / kLanes]) {
#pragma unroll
  for (int i = 0; i < kRows / kLanes; ++i) {
#pragma unroll
    for (int j = 0; j < kRows / kLanes; ++j) {
      tile[(lane_y() + kLanes * i) * kPitch<kRows> + lane_x() + kLanes * j] = scores[i][j];
    }
  }
}

// sums += w b: a tile of scores by a tile of rows.
template <int kDim, int kRows>
__device__ inline void add_product(float (&sums)[kRows / kLanes][kDim / 64][4], const float* w, const float* b) {
#pragma unroll 1
  for (int k = 0; k < kRows; k += 4) {
    Float4 left[kRows / kLanes];
#pragma unroll
    for (int i = 0; i < kRows / kLanes; ++i) {
      left[i] = load_pack<float, 4>(w + (lane_y() + kLanes * i) * kPitch<kRows> + k);
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int c = 0; c < kDim / 64; ++c) {
        const Float4 right = load_pack<float, 4>(b + (k + step) * kPitch<kDim> + 4 * lane_x() + 64 * c);
#pragma unroll
        for (int i = 0; i < kRows / kLanes; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[i][c][e] = fmaf(left[i][step], right[e], sums[i][c][e]);
        }
      }
    }
  }
}

template <int kRows, int kDim>
__device__ inline void clear(float (&sums)[kRows][kDim][4]) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int c = 0; c < kDim; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][c][e] = 0.0F;
    }
  }
}

// Row i of a thread's sums times `factor`.
template <int kColumns, class T>
__device__ inline void store_row(const float (&sums)[kColumns][4], float factor, T* to, int head_dim) {
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = 4 * lane_x() + 64 * c + e;
      if (column < head_dim) to[column] = from_float<T>(sums[c][e] * factor);
    }
  }
}

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(const GenericArguments<T> in) {
  constexpr int kTile = GenericShape<kDim>::kForward;
  constexpr int kEach = kTile / kLanes;
  extern __shared__ __align__(16) float generic_memory[];
  const AttentionProblem& p = in.problem;
  const auto block = static_cast<int>(blockIdx.x);
  const int head = block % p.heads;
  const AttentionTile tile = find_tile(p, Side::queries, kTile, in.slots - 1 - block / p.heads);
  if (tile.count == 0) return;
  const Sequence& s = tile.sequence;
  const int kv_head = head / p.group();
  float* const queries = generic_memory;
  float* const rows = queries + kTile * kPitch<kDim>;  // keys, then values
  float* const weights = rows + kTile * kPitch<kDim>;
  const int first = s.first_query + tile.first;
  load_rows<kDim, kTile>(queries, in.q.at(first, head), in.q.row, tile.count, p.head_dim);

  const Meeting sees(p, s, Side::queries, tile.first, tile.count);
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  float sums[kEach][kDim / 64][4];
  float highest[kEach];
  float total[kEach];
  clear(sums);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    highest[i] = -INFINITY;
    total[i] = 0.0F;
  }
  for (int done = 0; done < sees.size(); done += kTile) {
    const int at = sees.begin() + done;
    const int count = ::min(kTile, sees.size() - done);
    __syncthreads();
    load_rows<kDim, kTile>(rows, in.k.at(s.first_key + at, kv_head), in.k.row, count, p.head_dim);
    __syncthreads();
    float scores[kEach][kEach];
    multiply_rows<kDim, kTile>(scores, queries, rows, p.head_dim);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const Range range = partners(p, s, Side::queries, tile.first + lane_y() + kLanes * i);
      float top = highest[i];
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int key = at + lane_x() + kLanes * j;
        if (p.bias != nullptr) scores[i][j] += bias_of(p, s, head, tile.first + lane_y() + kLanes * i, key);
        if (key < range.begin || key >= range.end) scores[i][j] = -INFINITY;
        top = fmaxf(top, scores[i][j]);
      }
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffU, top, offset));
      }
      const float base = top == -INFINITY ? 0.0F : top;
      const float keep = exp2f((highest[i] - base) * scale_log2);
      highest[i] = top;
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        scores[i][j] = exp2f((scores[i][j] - base) * scale_log2);
        sum += scores[i][j];
      }
      total[i] = total[i] * keep + sum;
#pragma unroll
      for (int c = 0; c < kDim / 64; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][c][e] *= keep;
      }
    }
    store_scores<kTile>(weights, scores);
    __syncthreads();
    load_rows<kDim, kTile>(rows, in.v.at(s.first_key + at, kv_head), in.v.row, count, p.head_dim);
    __syncthreads();
    add_product<kDim, kTile>(sums, weights, rows);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int row = lane_y() + kLanes * i;
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      total[i] += __shfl_xor_sync(0xffffffffU, total[i], offset);
    }
    if (row >= tile.count) continue;
    store_row(sums[i], total[i] == 0 ? 0.0F : 1.0F / total[i], in.y.at(first + row, head), p.head_dim);
    if (in.lse != nullptr && lane_x() == 0) {
      in.lse[head * in.lse_row + first + row] = log_sum_exp(highest[i], total[i], p.scale);
    }
  }
}

template <class T, int kDim, Side kSide>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(const GenericArguments<T> in) {
  constexpr bool kKeysOwn = kSide == Side::keys;
  constexpr int kTile = GenericShape<kDim>::kBackward;
  constexpr int kEach = kTile / kLanes;
  constexpr int kRowTile = kTile * kPitch<kDim>;
  extern __shared__ __align__(16) float generic_memory[];
  const AttentionProblem& p = in.problem;
  const auto block = static_cast<int>(blockIdx.x);
  const int own_heads = kKeysOwn ? p.kv_heads : p.heads;
  const int head = block % own_heads;
  const int slot = kKeysOwn ? block / own_heads : in.slots - 1 - block / own_heads;
  const AttentionTile tile = find_tile(p, kSide, kTile, slot);
  if (tile.count == 0) return;
  const Sequence& s = tile.sequence;
  const int first_own = (kKeysOwn ? s.first_key : s.first_query) + tile.first;
  const int first_partner = kKeysOwn ? s.first_query : s.first_key;
  const int head_begin = kKeysOwn ? head * p.group() : head / p.group();
  const int head_end = head_begin + (kKeysOwn ? p.group() : 1);
  float* const a1 = generic_memory;
  float* const a2 = a1 + kRowTile;
  float* const b1 = a2 + kRowTile;
  float* const b2 = b1 + kRowTile;
  float* const scores = b2 + kRowTile;  // weights, then gradients
  const Heads<const T>& from_a1 = kKeysOwn ? in.k : in.q;
  const Heads<const T>& from_a2 = kKeysOwn ? in.v : in.dy;
  const Heads<const T>& from_b1 = kKeysOwn ? in.q : in.k;
  const Heads<const T>& from_b2 = kKeysOwn ? in.dy : in.v;
  load_rows<kDim, kTile>(a1, from_a1.at(first_own, head), from_a1.row, tile.count, p.head_dim);
  load_rows<kDim, kTile>(a2, from_a2.at(first_own, head), from_a2.row, tile.count, p.head_dim);

  const Meeting meets(p, s, kSide, tile.first, tile.count);
  const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
  float sum1[kEach][kDim / 64][4];
  float sum2[kEach][kKeysOwn ? kDim / 64 : 1][4];
  clear(sum1);
  clear(sum2);
  for (int partner_head = head_begin; partner_head < head_end; ++partner_head) {
    const int query_head = kKeysOwn ? partner_head : head;
    const float* const lse = in.lse + query_head * in.lse_row + s.first_query;
    const float* const delta = in.delta + static_cast<std::int64_t>(query_head) * p.tokens + s.first_query;
    for (int done = 0; done < meets.size(); done += kTile) {
      const int at = meets.begin() + done;
      const int count = ::min(kTile, meets.size() - done);
      __syncthreads();
      load_rows<kDim, kTile>(b1, from_b1.at(first_partner + at, partner_head), from_b1.row, count, p.head_dim);
      load_rows<kDim, kTile>(b2, from_b2.at(first_partner + at, partner_head), from_b2.row, count, p.head_dim);
      __syncthreads();
      float w[kEach][kEach];
      float d[kEach][kEach];
      multiply_rows<kDim, kTile>(w, a1, b1, p.head_dim);
      multiply_rows<kDim, kTile>(d, a2, b2, p.head_dim);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int row = lane_y() + kLanes * i;
        const Range range = row < tile.count ? partners(p, s, kSide, tile.first + row) : Range{0, 0};
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          const int column = lane_x() + kLanes * j;
          float weight = 0.0F;
          if (at + column >= range.begin && at + column < range.end) {
            const int query = kKeysOwn ? at + column : tile.first + row;
            const int key = kKeysOwn ? tile.first + row : at + column;
            if (p.bias != nullptr) w[i][j] += bias_of(p, s, query_head, query, key);
            weight = exp2f(w[i][j] * scale_log2 - lse[query] * std::numbers::log2e_v<float>);
            d[i][j] = weight * (d[i][j] - delta[query]);
          } else {
            d[i][j] = 0.0F;
          }
          w[i][j] = weight;
        }
      }
      if constexpr (kKeysOwn) {
        store_scores<kTile>(scores, w);
        __syncthreads();
        add_product<kDim, kTile>(sum2, scores, b2);
        __syncthreads();
      }
      store_scores<kTile>(scores, d);
      __syncthreads();
      add_product<kDim, kTile>(sum1, scores, b1);
    }
  }
  const Heads<T>& to1 = kKeysOwn ? in.dk : in.dq;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int row = lane_y() + kLanes * i;
    if (row >= tile.count) continue;
    if (to1.data != nullptr) store_row(sum1[i], p.scale, to1.at(first_own + row, head), p.head_dim);
    if constexpr (kKeysOwn) {
      if (in.dv.data != nullptr) store_row(sum2[i], 1.0F, in.dv.at(first_own + row, head), p.head_dim);
    }
  }
}

// kernel over the tiles of one side.
template <class T>
Declined launch_tiles(const Work& work, void (*kernel)(GenericArguments<T>), GenericArguments<T> in, Side side,
                      int rows, std::size_t shared) {
  const AttentionProblem& p = in.problem;
  const std::int64_t slots = tile_slots(p, side, rows);
  const std::int64_t blocks = slots * (side == Side::queries ? p.heads : p.kv_heads);
  if (blocks > INT_MAX) return "more blocks than a grid has";
  if (shared > info().shared_bytes) return "its tiles do not fit this device's shared memory";
  in.slots = static_cast<int>(slots);
  launch(work, kernel, {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads), .shared = shared}, in);
  return nullptr;
}

template <class T, int kDim>
Declined forward(const GenericArguments<T>& in) {
  using Shape = GenericShape<kDim>;
  const AttentionProblem& p = in.problem;
  const double rows = static_cast<double>(p.heads) * p.tokens + static_cast<double>(p.kv_heads) * p.key_tokens;
  return launch_tiles<T>({"attention forward", rows * 2 * p.head_dim * sizeof(T), attention_flops(p, 2)},
                         forward_kernel<T, kDim>, in, Side::queries, Shape::kForward,
                         Shape::template shared<Shape::kForward>(2));
}

template <class T, int kDim>
Declined backward(const GenericArguments<T>& in) {
  using Shape = GenericShape<kDim>;
  const AttentionProblem& p = in.problem;
  constexpr std::size_t kShared = Shape::template shared<Shape::kBackward>(4);
  const double row_bytes = static_cast<double>(p.head_dim) * sizeof(T);
  const double query_bytes = row_bytes * p.heads * p.tokens;
  const double key_bytes = row_bytes * p.kv_heads * p.key_tokens;
  if (in.dk.data != nullptr || in.dv.data != nullptr) {
    const Work work{"attention backward dk dv", 2 * query_bytes + 4 * key_bytes, attention_flops(p, 4)};
    const Declined reason =
        launch_tiles<T>(work, backward_kernel<T, kDim, Side::keys>, in, Side::keys, Shape::kBackward, kShared);
    if (reason != nullptr) return reason;
  }
  if (in.dq.data == nullptr) return nullptr;
  const Work work{"attention backward dq", 3 * query_bytes + 2 * key_bytes, attention_flops(p, 3)};
  return launch_tiles<T>(work, backward_kernel<T, kDim, Side::queries>, in, Side::queries, Shape::kBackward, kShared);
}

}  // namespace

Declined attention_forward_generic(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionLayout& layout,
                                   const Tensor& y, const Tensor& lse) {
  if (q.dtype() != DType::f32) return "a dtype that has kernels of its own";
  const GenericArguments<float> in{.problem = attention_problem(q, k, layout, {}),
                                   .q = by_heads<const float>(q),
                                   .k = by_heads<const float>(k),
                                   .v = by_heads<const float>(v),
                                   .dy = {},
                                   .y = by_heads<float>(y),
                                   .dq = {},
                                   .dk = {},
                                   .dv = {},
                                   .lse = pointer<float>(lse),
                                   .lse_row = lse.defined() ? lse.stride(0) : 0,
                                   .delta = nullptr,
                                   .slots = 0};
  if (q.size(2) <= 64) return forward<float, 64>(in);
  if (q.size(2) <= 128) return forward<float, 128>(in);
  return forward<float, 256>(in);
}

Declined attention_backward_generic(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& y, const Tensor& lse, const AttentionLayout& layout, const Tensor& dq,
                                    const Tensor& dk, const Tensor& dv) {
  return visit_narrow(q.dtype(), [&]<class T>(T) -> Declined {
    GenericArguments<T> in{.problem = attention_problem(q, k, layout, {}),
                           .q = by_heads<const T>(q),
                           .k = by_heads<const T>(k),
                           .v = by_heads<const T>(v),
                           .dy = by_heads<const T>(dy),
                           .y = {},
                           .dq = by_heads<T>(dq),
                           .dk = by_heads<T>(dk),
                           .dv = by_heads<T>(dv),
                           .lse = pointer<float>(lse),
                           .lse_row = lse.stride(0),
                           .delta = nullptr,
                           .slots = 0};
    const Tensor delta = attention_delta(dy, y, in.problem);
    in.delta = pointer<float>(delta);
    if constexpr (std::is_same_v<T, float>) {
      if (q.size(2) <= 64) return backward<T, 64>(in);
      if (q.size(2) <= 128) return backward<T, 128>(in);
    }
    return backward<T, 256>(in);
  });
}

}  // namespace wick::cuda
