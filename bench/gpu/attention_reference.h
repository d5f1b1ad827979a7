#pragma once

// Attention in float64 on the host, to hold kernels to.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "wick/tensor.h"

namespace wick::bench {

enum class Layout { dense, fused, odd };  // fused: views of one projection; odd: rows that no vector load can read

struct Case {
  std::string name;
  std::int64_t tokens;
  std::int64_t key_tokens;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t d;
  std::vector<std::int32_t> query_offsets;
  std::vector<std::int32_t> key_offsets;
  bool causal = true;
  std::int64_t window = 0;
  Layout layout = Layout::dense;
  float size = 1;  // of q and k

  std::int64_t longest() const {  // 0 where keys are other than queries
    std::int32_t most = 0;
    for (std::size_t i = 0; i + 1 < query_offsets.size(); ++i) {
      most = std::max(most, query_offsets[i + 1] - query_offsets[i]);
    }
    return query_offsets == key_offsets ? most : 0;
  }
};

struct Inputs {
  Tensor q, k, v, dy;  // on the host, rounded to the dtype

  Inputs(const Case& c, DType dtype);
};

// [tokens, heads, d] in f64.
struct Rows {
  std::vector<double> values;
  std::int64_t heads, d;

  explicit Rows(const Tensor& t) : values(t.to(DType::f64).to_vector<double>()), heads(t.size(1)), d(t.size(2)) {}
  double* at(std::int64_t token, std::int64_t head) { return values.data() + (token * heads + head) * d; }
  Rows zeros() const {
    Rows r = *this;
    r.values.assign(values.size(), 0.0);
    return r;
  }
};

struct Reference {
  Rows y, dq, dk, dv;
  std::vector<double> lse;
};

Reference reference(const Case& c, const Inputs& in, double scale);

}  // namespace wick::bench
