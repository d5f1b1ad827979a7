#pragma once

// How a warp of a decode kernel sums up its keys, online: on tensor cores, or lane by lane.

#include "backend/cuda/mma.cuh"
#include "ops/attention/attention_decode.cuh"

namespace wick::cuda {

/// Of an 8 x 8 matrix, lane i has elements 2 (i % 4) and the next of row i / 4: the same of its transpose.
__device__ inline unsigned transpose(unsigned pair) {
  unsigned result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

__device__ constexpr unsigned word(const uint4& of, int i) {
  return i == 0 ? of.x : i == 1 ? of.y : i == 2 ? of.z : of.w;
}

// Scores [keys, heads] and sums [elements, heads] are products of 16 x 16 by 16 x 8. Which element of a row is which of
// a product's is free as long as both of its operands agree: here a lane's are those of one 16-byte load.
// kAppend: the queries are turned here, and the newest key too, which is put into the cache together with its value.
template <class T_, int kUnits, bool kAppend>
struct ByTensorCores {
  using T = T_;
  static constexpr int kHeads = 8;
  static constexpr int kTiles = kUnits == 1 ? 2 : 1;
  static constexpr int kBlocks = kUnits + (kAppend ? 1 : 0) <= 2 ? 2 : 1;  // on a multiprocessor
  static constexpr int kStep = kDecodeWarps * 16;                          // keys to a warp's next tile
  static __host__ __device__ int tile(const DecodeArguments<T>& /*in*/) { return 16; }
  static __host__ __device__ int width(const DecodeArguments<T>& /*in*/) { return 64 * kUnits; }

  // Turns a lane's elements of a row: what it has of the lower half, it has of the upper one too.
  struct Turn {
    Pack<float> cos[2 * kUnits], sin[2 * kUnits];
    bool inside;  // nobody has looked at the row: one outside gives NaN

    __device__ void load(const DecodeArguments<T>& in, int newest) {
      inside = newest >= 0;
      const std::int64_t first = static_cast<std::int64_t>(::max(newest, 0)) * 32 * kUnits + threadIdx.x % 4 * 8;
#pragma unroll
      for (int i = 0; i < 2 * kUnits; ++i) {
        cos[i] = load_pack(in.added.cos + first + 32 * (i / 2) + 4 * (i % 2));
        sin[i] = load_pack(in.added.sin + first + 32 * (i / 2) + 4 * (i % 2));
      }
    }
    __device__ void operator()(uint4 (&packs)[2 * kUnits]) const {
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        auto& low = reinterpret_cast<Pack<T>&>(packs[i]);
        auto& high = reinterpret_cast<Pack<T>&>(packs[i + kUnits]);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const float c = cos[2 * i + e / 4][e % 4];
          const float s = sin[2 * i + e / 4][e % 4];
          const float x = to_float(low[e]);
          const float y = to_float(high[e]);
          low[e] = from_float<T>(inside ? x * c - y * s : NAN);
          high[e] = from_float<T>(inside ? y * c + x * s : NAN);
        }
      }
    }
  };

  // Lane i has elements 8 (i % 4) and further of every 32 of head i / 4. They are loaded before it is known how many
  // keys there are, or, with kAppend, behind the first keys.
  struct Query {
    uint4 packs[2 * kUnits];
    int newest = -1;  // the row of the cache that the new key gets; -1: it lies outside, or there is none
    Turn turn;

    __device__ Query(const DecodeArguments<T>& in, const DecodeUnit& unit) {
      if constexpr (kAppend) {
        newest = __ldcg(in.problem.key_offsets + in.problem.sequences) - 1;
        if (newest >= in.added.rows) newest = -1;
        turn.load(in, newest);
      } else {
        load_packs(in, unit);
      }
    }
    __device__ void load_packs(const DecodeArguments<T>& in, const DecodeUnit& unit) {
      const int head = static_cast<int>(threadIdx.x) % 32 / 4;
      const int column = static_cast<int>(threadIdx.x) % 4 * 8;
      const T* from = in.q.at(unit.token, unit.first_head + head) + column;
#pragma unroll
      for (int i = 0; i < 2 * kUnits; ++i) {
        packs[i] = load_once(reinterpret_cast<const uint4*>(from + 32 * i),
                             head < unit.head_count && 32 * i + column < in.problem.head_dim);
      }
    }
  };

