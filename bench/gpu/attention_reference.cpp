#include "gpu/attention_reference.h"

#include <cmath>
#include <limits>
#include <random>

namespace wick::bench {

Inputs::Inputs(const Case& c, DType dtype) {
  std::mt19937 generator(7);
  const auto draw = [&](std::int64_t tokens, std::int64_t heads, float size) {
    std::normal_distribution<float> gauss(0.0F, size);
    std::vector<float> values(static_cast<std::size_t>(tokens * heads * c.d));
    for (float& value : values) value = gauss(generator);
    return Tensor::from(values, {tokens, heads, c.d}).to(dtype);
  };
  q = draw(c.tokens, c.heads, c.size);
  k = draw(c.key_tokens, c.kv_heads, c.size);
  v = draw(c.key_tokens, c.kv_heads, 1);
  dy = draw(c.tokens, c.heads, 1);
}

Reference reference(const Case& c, const Inputs& in, double scale) {
  Rows q(in.q), k(in.k), v(in.v), dy(in.dy);
  Reference r{q.zeros(), q.zeros(), k.zeros(), k.zeros(), {}};
  r.lse.assign(static_cast<std::size_t>(c.heads * c.tokens), -std::numeric_limits<double>::infinity());
  const auto dot = [&](const double* a, const double* b) {
    double sum = 0;
    for (std::int64_t i = 0; i < c.d; ++i) sum += a[i] * b[i];
    return sum;
  };
  const auto add = [&](double* to, double factor, const double* from) {
    for (std::int64_t i = 0; i < c.d; ++i) to[i] += factor * from[i];
  };
  const auto one_query = [&](std::int64_t head, std::int64_t token, std::int64_t begin, std::int64_t end) {
    const std::int64_t kv_head = head / (c.heads / c.kv_heads);
    std::vector<double> weights;
    for (std::int64_t key = begin; key < end; ++key) {
      weights.push_back(scale * dot(q.at(token, head), k.at(key, kv_head)));
    }
    const double highest = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) total += weight = std::exp(weight - highest);
    r.lse[static_cast<std::size_t>(head * c.tokens + token)] = highest + std::log(total);
    double* y = r.y.at(token, head);
    for (std::int64_t key = begin; key < end; ++key) {
      add(y, weights[static_cast<std::size_t>(key - begin)] /= total, v.at(key, kv_head));
    }
    const double delta = dot(y, dy.at(token, head));
    for (std::int64_t key = begin; key < end; ++key) {
      const double weight = weights[static_cast<std::size_t>(key - begin)];
      const double slope = scale * weight * (dot(dy.at(token, head), v.at(key, kv_head)) - delta);
      add(r.dq.at(token, head), slope, k.at(key, kv_head));
      add(r.dk.at(key, kv_head), slope, q.at(token, head));
      add(r.dv.at(key, kv_head), weight, dy.at(token, head));
    }
  };
  for (std::size_t s = 0; s + 1 < c.query_offsets.size(); ++s) {
    const std::int64_t queries = c.query_offsets[s + 1] - c.query_offsets[s];
    const std::int64_t keys = c.key_offsets[s + 1] - c.key_offsets[s];
    for (std::int64_t i = 0; i < queries; ++i) {
      const std::int64_t position = i + keys - queries;
      const std::int64_t begin = c.window > 0 ? std::max<std::int64_t>(0, position - c.window + 1) : 0;
      const std::int64_t end = c.causal ? std::min(keys, position + 1) : keys;
      if (end <= begin) continue;
      const std::int64_t first = c.key_offsets[s];
      for (std::int64_t h = 0; h < c.heads; ++h) one_query(h, c.query_offsets[s] + i, first + begin, first + end);
    }
  }
  return r;
}

}  // namespace wick::bench
