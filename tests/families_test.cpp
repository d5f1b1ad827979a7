// Small random models of every family and of the options that change what they compute, against transformers and PEFT
// (tests/data/models/make_models.py), with fused kernels and with composites, on the CPU or the device of
// WICK_TEST_DEVICE.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "core/fail.h"
#include "expect_error.h"
#include "io/json.h"
#include "io_test_util.h"
#include "op_matrix.h"
#include "wick/adapter.h"
#include "wick/data.h"
#include "wick/fuse.h"
#include "wick/generate.h"
#include "wick/model.h"
#include "wick/ops.h"
#include "wick/safetensors.h"

namespace wick::testing {
namespace {

namespace fs = std::filesystem;

struct Case {
  const char* name;
  bool fused;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name << (c.fused ? " fused" : " composite"); }

fs::path folder(const std::string& name) { return fs::path(WICK_TEST_DATA) / "models" / name; }

double largest(const std::vector<float>& values) {
  double result = 0;
  for (const float v : values) result = std::max(result, std::abs(static_cast<double>(v)));
  return result;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  const std::vector<float> x = a.to(DType::f32).to_vector<float>();
  const std::vector<float> y = b.to(DType::f32).to_vector<float>();
  double difference = 0;
  for (std::size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    if (!std::isfinite(x[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i])));
  }
  return difference;
}

std::vector<std::vector<std::int32_t>> prompts(const SafetensorsFile& file) {
  std::vector<std::vector<std::int32_t>> result;
  while (const SafetensorsEntry* entry = file.find(fmt::format("ids.{}", result.size()))) {
    const std::vector<std::int64_t> wide = load_tensor(*entry).to_vector<std::int64_t>();
    result.emplace_back(wide.begin(), wide.end());
  }
  EXPECT_EQ(result.size(), 3U);
  return result;
}

Tensor logits_of(const Decoder& model, const std::vector<std::int32_t>& ids) {
  return model.logits(model.forward(TokenBatch::single(ids)));
}

std::int32_t best_of_last_row(const Tensor& logits) {
  const std::vector<float> row = logits.select(0, logits.size(0) - 1).to_vector<float>();
  return static_cast<std::int32_t>(std::ranges::max_element(row) - row.begin());
}

class Families : public ::testing::TestWithParam<Case> {
 protected:
  FusedScope fused_{GetParam().fused};
  fs::path folder_ = folder(GetParam().name);
  Decoder model_ = Decoder::load(folder_ / "model", {.device = test_device()});
  SafetensorsFile answers_ = SafetensorsFile::open(folder_ / "logits.safetensors");

