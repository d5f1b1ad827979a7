// Decoding behind a cache: against the forward pass without one, on the CPU or the device of WICK_TEST_DEVICE, where a
// step is recorded and replayed. What transformers makes of these models golden_test and generate_test know.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string_view>

#include "backend/backend.h"
#include "core/fail.h"
#include "expect_error.h"
#include "generate/sampling.h"
#include "op_matrix.h"
#include "wick/adapter.h"
#include "wick/generate.h"
#include "wick/model.h"

namespace wick::testing {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

fs::path golden(const std::string& name) { return fs::path(WICK_TEST_DATA) / "golden" / name; }
Decoder load(const std::string& name, DType dtype = DType::f32) {
  const fs::path folder = name == "tales" ? fs::path(WICK_MODELS) / "tales" : golden(name) / "model";
  return Decoder::load(folder, {.dtype = dtype, .device = test_device()});
}
KvCache cache_for(const Decoder& model, std::int64_t capacity) {
  return {model.config(), capacity, model.dtype(), model.device()};
}
Ids some_ids(std::size_t count) {
  Ids ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<std::int32_t>(i * 37 + 11) % 500;
  return ids;
}
// Logits of the next tokens of a sequence, in its cache or from its beginning.
Tensor logits_of(const Decoder& model, std::span<const std::int32_t> ids, KvCache* cache = nullptr) {
  return model.logits(model.forward(TokenBatch::single(ids, cache == nullptr ? 0 : cache->length()), cache));
}

struct Case {
  const char* model;
  DType dtype;
  bool fused;
};
class Decoding : public ::testing::TestWithParam<Case> {
 protected:
  FusedScope fused_{GetParam().fused};
  Decoder model_ = load(GetParam().model, GetParam().dtype);
  double tolerance_ = GetParam().dtype == DType::f32 ? 2e-5 : 4e-2;

