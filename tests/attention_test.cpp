// What the op matrix does not say of attention: its arguments, its window and cache in numbers one can check by hand,
// and the same bytes on any number of threads.
#include <gtest/gtest.h>
#include <omp.h>

#include <random>

#include "wick/error.h"
#include "wick/ops.h"

namespace wick {
namespace {

Tensor draw(const Shape& shape, unsigned seed, DType dtype = DType::f32) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> gauss;
  std::vector<float> values(static_cast<std::size_t>(numel(shape)));
  for (float& v : values) v = gauss(generator);
  return Tensor::from(values, shape).to(dtype);
}

Tensor offsets(const std::vector<std::int32_t>& values) {
  return Tensor::from(values, {static_cast<std::int64_t>(values.size())});
}

std::string message(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  try {
    (void)attention(q, k, v, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    return error.what();
  }
  return "no error";
}

TEST(Attention, NamesWhatIsWrongWithItsArguments) {
  const Tensor q = draw({4, 4, 8}, 1);
  const Tensor k = draw({4, 2, 8}, 2);
  EXPECT_EQ(message(draw({4, 32}, 1), k, k, {}), "[attention] q must be [tokens, heads, d], is f32 [4, 32]");
  EXPECT_EQ(message(q, k, draw({5, 2, 8}, 3), {}), "[attention] k has shape [4, 2, 8], v has shape [5, 2, 8]");
  EXPECT_EQ(message(q, k, draw({4, 2, 8}, 3, DType::bf16), {}), "[attention] v is bf16 [4, 2, 8], expected dtype f32");
  EXPECT_EQ(message(draw({4, 4, 6}, 1), k, k, {}), "[attention] the head dimension of q is 6, of k 8");
  EXPECT_EQ(message(draw({4, 3, 8}, 1), k, k, {}), "[attention] 3 query heads are no multiple of 2 key heads");
  EXPECT_EQ(message(q, k, k, {.scale = -1}), "[attention] scale is -1, expected 0 or more");
  EXPECT_EQ(message(q, k, k, {.causal = false, .window = 3}),
            "[attention] window is 3, expected 0, or more where attention is causal");
  EXPECT_EQ(message(q, k, k, {.query_offsets = offsets({0, 3})}),
            "[attention] query_offsets run from 0 to 3, expected 0 to 4");
  EXPECT_EQ(message(q, k, k, {.query_offsets = offsets({0, 3, 2, 4})}),
            "[attention] query_offsets[2] is 2, less than the 3 before it");
  EXPECT_EQ(message(q, k, k, {.query_offsets = offsets({0, 9, 4})}),
            "[attention] query_offsets[1] is 9, expected 0 to 4");
  EXPECT_EQ(message(q, k, k, {.query_offsets = offsets({0, 2, 4}), .key_offsets = offsets({0, 4})}),
            "[attention] query_offsets has 3 elements, key_offsets 2");
  EXPECT_EQ(message(q, k, k, {.bias = draw({2, 5}, 4)}),
            "[attention] bias is f32 [2, 5], expected f32 [4, an odd number]");
  EXPECT_EQ(message(q, k, k, {.bias = draw({4, 6}, 4)}),
            "[attention] bias is f32 [4, 6], expected f32 [4, an odd number]");
  EXPECT_EQ(message(q, k, k, {.bias = draw({4, 5}, 4, DType::bf16)}),
            "[attention] bias is bf16 [4, 5], expected f32 [4, an odd number]");
}

// With q of zeros all visible keys weigh the same: y is the mean of their values, here their positions.
std::vector<float> mean_positions(std::int64_t queries, std::int64_t keys, const AttentionOptions& options) {
  std::vector<float> positions;
  for (std::int64_t j = 0; j < keys; ++j) positions.push_back(static_cast<float>(j));
  const Tensor v = Tensor::from(positions, {keys, 1, 1});
  return attention(Tensor::zeros({queries, 1, 1}, DType::f32), v, v, options).to_vector<float>();
}

TEST(Attention, WindowCountsTheQueryItself) {
  EXPECT_EQ(mean_positions(5, 5, {}), (std::vector<float>{0, 0.5F, 1, 1.5F, 2}));
  EXPECT_EQ(mean_positions(5, 5, {.window = 1}), (std::vector<float>{0, 1, 2, 3, 4}));
  EXPECT_EQ(mean_positions(5, 5, {.window = 3}), (std::vector<float>{0, 0.5F, 1, 2, 3}));
  EXPECT_EQ(mean_positions(3, 3, {.causal = false}), (std::vector<float>{1, 1, 1}));
}

TEST(Attention, QueriesAreTheLastOnesOfTheirKeys) {
  EXPECT_EQ(mean_positions(2, 5, {}), (std::vector<float>{1.5F, 2}));
  EXPECT_EQ(mean_positions(1, 5, {.window = 2}), (std::vector<float>{3.5F}));
  EXPECT_EQ(mean_positions(4, 2, {}), (std::vector<float>{0, 0, 0, 0.5F}));
}

// With a bias of 0 at one distance and far below elsewhere, a query sees the keys at that distance alone.
TEST(Attention, ABiasGoesByTheDistanceOfKeyAndQuery) {
  constexpr float kNo = -1e4F;
  const auto only = [](const std::vector<float>& bias) {
    return Tensor::from(bias, {1, static_cast<std::int64_t>(bias.size())});
  };
  EXPECT_EQ(mean_positions(5, 5, {.causal = false, .bias = only({kNo, kNo, 0})}),
            (std::vector<float>{2.5F, 3, 3.5F, 4, 2}));  // to the last one all keys are equally far below
  EXPECT_EQ(mean_positions(5, 5, {.causal = false, .bias = only({kNo, kNo, kNo, 0, kNo})}),
            (std::vector<float>{1, 2, 3, 4, 2}));
  EXPECT_EQ(mean_positions(2, 5, {.causal = false, .bias = only({kNo, 0, kNo})}), (std::vector<float>{3, 4}));
}

// The kernel for one query against the one for many.
TEST(Attention, DecodingAgreesWithThePrompt) {
  const Tensor q = draw({300, 6, 40}, 1);
  const Tensor k = draw({300, 2, 40}, 2);
  const Tensor v = draw({300, 2, 40}, 3);
  const Tensor whole = attention(q, k, v, {});
  for (const std::int64_t token : {0, 1, 63, 64, 200, 299}) {
    const Tensor one = attention(q.slice(0, token, 1), k.slice(0, 0, token + 1), v.slice(0, 0, token + 1), {});
    const std::vector<float> a = one.to_vector<float>();
    const std::vector<float> b = whole.slice(0, token, 1).to_vector<float>();
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5) << token;
  }
}

TEST(Attention, ManyThreadsGiveTheSameBytes) {
  const AttentionOptions options{.query_offsets = offsets({0, 150, 150, 407})};
  const Tensor q = draw({407, 6, 32}, 1);
  const Tensor k = draw({407, 2, 32}, 2);
  const Tensor v = draw({407, 2, 32}, 3);
  const Tensor dy = draw({407, 6, 32}, 4);
  const auto run = [&](int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Tensor inputs[] = {q.detach(), k.detach(), v.detach()};
    for (Tensor& t : inputs) t.set_slot(std::make_shared<GradSlot>());
    Tape tape;
    std::vector<Tensor> results{attention(inputs[0], inputs[1], inputs[2], options)};
    tape.backward(results[0], dy);
    for (const Tensor& t : inputs) results.push_back(t.slot()->grad);
    results.push_back(attention(q.slice(0, 0, 1), draw({2000, 2, 32}, 5), draw({2000, 2, 32}, 6), {}));
    omp_set_num_threads(before);
    return results;
  };
  const std::vector<Tensor> one = run(1);
  for (const int threads : {2, 3, 5}) {
    const std::vector<Tensor> many = run(threads);
    for (std::size_t i = 0; i < one.size(); ++i) {
      EXPECT_EQ(one[i].to_vector<float>(), many[i].to_vector<float>()) << threads << " threads, result " << i;
    }
  }
}

}  // namespace
}  // namespace wick