  Tensor answer(std::size_t n) const { return load_tensor(*answers_.find(fmt::format("logits.{}", n))); }
};

TEST_P(Families, Logits) {
  const auto ids = prompts(answers_);
  for (std::size_t n = 0; n < ids.size(); ++n) {
    EXPECT_LE(largest_difference(logits_of(model_, ids[n]), answer(n)), 2e-4) << "prompt " << n;
  }
}

// The largest difference, relative to the largest logit. make_models.py holds PyTorch's own bf16 to 3.5e-2.
TEST_P(Families, LogitsInBf16AreNear) {
  const Decoder model = Decoder::load(folder_ / "model", {.dtype = DType::bf16, .device = test_device()});
  const auto ids = prompts(answers_);
  for (std::size_t n = 0; n < ids.size(); ++n) {
    EXPECT_LE(relative_error(logits_of(model, ids[n]), answer(n)), 4e-2) << "prompt " << n;
  }
}

TEST_P(Families, CachedDecodingIsUncachedDecoding) {
  const std::vector<std::int32_t> prompt = {17, 40, 9, 77, 101};
  GenerateOptions options;
  options.max_tokens = 24;  // well past the windows of 8
  options.ignore_eos = true;
  const std::vector<std::int32_t> found = generate(model_, nullptr, prompt, options).ids;
  std::vector<std::int32_t> sequence = prompt;
  for (int i = 0; i < 24; ++i) sequence.push_back(best_of_last_row(logits_of(model_, sequence)));
  EXPECT_EQ(found, std::vector(sequence.begin() + 5, sequence.end()));
}

// A prompt that comes in pieces of several tokens, each of which sees the cache through the window.
TEST_P(Families, CachedPrefillInPieces) {
  const std::vector<std::int32_t> ids = prompts(answers_)[0];
  KvCache cache(model_.config(), 40, DType::f32, test_device());
  std::size_t begin = 0;
  for (const std::size_t size : {11U, 1U, 20U, 8U}) {
    const std::span<const std::int32_t> piece = std::span(ids).subspan(begin, size);
    const Tensor found =
        model_.logits(model_.forward(TokenBatch::single(piece, static_cast<std::int64_t>(begin)), &cache));
    const auto rows = answer(0).slice(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(size));
    EXPECT_LE(largest_difference(found, rows), 2e-4) << "from " << begin;
    begin += size;
  }
  EXPECT_EQ(begin, ids.size());
}

TEST_P(Families, PackedSequencesDoNotSeeEachOther) {
  const auto ids = prompts(answers_);
  const Tensor together = model_.forward(TokenBatch::packed(ids));
  std::int64_t begin = 0;
  for (const auto& sequence : ids) {
    const auto size = static_cast<std::int64_t>(sequence.size());
    EXPECT_LE(largest_difference(together.slice(0, begin, size), model_.forward(TokenBatch::single(sequence))), 1e-5);
    begin += size;
  }
  EXPECT_EQ(begin, together.size(0));
}

std::vector<Case> both(std::initializer_list<const char*> names) {
  std::vector<Case> cases;
  for (const char* name : names) {
    cases.push_back({name, true});
    cases.push_back({name, false});
  }
  return cases;
}

std::string test_name(const Case& c) {
  std::string name = std::string(c.name) + (c.fused ? "_fused" : "_composite");
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, Families,
                         ::testing::ValuesIn(both({"mistral-window", "mistral-full", "qwen2-layer-types",
                                                   "qwen2-max-window-layers", "qwen3-bias", "llama-bias",
                                                   "llama-linear", "llama-llama3", "llama-bf16", "qwen2-f16",
                                                   "qwen2-tied-sharded"})),
                         [](const auto& info) { return test_name(info.param); });

// The same rows end to end and padded: the loss and every gradient of PEFT, in both layouts.
class FamilyGradients : public ::testing::TestWithParam<std::tuple<Case, LoraLayout>> {
 protected:
  FusedScope fused_{std::get<0>(GetParam()).fused};
  fs::path folder_ = folder(std::get<0>(GetParam()).name);
  Decoder model_ = Decoder::load(folder_ / "model", {.device = test_device()});
};

TEST_P(FamilyGradients, ArePeftsPackedAndPadded) {
  const Dataset data = Dataset::from_file(folder_ / "rows.jsonl", {.vocab_size = model_.config().vocab_size});
  const SafetensorsFile expected = SafetensorsFile::open(folder_ / "lora" / "grads.safetensors");
  const Json loss_file = read_json_file(folder_ / "lora" / "loss.json");
  const std::vector<ModuleInfo>& modules = model_.linear_modules();
  for (const bool pack : {true, false}) {
    SCOPED_TRACE(pack ? "packed" : "padded");
    const auto adapter =
        std::make_shared<const Adapter>(load_adapter(folder_ / "lora" / "adapter", modules), modules, test_device());
    model_.attach(adapter, std::get<1>(GetParam()));
    const Batch batch = BatchStream(data, {.batch_size = 4, .pack = pack, .shuffle = false}).next();
    ASSERT_EQ(batch.trained_tokens, loss_file["trained_tokens"].get<std::int64_t>());
    const auto trained = static_cast<double>(batch.trained_tokens);
    Tape tape;
    const Tensor loss =
        linear_cross_entropy(model_.forward(batch.tokens), model_.head(), batch.labels.to(test_device()));
    const double expected_loss = loss_file["loss"].get<double>();
    EXPECT_LE(std::abs(static_cast<double>(loss.to_vector<float>()[0]) / trained - expected_loss) / expected_loss,
              1e-5);
    tape.backward(loss, Tensor::full({}, 1.0 / trained, DType::f32, test_device()));
    adapter->require_gradients();
    std::size_t compared = 0;
    for (const Adapter::Entry& entry : adapter->entries()) {
      for (const Parameter* parameter : {&entry.a, &entry.b}) {
        const SafetensorsEntry* found = expected.find("base_model.model." + parameter->name());
        if (found == nullptr) found = expected.find(parameter->name());
        ASSERT_NE(found, nullptr) << parameter->name();
        const Tensor reference = load_tensor(*found);
        EXPECT_LE(largest_difference(parameter->grad(), reference) / largest(reference.to_vector<float>()), 1e-3)
            << parameter->name();
        ++compared;
      }
    }
    EXPECT_EQ(compared, expected.entries().size());
  }
}

INSTANTIATE_TEST_SUITE_P(Models, FamilyGradients,
                         ::testing::Combine(::testing::ValuesIn(both({"mistral-window", "llama-bias"})),
                                            ::testing::Values(LoraLayout::separate, LoraLayout::bordered)),
                         [](const auto& info) {
                           return test_name(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) == LoraLayout::bordered ? "_bordered" : "_separate");
                         });