  void expect_cached_is_uncached() {
    const Ids ids = some_ids(30);
    const Tensor expected = logits_of(model_, ids);
    KvCache cache = cache_for(model_, 40);
    std::size_t begin = 0;
    for (const std::size_t size : {9U, 1U, 1U, 5U, 1U, 8U, 2U, 1U, 1U, 1U}) {
      const Tensor found = logits_of(model_, std::span(ids).subspan(begin, size), &cache);
      const Tensor rows = expected.slice(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(size));
      EXPECT_LE(relative_error(found, rows), tolerance_) << size << " tokens from " << begin;
      begin += size;
      EXPECT_EQ(cache.length(), static_cast<std::int64_t>(begin));
    }
  }
};

TEST_P(Decoding, BehindACacheIsWithoutOne) { expect_cached_is_uncached(); }

TEST_P(Decoding, SoItIsWithAnAdapter) {
  const std::vector<ModuleInfo>& modules = model_.linear_modules();
  for (const char* run : {"qv-r8", "all-r4-rs"}) {
    const fs::path folder = golden(GetParam().model) / run / "adapter-end";
    const auto adapter = std::make_shared<const Adapter>(load_adapter(folder, modules), modules, test_device());
    for (const LoraLayout layout : {LoraLayout::separate, LoraLayout::bordered}) {
      SCOPED_TRACE(fmt::format("{} {}", run, layout == LoraLayout::separate ? "separate" : "bordered"));
      model_.attach(adapter, layout);
      expect_cached_is_uncached();
    }
  }
}

TEST_P(Decoding, NextLogitsAreThoseOfTheForwardPass) {
  const Ids ids = some_ids(22);
  KvCache one = cache_for(model_, 22);
  KvCache other = cache_for(model_, 22);
  for (const std::size_t size : {9U, 1U, 8U, 3U, 1U}) {
    const auto part = std::span(ids).subspan(static_cast<std::size_t>(one.length()), size);
    const Tensor found = model_.next_logits(TokenBatch::single(part, one.length()), one);
    EXPECT_LE(relative_error(found, logits_of(model_, part, &other)), tolerance_) << size << " tokens";
    EXPECT_EQ(one.length(), other.length());
  }
}

TEST_P(Decoding, ACutCacheGoesOnAsIfTheRestHadNeverBeenRead) {
  const Ids ids = some_ids(14);
  KvCache cache = cache_for(model_, 20);
  logits_of(model_, std::span(ids).first(10), &cache);
  const std::vector<float> first = logits_of(model_, std::span(ids).subspan(10, 1), &cache).to_vector<float>();
  logits_of(model_, std::span(ids).subspan(11, 3), &cache);
  cache.truncate(10);
  EXPECT_EQ(cache.length(), 10);
  EXPECT_EQ(logits_of(model_, std::span(ids).subspan(10, 1), &cache).to_vector<float>(), first);
  cache.truncate(0);
  const Tensor again = logits_of(model_, ids, &cache);
  EXPECT_LE(relative_error(again, logits_of(model_, ids)), tolerance_);
}

// The tokens that the host chooses from logits without a cache.
Ids chosen_on_the_host(const Decoder& model, const Ids& prompt, const GenerateOptions& options) {
  Sampler sampler(options.sampling, options.seed, model.config().vocab_size, prompt);
  Ids all = prompt;
  for (std::int64_t i = 0; i < options.max_tokens; ++i) {
    const Tensor logits = logits_of(model, all);
    std::vector<float> last = logits.slice(0, logits.size(0) - 1, 1).to_vector<float>();
    all.push_back(sampler.next(last));
  }
  return {all.begin() + std::ssize(prompt), all.end()};
}

TEST_P(Decoding, ChoosesTheTokensThatTheHostWouldChoose) {
  if (GetParam().dtype != DType::f32) GTEST_SKIP() << "rounding decides between tokens";
  const SamplingOptions samplings[] = {
      {}, {.repetition_penalty = 1.3}, {.temperature = 0.9, .top_k = 50, .top_p = 0.95, .repetition_penalty = 1.1}};
  for (const SamplingOptions& sampling : samplings) {
    for (const Ids& prompt : {Ids{7}, some_ids(21)}) {
      const GenerateOptions options{.max_tokens = 16, .sampling = sampling, .seed = 5, .ignore_eos = true};
      EXPECT_EQ(generate(model_, nullptr, prompt, options).ids, chosen_on_the_host(model_, prompt, options));
    }
  }
}

TEST_P(Decoding, IsTheSameEveryTime) {
  const GenerateOptions options{.max_tokens = 24, .sampling = {.temperature = 1}, .seed = 3, .ignore_eos = true};
  const Ids prompt = some_ids(12);
  const Ids first = generate(model_, nullptr, prompt, options).ids;
  ASSERT_EQ(first.size(), 24U);
  EXPECT_EQ(generate(model_, nullptr, prompt, options).ids, first);
  // Ended early, with a step under way that nobody will look at.
  int calls = 0;
  const GenerateResult cut =
      generate(model_, nullptr, prompt, options, [&](std::string_view, std::int32_t) { return ++calls < 7; });
  EXPECT_EQ(cut.ids, Ids(first.begin(), first.begin() + 7));
  EXPECT_EQ(cut.finish_reason, FinishReason::interrupted);
  EXPECT_EQ(generate(model_, nullptr, prompt, options).ids, first);
  GenerateOptions shorter = options;
  for (const std::int64_t tokens : {1, 2, 3}) {
    shorter.max_tokens = tokens;
    EXPECT_EQ(generate(model_, nullptr, prompt, shorter).ids, Ids(first.begin(), first.begin() + tokens));
  }
}

TEST_P(Decoding, ARecordedPassAppendsWithEachReplay) {
  if (test_device().type == DeviceType::cpu) GTEST_SKIP() << "recordings are made on devices";
  if (!GetParam().fused) GTEST_SKIP() << "the composite of attention waits for the device";
  const NoGrad no_grad;
  Backend& device = backend(test_device());
  const Ids ids = some_ids(20);
  KvCache expected = cache_for(model_, 20);
  KvCache cache = cache_for(model_, 20);
  const TokenBatch token = TokenBatch::single(Ids{0}).to(test_device());
  const auto put = [&](std::int32_t id) { token.ids.copy_from(Tensor::from(Ids{id}, {1})); };
  logits_of(model_, std::span(ids).first(10), &expected);
  logits_of(model_, std::span(ids).first(10), &cache);
  put(ids[10]);
  model_.forward(token, &cache);
  logits_of(model_, std::span(ids).subspan(10, 1), &expected);
  const Tensor logits = Tensor::empty({1, model_.config().vocab_size}, DType::f32, test_device());
  const auto recording =
      device.record(test_device(), [&] { logits.copy_from(model_.logits(model_.forward(token, &cache))); });
  cache.truncate(11);
  const auto replay = [&](std::size_t i) {
    put(ids[i]);
    recording->replay();
    cache.replayed(1);
    return logits.to_vector<float>();
  };
  std::vector<std::vector<float>> found;
  for (std::size_t i = 11; i < 20; ++i) {
    found.push_back(logits_of(model_, std::span(ids).subspan(i, 1), &expected).to_vector<float>());
    EXPECT_EQ(replay(i), found.back()) << "token " << i;
  }
  test::expect_refused("the cache holds 20 of 20 tokens, 1 more do not fit", [&] { cache.replayed(1); });
  cache.truncate(15);
  EXPECT_EQ(replay(15), found[4]);
  EXPECT_EQ(cache.length(), 16);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* model : {"tales", "llama-gqa", "qwen3-qknorm", "qwen2-untied"}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      all.push_back({model, dtype, true});
      if (std::string_view(model) != "tales") all.push_back({model, dtype, false});  // it is large for composites
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Models, Decoding, ::testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  std::string name = fmt::format("{}_{}_{}", c.model, to_string(c.dtype), c.fused ? "fused" : "composite");
  for (char& letter : name) letter = letter == '-' ? '_' : letter;
  return name;
});