  static __device__ void sum(const DecodeArguments<T>& in, const DecodeUnit& unit, const DecodeShare& share,
                             Query& query, float* part) {
    const AttentionProblem& p = in.problem;
    const auto lane = static_cast<int>(threadIdx.x) % 32;
    const int row = lane / 4;
    const int column = lane % 4;
    const auto load = [&](const T* from, int element, bool there) {
      return load_once(reinterpret_cast<const uint4*>(from + element), there && element < p.head_dim);
    };
    uint4(&q)[2 * kUnits] = query.packs;
    // Of heads 2 column + h.
    float sums[kUnits][4][4] = {};
    float highest[2] = {-INFINITY, -INFINITY};
    float total[2] = {};
    const float scale_log2 = p.scale * std::numbers::log2e_v<float>;

    const int first = share.first_of(static_cast<int>(threadIdx.x) / 32, 16);
    // Of the keys in the cache. The newest, the last of all, is not there yet with kAppend.
    const int end = kAppend && query.newest >= 0 ? ::min(share.end, query.newest) : share.end;
    int at = first;
    const T* k = in.k.at(at + row, unit.kv_head);
    const T* v = in.v.at(at + 2 * column, unit.kv_head);
    for (; at < share.end; at += kTiles * kStep, k += kTiles * kStep * in.k.row, v += kTiles * kStep * in.v.row) {
      uint4 keys[kTiles][2][2 * kUnits];  // of rows `row` and 8 further down
      uint4 values[kTiles][4][kUnits];    // of rows 2 column, the next, and 8 further down
#pragma unroll
      for (int u = 0; u < kTiles; ++u) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int key = u * kStep + 8 * r;
#pragma unroll
          for (int i = 0; i < 2 * kUnits; ++i) {
            keys[u][r][i] = load(k + key * in.k.row, 32 * i + 8 * column, at + row + key < end);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kTiles; ++u) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int key = u * kStep + r % 2 + 8 * (r / 2);
#pragma unroll
          for (int i = 0; i < kUnits; ++i) {
            values[u][r][i] = load(v + key * in.v.row, 64 * i + 8 * row, at + 2 * column + key < end);
          }
        }
      }
      if constexpr (kAppend) {
        // A few lanes put the new key into its row, and into what they have loaded.
        const Turn& turn = query.turn;
        if (at == first) {
          wait_for_previous();
          query.load_packs(in, unit);
          turn(q);
        }
        const T* const new_key = in.added.k.at(0, unit.kv_head);
        const T* const new_value = in.added.v.at(0, unit.kv_head);
        const bool writes = unit.first_head == unit.kv_head * p.group();  // the first of those with this key head
        const std::int64_t to = (static_cast<std::int64_t>(query.newest) * p.kv_heads + unit.kv_head) * 64 * kUnits;
        const auto put = [&](T* cache, int element, const uint4& pack) {
          store_if(reinterpret_cast<uint4*>(cache + to + element), pack, writes);
        };
#pragma unroll
        for (int u = 0; u < kTiles; ++u) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            if (at + row + u * kStep + 8 * r != query.newest) continue;
#pragma unroll
            for (int i = 0; i < 2 * kUnits; ++i) keys[u][r][i] = load(new_key, 32 * i + 8 * column, true);
            turn(keys[u][r]);
#pragma unroll
            for (int i = 0; i < 2 * kUnits; ++i) put(in.added.keys, 32 * i + 8 * column, keys[u][r][i]);
          }
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            if (at + 2 * column + u * kStep + r % 2 + 8 * (r / 2) != query.newest) continue;
#pragma unroll
            for (int i = 0; i < kUnits; ++i) {
              values[u][r][i] = load(new_value, 64 * i + 8 * row, true);
              put(in.added.values, 64 * i + 8 * row, values[u][r][i]);
            }
          }
        }
        __syncwarp();
      }
      float scores[kTiles][4] = {};  // [2 r + h]