// A fused folder is the model with its adapter.
TEST(Fuse, GivesTheAdaptersLogits) {
  const fs::path data = fs::path(WICK_TEST_DATA);
  struct Pair {
    fs::path model, adapter, prompts;
  };
  std::vector<Pair> pairs;
  for (const char* name : {"llama-gqa", "qwen2-untied", "qwen3-qknorm"}) {
    for (const char* run : {"qv-r8", "all-r4-rs"}) {
      const fs::path golden = data / "golden" / name;
      pairs.push_back({golden / "model", golden / run / "adapter-end", golden / "logits.safetensors"});
    }
  }
  for (const char* name : {"mistral-window", "llama-bias"}) {
    pairs.push_back({folder(name) / "model", folder(name) / "lora" / "adapter", folder(name) / "logits.safetensors"});
  }
  const test::TempDir temporary;
  const fs::path out = temporary / "fused";
  for (const Pair& pair : pairs) {
    SCOPED_TRACE(pair.adapter.string());
    fs::remove_all(out);
    const FuseReport report = fuse(pair.model, pair.adapter, out);
    Decoder model = Decoder::load(pair.model);
    const auto adapter =
        std::make_shared<const Adapter>(load_adapter(pair.adapter, model.linear_modules()), model.linear_modules());
    EXPECT_EQ(report.modules, static_cast<std::int64_t>(adapter->entries().size()));
    const Decoder merged = Decoder::load(out);
    const std::vector<std::int32_t> ids = prompts(SafetensorsFile::open(pair.prompts))[0];
    const Tensor base = logits_of(model, ids);
    model.attach(adapter);
    const Tensor adapted = logits_of(model, ids);
    EXPECT_GT(largest_difference(adapted, base), 1e-3) << "the adapter changes nothing";
    EXPECT_LE(largest_difference(logits_of(merged, ids), adapted), 2e-4);
  }
}

TEST(Attach, RefusesAnAdapterMadeForOtherShapes) {
  Decoder model = Decoder::load(folder("mistral-window") / "model");
  const Decoder other = Decoder::load(fs::path(WICK_TEST_DATA) / "golden" / "llama-gqa" / "model");
  const fs::path adapter = fs::path(WICK_TEST_DATA) / "golden" / "llama-gqa" / "qv-r8" / "adapter-start";
  const auto wrong =
      std::make_shared<const Adapter>(load_adapter(adapter, other.linear_modules()), other.linear_modules());
  const std::vector<std::int32_t> ids = {5, 6, 7};
  const Tensor before = logits_of(model, ids);
  test::expect_refused("model.layers.0.self_attn.q_proj", [&] { model.attach(wrong); });
  EXPECT_EQ(largest_difference(logits_of(model, ids), before), 0);
}

// The bordered layout computes h = x Aᵀ into the spare columns of x, and the same y as beside it.
TEST(BorderedLinear, WritesBesideItsInput) {
  const FusedScope fused(true);
  constexpr std::int64_t kTokens = 5, kIn = 24, kOut = 12, kRank = 3;
  auto drawn = [state = 1U](const Shape& shape) mutable {
    const Tensor t = Tensor::empty(shape, DType::f32);
    for (std::int64_t i = 0; i < t.numel(); ++i) {
      state = state * 1664525U + 1013904223U;
      t.data<float>()[i] = static_cast<float>(state >> 8) / 16777216.0F - 0.5F;
    }
    return t;
  };
  const Tensor weight = drawn({kOut, kIn});
  const std::vector<LoraBranch> branches = {
      {.out_features = kOut, .a = drawn({kRank, kIn}), .b = drawn({kOut, kRank}), .scale = 2}};
  const Tensor values = drawn({kTokens, kIn});
  const LoraWeight bordered(weight, branches, LoraLayout::bordered);
  ASSERT_EQ(bordered.rank(), 16);
  const Tensor x = Tensor::bordered({kTokens, kIn}, bordered.rank(), DType::f32);
  x.copy_from(values);
  x.border_columns().copy_from(Tensor::full({kTokens, 16}, 777.0, DType::f32));

  const Tensor y = lora_linear(x, bordered, {}, branches);
  const Tensor h = matmul(values, transpose(branches[0].a, 0, 1));
  EXPECT_LE(largest_difference(x.border_columns().slice(1, 0, kRank).contiguous(), h), 1e-5);
  EXPECT_EQ(largest(x.border_columns().slice(1, kRank, 16 - kRank).contiguous().to_vector<float>()),
            0);  // padding of the rank
  EXPECT_EQ(largest_difference(x.contiguous(), values), 0);
  const LoraWeight separate(weight, branches, LoraLayout::separate);
  EXPECT_LE(largest_difference(y, lora_linear(values, separate, {}, branches)), 1e-5);

  // A second reader of the same x finds the border taken: it does not overwrite what the first keeps for its backward.
  const std::vector<LoraBranch> others = {
      {.out_features = kOut, .a = drawn({kRank, kIn}), .b = drawn({kOut, kRank}), .scale = 1}};
  (void)lora_linear(x, LoraWeight(weight, others, LoraLayout::bordered), {}, others);
  EXPECT_LE(largest_difference(x.border_columns().slice(1, 0, kRank).contiguous(), h), 1e-5);
}

}  // namespace
}  // namespace wick::testing