TEST(KvCache, RefusesWhatDoesNotContinueIt) {
  const Decoder model = load("llama-gqa");
  KvCache cache = cache_for(model, 4);
  const auto read = [&](const Ids& ids, std::int64_t position) {
    model.forward(TokenBatch::single(ids, position), &cache);
  };
  read({1, 2}, 0);
  test::expect_refused("token 0 of a batch that continues a cache of 2 has position 3, expected 2",
                       [&] { read({3}, 3); });
  test::expect_refused("the cache holds 2 of 4 tokens, 3 more do not fit", [&] { read({3, 4, 5}, 2); });
  test::expect_refused("a cache of 2 tokens cut to 3", [&] { cache.truncate(3); });
  const std::vector<Ids> two = {{1}, {2}};
  test::expect_refused("a cache holds one sequence, the batch 2",
                       [&] { model.forward(TokenBatch::packed(two), &cache); });
  EXPECT_EQ(cache.length(), 2);
  read({3, 4}, 2);
  EXPECT_EQ(cache.length(), 4);
}

TEST(KvCache, IsRightAfterAPassThatFailed) {
  if (test_device().type != DeviceType::cpu) GTEST_SKIP() << "ids on a device are not looked at";
  const Decoder model = load("llama-gqa");
  KvCache cache = cache_for(model, 8);
  const Ids ids = some_ids(6);
  logits_of(model, std::span(ids).first(3), &cache);
  EXPECT_THROW(logits_of(model, Ids{1, 1 << 30}, &cache), Error);
  EXPECT_EQ(cache.length(), 3);
  const Tensor found = logits_of(model, std::span(ids).subspan(3, 3), &cache);
  EXPECT_LE(relative_error(found, logits_of(model, ids).slice(0, 3, 3)), 2e-5);
}

TEST(Generate, SaysThatTheModelHasDiverged) {
  const Decoder model = Decoder::random(load("llama-gqa").config(), {.device = test_device()});
  const GenerateOptions options{.max_tokens = 5, .ignore_eos = true};
  EXPECT_EQ(generate(model, nullptr, Ids{1, 2, 3}, options).ids.size(), 5U);
  model.module_weight("lm_head").fill(std::numeric_limits<double>::quiet_NaN());
  test::expect_error(ErrorCode::diverged, "NaN", [&] { generate(model, nullptr, Ids{1, 2, 3}, options); });
}

}  // namespace
}  // namespace wick::testing