#pragma unroll
      for (int u = 0; u < kTiles; ++u) {
#pragma unroll
        for (int i = 0; i < 2 * kUnits; ++i) {
          const uint4& upper = keys[u][0][i];
          const uint4& lower = keys[u][1][i];
          multiply_add<T>(scores[u], {upper.x, lower.x, upper.y, lower.y}, q[i].x, q[i].y);
          multiply_add<T>(scores[u], {upper.z, lower.z, upper.w, lower.w}, q[i].z, q[i].w);
        }
      }
      float base[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = highest[h];
#pragma unroll
        for (int u = 0; u < kTiles; ++u) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float& score = scores[u][2 * r + h];
            score = at + row + u * kStep + 8 * r < share.end ? score * scale_log2 : -INFINITY;
            top = fmaxf(top, score);
          }
        }
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffU, top, offset));
        base[h] = top == -INFINITY ? 0.0F : top;
        const float keep = fast_exp2(highest[h] - base[h]);
        highest[h] = top;
        total[h] *= keep;
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sums[i][j][h] *= keep;
            sums[i][j][2 + h] *= keep;
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kTiles; ++u) {
        unsigned weights[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float first = fast_exp2(scores[u][2 * r] - base[0]);
          const float second = fast_exp2(scores[u][2 * r + 1] - base[1]);
          total[0] += first;
          total[1] += second;
          weights[r] = transpose(pack_pair<T>(first, second));
        }
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            // Two elements of each of four rows become two rows of four.
            const auto of_row = [&](int r) { return word(values[u][r][i], j); };
            multiply_add<T>(sums[i][j],
                            {__byte_perm(of_row(0), of_row(1), 0x5410), __byte_perm(of_row(0), of_row(1), 0x7632),
                             __byte_perm(of_row(2), of_row(3), 0x5410), __byte_perm(of_row(2), of_row(3), 0x7632)},
                            weights[0], weights[1]);
          }
        }
      }
    }

    const PartShape shape = {kHeads * 16 * kUnits, kHeads};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) total[h] += __shfl_xor_sync(0xffffffffU, total[h], offset);
      const int head = 2 * column + h;
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        float* const to = part + (head * kUnits + i) * 64 + 8 * row;
        store_pack(to, Pack<float>{sums[i][0][h], sums[i][0][2 + h], sums[i][1][h], sums[i][1][2 + h]});
        store_pack(to + 4, Pack<float>{sums[i][2][h], sums[i][2][2 + h], sums[i][3][h], sums[i][3][2 + h]});
      }
      if (row == 0) {
        part[shape.highest(head)] = highest[h];
        part[shape.total(head)] = total[h];
      }
    }
  }
};

inline constexpr int kEach = 8;  // elements of a row that a lane holds

// A lane's elements of a row as they lie in memory; zeros beyond `count`.
template <class T>
struct Elements {
  static constexpr int kSize = Pack<T>::kSize;
  Pack<T> packs[kEach / kSize];

  __device__ Elements(const T* from, int count, bool vectors) {
    if (vectors && count >= kEach) {
#pragma unroll
      for (int i = 0; i < kEach / kSize; ++i) packs[i] = load_pack(from + i * kSize);
    } else {
#pragma unroll
      for (int e = 0; e < kEach; ++e) packs[e / kSize][e % kSize] = e < count ? from[e] : from_float<T>(0.0F);
    }
  }
  __device__ float operator[](int e) const { return to_float(packs[e / kSize][e % kSize]); }
};

// For float32 and for rows that lie anyhow: some lanes share a key, each with eight elements of it.
template <class T_, int kHeads_>
struct ByLanes {
  using T = T_;
  static constexpr int kHeads = kHeads_;
  static constexpr int kTiles = 4;
  static constexpr int kBlocks = 1;
  static __host__ __device__ int tile(const DecodeArguments<T>& in) { return 32 / in.lanes; }
  static __host__ __device__ int width(const DecodeArguments<T>& in) { return in.lanes * kEach; }

  struct Query {
    __device__ Query(const DecodeArguments<T>& /*in*/, const DecodeUnit& /*unit*/) {}
  };

