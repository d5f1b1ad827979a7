// What is made again in backward is the same to the byte: losses and gradients with every way of recomputing, on the
// CPU or the device of WICK_TEST_DEVICE.
#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "expect_error.h"
#include "op_matrix.h"
#include "wick/adapter.h"
#include "wick/data.h"
#include "wick/model.h"
#include "wick/ops.h"

namespace wick::testing {
namespace {

namespace fs = std::filesystem;

struct Result {
  std::vector<float> loss;
  std::vector<float> gradients;
};

bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Way {
  const char* model;
  bool fused;
  LoraLayout layout;
  DType dtype;
  double dropout;
};
void PrintTo(const Way& way, std::ostream* out) {
  *out << way.model << (way.fused ? " fused " : " composite ") << to_string(way.dtype)
       << (way.layout == LoraLayout::bordered ? " bordered" : " separate") << " dropout " << way.dropout;
}

class RecomputeTest : public ::testing::TestWithParam<Way> {
 protected:
  FusedScope fused_{GetParam().fused};
  fs::path folder_ = fs::path(WICK_TEST_DATA) / "golden" / GetParam().model;
  Decoder model_ =
      Decoder::load(std::string_view(GetParam().model) == "tales" ? fs::path(WICK_MODELS) / "tales" : folder_ / "model",
                    {.dtype = GetParam().dtype, .device = test_device()});
  std::shared_ptr<const Adapter> adapter_ = attach();
  Dataset data_ =
      Dataset::from_file(folder_ / "rows.jsonl", {.vocab_size = model_.config().vocab_size, .eos_token_ids = {}});
  Batch batch_ = BatchStream(data_, {.batch_size = 4, .shuffle = false}).next();

  std::shared_ptr<const Adapter> attach() {
    const std::vector<ModuleInfo>& modules = model_.linear_modules();
    auto adapter = std::make_shared<const Adapter>(load_adapter(folder_ / "all-r4-rs" / "adapter-start", modules),
                                                   modules, test_device());
    model_.attach(adapter, GetParam().layout);
    return adapter;
  }

  Result gradients(const std::vector<Recompute>& each) {
    model_.set_recompute(each);
    adapter_->zero_grad();
    model_.set_dropout(GetParam().dropout, 5, 3);
    Tape tape;
    const Tensor loss =
        linear_cross_entropy(model_.forward(batch_.tokens), model_.head(), batch_.labels.to(test_device()));
    tape.backward(loss);
    adapter_->require_gradients();
    return {loss.to_vector<float>(), adapter_->gradients().to_vector<float>()};
  }
};

TEST_P(RecomputeTest, SameBytes) {
  const std::size_t layers = model_.recompute().size();
  const Result kept = gradients(std::vector<Recompute>(layers, Recompute::nothing));
  const auto expect_same = [&](const std::vector<Recompute>& each) {
    const Result again = gradients(each);
    EXPECT_TRUE(same_bytes(again.loss, kept.loss));
    EXPECT_TRUE(same_bytes(again.gradients, kept.gradients));
  };
  for (const Recompute level : {Recompute::activations, Recompute::gate_up, Recompute::layer}) {
    SCOPED_TRACE(to_string(level));
    expect_same(std::vector<Recompute>(layers, level));
    for (const std::size_t one : {std::size_t{0}, layers - 1}) {  // next to layers that keep everything
      std::vector<Recompute> each(layers, Recompute::nothing);
      each[one] = level;
      expect_same(each);
    }
  }
}

TEST_P(RecomputeTest, RefusesAnotherNumberOfLayers) {
  const std::vector<Recompute> none;
  test::expect_refused("recomputation for 0 layers, the model has", [&] { model_.set_recompute(none); });
}

constexpr auto kSeparate = LoraLayout::separate;
constexpr auto kBordered = LoraLayout::bordered;
INSTANTIATE_TEST_SUITE_P(Models, RecomputeTest,
                         ::testing::Values(Way{"tales", true, kSeparate, DType::f32, 0},
                                           Way{"tales", true, kBordered, DType::bf16, 0},
                                           Way{"llama-gqa", true, kSeparate, DType::f32, 0},
                                           Way{"llama-gqa", true, kBordered, DType::f32, 0},
                                           Way{"llama-gqa", true, kBordered, DType::bf16, 0},
                                           Way{"llama-gqa", false, kSeparate, DType::f32, 0},
                                           Way{"llama-gqa", true, kSeparate, DType::f32, 0.25},
                                           Way{"qwen3-qknorm", true, kSeparate, DType::bf16, 0},
                                           Way{"qwen3-qknorm", true, kBordered, DType::f32, 0},
                                           Way{"qwen2-untied", true, kBordered, DType::f32, 0.25},
                                           Way{"qwen2-untied", false, kBordered, DType::f32, 0}));

}  // namespace
}  // namespace wick::testing
