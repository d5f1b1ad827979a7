#include "ops/samples.h"

namespace wick {
namespace {

struct AttentionCase {
  std::string name;
  std::int64_t tokens;
  std::int64_t key_tokens;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t head_dim;
  AttentionOptions options = {};
  bool bench = false;
};

Tensor offsets(const std::vector<std::int32_t>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

OpSample sample(const AttentionCase& c) {
  const Shape queries{c.tokens, c.heads, c.head_dim};
  const Shape keys{c.key_tokens, c.kv_heads, c.head_dim};
  // Where every query sees one key its weight is 1 whatever q and k are: their gradients are all rounding.
  const bool one_key = c.options.window == 1 || c.key_tokens == 1;
  return {.name = c.name,
          .inputs = {one_key ? frozen(queries) : normal(queries), one_key ? frozen(keys) : normal(keys), normal(keys)},
          .run =
              [options = c.options](std::span<const Tensor> in) {
                AttentionOptions there = options;
                for (Tensor* offsets : {&there.query_offsets, &there.key_offsets}) {
                  if (offsets->defined()) *offsets = offsets->to(in[0].device());
                }
                return std::vector{attention(in[0], in[1], in[2], there)};
              },
          .bench = c.bench};
}

// With a bias for distances to `reach`, sequences longer than that among them.
OpSample biased(const AttentionCase& c, std::int64_t reach) {
  OpSample made = sample(c);
  made.name = "bias, " + c.name;
  made.inputs.push_back(table({c.heads, 2 * reach + 1}));
  made.run = [options = c.options](std::span<const Tensor> in) {
    AttentionOptions there = options;
    there.bias = in[3];
    if (there.query_offsets.defined()) there.query_offsets = there.query_offsets.to(in[0].device());
    if (there.key_offsets.defined()) there.key_offsets = there.key_offsets.to(in[0].device());
    return std::vector{attention(in[0], in[1], in[2], there)};
  };
  return made;
}

// q, k and v as they leave a fused projection: [tokens, (heads + 2 kv_heads) * d], split and seen by heads.
OpSample fused_projection(const std::string& name, std::int64_t tokens, std::int64_t heads, std::int64_t kv_heads,
                          std::int64_t d) {
  return {
      .name = name, .inputs = {normal({tokens, (heads + 2 * kv_heads) * d})}, .run = [=](std::span<const Tensor> in) {
        const std::int64_t sizes[] = {heads * d, kv_heads * d, kv_heads * d};
        const std::vector<Tensor> qkv = split(in[0], -1, sizes);
        return std::vector{attention(reshape(qkv[0], {tokens, heads, d}), reshape(qkv[1], {tokens, kv_heads, d}),
                                     reshape(qkv[2], {tokens, kv_heads, d}), {})};
      }};
}

struct AppendCase {
  std::int64_t tokens, heads, kv_heads, d, capacity;
  std::int32_t end;
  std::int64_t window = 0;
  bool bench = false;
};

OpSample append_sample(const AppendCase& c) {
  const auto heads = [&](std::int64_t count) { return normal({c.tokens, count, c.d}); };
  const Shape cache = {c.capacity, c.kv_heads, c.d};
  const SampleInput angles = table({c.capacity + 2, c.d / 2});
  return {.name = "append " + to_string(Shape{c.tokens, c.heads, c.kv_heads, c.d}) + " to " + std::to_string(c.end) +
                  (c.window > 0 ? ", window" : ""),
          .inputs = {heads(c.heads), heads(c.kv_heads), heads(c.kv_heads), angles, angles, fixed({0, c.end}),
                     normal(cache), normal(cache)},
          .run =
              [=](std::span<const Tensor> in) {
                const Tensor keys = in[6].clone();
                const Tensor values = in[7].clone();
                // The host looks at the offsets: they end where the keys do.
                const std::int64_t rows = in[0].device().type == DeviceType::cpu ? c.end : c.capacity;
                const Tensor y =
                    attention_append(in[0], in[1], in[2], in[3], in[4], keys.slice(0, 0, rows),
                                     values.slice(0, 0, rows), {.window = c.window, .key_offsets = in[5].contiguous()});
                return std::vector{y, keys, values};
              },
          .gradients = false,
          .bench = c.bench};
}

AttentionOptions even_sequences(std::int32_t tokens, std::int32_t length) {
  std::vector<std::int32_t> at;
  for (std::int32_t begin = 0; begin <= tokens; begin += length) at.push_back(begin);
  return {.causal = false, .query_offsets = offsets(at), .longest = length};
}

}  // namespace

std::vector<OpSample> attention_samples() {
  const Tensor packed = offsets({0, 5, 5, 6, 21});
  const Tensor short_packed = offsets({0, 1, 1, 16, 32, 65});
  const Tensor training = offsets({0, 1, 1, 62, 63, 133});
  const Tensor short_training = offsets({0, 1, 1, 31, 32, 67});
  std::vector<AttentionCase> cases = {
      {"no tokens", 0, 0, 2, 1, 8},
      {"no keys", 3, 0, 2, 2, 8, {.causal = false}},
      {"one token", 1, 1, 2, 2, 8},
      {"causal", 9, 9, 2, 2, 8},
      {"bidirectional", 11, 11, 2, 1, 8, {.causal = false}},
      {"scale", 7, 7, 1, 1, 8, {.scale = 0.7}},
      {"grouped 4/2", 13, 13, 4, 2, 8},
      {"grouped 8/1", 10, 10, 8, 1, 8},
      {"odd head 7", 12, 12, 2, 1, 7},
      {"head 32", 18, 18, 2, 1, 32},
      {"head 64", 17, 17, 2, 1, 64},
      {"head 80", 20, 20, 1, 1, 80},
      {"head 128", 6, 6, 1, 1, 128},
      {"head 256", 5, 5, 2, 1, 256},
      {"head 1", 5, 5, 1, 1, 1},
      {"window", 30, 30, 2, 1, 8, {.window = 7}},
      {"window 1", 5, 5, 1, 1, 8, {.window = 1}},
      {"window of a cache", 4, 25, 2, 1, 8, {.window = 6}},
      {"cache", 3, 19, 4, 2, 8},
      {"decode", 1, 37, 4, 2, 16},
      {"decode odd", 1, 41, 3, 1, 7},
      {"decode window", 1, 41, 2, 1, 8, {.window = 9}},
      {"decode bidirectional", 1, 20, 2, 1, 8, {.causal = false}},
      {"more queries than keys", 9, 4, 2, 1, 8},
      {"packed", 21, 21, 4, 2, 8, {.query_offsets = packed}},
      {"packed bidirectional", 21, 21, 2, 2, 16, {.causal = false, .query_offsets = packed}},
      {"short bidirectional", 40, 40, 3, 3, 32, {.causal = false, .longest = 40}},
      {"short packed 32", 65, 65, 3, 3, 32, {.causal = false, .query_offsets = short_packed, .longest = 33}},
      {"short packed 64 grouped", 65, 65, 4, 2, 64, {.causal = false, .query_offsets = short_packed, .longest = 50}},
      {"short packed 24", 65, 65, 2, 1, 24, {.causal = false, .query_offsets = short_packed, .longest = 65}},
      {"packed window", 21, 21, 2, 1, 8, {.window = 4, .query_offsets = packed}},
      // What models have: causal, grouped, in packs whose longest sequence the host knows.
      {"packs 64 grouped", 133, 133, 2, 1, 64, {.query_offsets = training, .longest = 70}},
      {"packs 64 window", 133, 133, 1, 1, 64, {.window = 20, .query_offsets = training, .longest = 70}},
      {"packs 96", 67, 67, 1, 1, 96, {.query_offsets = short_training, .longest = 35}},
      {"packs 128 grouped", 67, 67, 2, 1, 128, {.query_offsets = short_training, .longest = 35}},
      {"packs 128 window", 67, 67, 1, 1, 128, {.window = 12, .query_offsets = short_training, .longest = 35}},
      {"window 64 grouped", 70, 70, 2, 1, 64, {.window = 40}},
      {"even packs 64 grouped", 64, 64, 4, 2, 64, {.query_offsets = offsets({0, 32, 64}), .longest = 32}},
      {"packed cache",
       6,
       30,
       2,
       1,
       8,
       {.query_offsets = offsets({0, 1, 1, 4, 6}), .key_offsets = offsets({0, 9, 12, 12, 30})}},
      {"packed decode",
       3,
       30,
       4,
       1,
       24,
       {.query_offsets = offsets({0, 1, 2, 2, 3}), .key_offsets = offsets({0, 9, 9, 12, 30})}},
      {"decode 1200", 1, 1200, 3, 1, 2},
      {"borders 70", 70, 70, 2, 1, 8},
      {"borders 130", 130, 130, 1, 1, 3},
      {"borders 70 bidirectional", 70, 70, 1, 1, 5, {.causal = false}},
      {"borders 150 window", 150, 150, 1, 1, 4, {.window = 40}},
      {"borders 67 of 140", 67, 140, 1, 1, 4},
      {"borders packed", 140, 140, 1, 1, 4, {.query_offsets = offsets({0, 65, 129, 140})}},
      {"borders 140 grouped", 140, 140, 2, 1, 8},
      {"[4 x 512, 8/4, 32]", 2048, 2048, 8, 4, 32, {.query_offsets = offsets({0, 512, 1024, 1536, 2048})}, true},
      {"[2048, 8/4, 32]", 2048, 2048, 8, 4, 32, {}, true},
      {"[4 x 512, 14/2, 64]", 2048, 2048, 14, 2, 64, {.query_offsets = offsets({0, 512, 1024, 1536, 2048})}, true},
      {"[2048, 14/2, 64]", 2048, 2048, 14, 2, 64, {}, true},
      {"[64 x 32, 12/12, 32] bidirectional", 2048, 2048, 12, 12, 32, even_sequences(2048, 32), true},
      {"decode [4096, 14/2, 64]", 1, 4096, 14, 2, 64, {}, true},
  };
  std::vector<OpSample> samples;
  for (const AttentionCase& c : cases) samples.push_back(sample(c));
  const AppendCase appends[] = {
      {1, 2, 1, 64, 1, 1},         {1, 14, 2, 64, 9, 6},   {1, 20, 2, 64, 70, 34},  // two blocks to a key head
      {1, 4, 2, 64, 150, 129, 17}, {1, 4, 4, 128, 40, 40}, {1, 6, 1, 128, 333, 300},
      {1, 2, 1, 64, 2600, 2500},  // several clusters
      {1, 4, 2, 16, 9, 3},         {3, 4, 2, 64, 20, 11},  {1, 14, 2, 64, 4096, 128, 0, true}};
  for (const AppendCase& c : appends) samples.push_back(append_sample(c));
  const std::vector<std::pair<AttentionCase, std::int64_t>> with_bias = {
      {{"bidirectional", 11, 11, 2, 2, 8, {.causal = false}}, 12},
      {{"of one column", 5, 5, 2, 1, 8, {.causal = false}}, 0},
      {{"beyond its reach", 150, 150, 2, 1, 5, {.causal = false}}, 30},
      {{"packed", 140, 140, 4, 2, 16, {.causal = false, .query_offsets = offsets({0, 65, 65, 66, 140})}}, 40},
      {{"causal", 80, 80, 2, 1, 8}, 7},
      {{"window", 70, 70, 1, 1, 8, {.window = 9}}, 5},
      {{"cache", 3, 90, 4, 2, 8}, 60},
      {{"one query", 1, 20, 2, 1, 8, {.causal = false}}, 6},
      {{"more queries than keys", 9, 4, 2, 1, 8, {.causal = false}}, 5},
      {{"head 96", 20, 20, 1, 1, 96, {.causal = false}}, 8},
      {{"head 256", 5, 5, 2, 1, 256, {.causal = false}}, 3},
      {{"[4 x 512, 12, 64]",
        2048,
        2048,
        12,
        12,
        64,
        {.causal = false, .query_offsets = offsets({0, 512, 1024, 1536, 2048}), .longest = 512},
        true},
       128},
  };
  for (const auto& [c, reach] : with_bias) samples.push_back(biased(c, reach));
  samples.push_back(fused_projection("fused qkv", 19, 4, 2, 8));
  samples.push_back(fused_projection("fused qkv odd", 6, 3, 1, 5));
  samples.push_back(
      {.name = "frozen keys",
       .inputs = {normal({6, 2, 8}), frozen({6, 1, 8}), frozen({6, 1, 8})},
       .run = [](std::span<const Tensor> in) { return std::vector{attention(in[0], in[1], in[2], {})}; }});
  samples.push_back(
      {.name = "frozen queries",
       .inputs = {frozen({6, 2, 8}), normal({6, 1, 8}), normal({6, 1, 8})},
       .run = [](std::span<const Tensor> in) { return std::vector{attention(in[0], in[1], in[2], {})}; }});
  samples.push_back(
      {.name = "large scores",
       .inputs = {normal({12, 2, 8}, 6.0), normal({12, 1, 8}, 6.0), normal({12, 1, 8})},
       .run = [](std::span<const Tensor> in) { return std::vector{attention(in[0], in[1], in[2], {})}; }});
  return samples;
}

}  // namespace wick