  static __device__ void sum(const DecodeArguments<T>& in, const DecodeUnit& unit, const DecodeShare& share,
                             const Query& /*query*/, float* part) {
    const AttentionProblem& p = in.problem;
    const auto lane = static_cast<int>(threadIdx.x) % 32;
    const int first = lane % in.lanes * kEach;
    const int elements = p.head_dim - first;  // that are this lane's
    const float scale_log2 = p.scale * std::numbers::log2e_v<float>;
    float q[kHeads][kEach];
    float sums[kHeads][kEach];
    float highest[kHeads];
    float total[kHeads];
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      const bool there = g < unit.head_count && elements > 0;
      const Elements<T> of_head(in.q.at(unit.token, unit.first_head) + (there ? g * in.q.head + first : 0),
                                there ? elements : 0, p.vectors);
#pragma unroll
      for (int e = 0; e < kEach; ++e) {
        q[g][e] = of_head[e] * scale_log2;
        sums[g][e] = 0.0F;
      }
      highest[g] = -INFINITY;
      total[g] = 0.0F;
    }

    const int stride = kDecodeWarps * tile(in);
    for (int at = share.first_of(static_cast<int>(threadIdx.x) / 32, tile(in)); at < share.end; at += stride * kTiles) {
      const auto row_of = [&](int u) { return at + u * stride + lane / in.lanes; };
      const auto load = [&](const Heads<const T>& from, int u) {
        const bool there = row_of(u) < share.end && elements > 0;
        return Elements<T>(from.at(there ? row_of(u) : share.begin, unit.kv_head) + (there ? first : 0),
                           there ? elements : 0, p.vectors);
      };
      const Elements<T> keys[kTiles] = {load(in.k, 0), load(in.k, 1), load(in.k, 2), load(in.k, 3)};
      const Elements<T> values[kTiles] = {load(in.v, 0), load(in.v, 1), load(in.v, 2), load(in.v, 3)};
      float scores[kTiles][kHeads];
#pragma unroll
      for (int u = 0; u < kTiles; ++u) {
#pragma unroll
        for (int g = 0; g < kHeads; ++g) {
          scores[u][g] = 0.0F;
#pragma unroll
          for (int e = 0; e < kEach; ++e) scores[u][g] = fmaf(q[g][e], keys[u][e], scores[u][g]);
        }
      }
#pragma unroll 1
      for (int offset = in.lanes / 2; offset > 0; offset /= 2) {
#pragma unroll
        for (int u = 0; u < kTiles; ++u) {
#pragma unroll
          for (int g = 0; g < kHeads; ++g) scores[u][g] += __shfl_xor_sync(0xffffffffU, scores[u][g], offset);
        }
      }
      // One maximum for all keys of a warp, so that its lanes' sums need no factors in the end.
#pragma unroll
      for (int g = 0; g < kHeads; ++g) {
        float top = highest[g];
#pragma unroll
        for (int u = 0; u < kTiles; ++u) {
          if (row_of(u) >= share.end) scores[u][g] = -INFINITY;
          top = fmaxf(top, scores[u][g]);
        }
        for (int offset = in.lanes; offset < 32; offset *= 2) {
          top = fmaxf(top, __shfl_xor_sync(0xffffffffU, top, offset));
        }
        const float base = top == -INFINITY ? 0.0F : top;
        const float keep = fast_exp2(highest[g] - base);
        highest[g] = top;
        total[g] *= keep;
#pragma unroll
        for (int e = 0; e < kEach; ++e) sums[g][e] *= keep;
#pragma unroll
        for (int u = 0; u < kTiles; ++u) {
          const float weight = fast_exp2(scores[u][g] - base);
          total[g] += weight;
#pragma unroll
          for (int e = 0; e < kEach; ++e) sums[g][e] = fmaf(weight, values[u][e], sums[g][e]);
        }
      }
    }

    const PartShape shape = {kHeads * width(in) / 4, kHeads};
#pragma unroll
    for (int g = 0; g < kHeads; ++g) {
      for (int offset = in.lanes; offset < 32; offset *= 2) {
        total[g] += __shfl_xor_sync(0xffffffffU, total[g], offset);
#pragma unroll
        for (int e = 0; e < kEach; ++e) sums[g][e] += __shfl_xor_sync(0xffffffffU, sums[g][e], offset);
      }
      if (lane < in.lanes) {
#pragma unroll
        for (int e = 0; e < kEach; ++e) part[g * width(in) + first + e] = sums[g][e];
      }
      if (lane == 0) {
        part[shape.highest(g)] = highest[g];
        part[shape.total(g)] = total[g];
      }
    }
  }
};

}  // namespace wick::cuda
