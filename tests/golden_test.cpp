// The reference answers in tests/data/golden (made with transformers and PEFT, see its README), with fused kernels and with
// composites, in float32 on the CPU.
#include <gtest/gtest.h>

#include <cmath>

#include "core/fail.h"
#include "io/json.h"
#include "op_matrix.h"
#include "wick/adapter.h"
#include "wick/model.h"
#include "wick/ops.h"
#include "wick/safetensors.h"

namespace wick::testing {
namespace {

namespace fs = std::filesystem;

struct Golden {
  std::string name;
  bool fused;
};
void PrintTo(const Golden& g, std::ostream* out) { *out << g.name << (g.fused ? " fused" : " composite"); }

fs::path folder(const std::string& name) { return fs::path(WICK_TEST_DATA) / "golden" / name; }
fs::path model_folder(const std::string& name) { return name == "tales" ? fs::path(WICK_MODELS) / "tales" : folder(name) / "model"; }

double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  const std::vector<float> x = a.to_vector<float>();
  const std::vector<float> y = b.to_vector<float>();
  double difference = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i])));
  }
  return difference;
}

std::vector<std::int32_t> ids_of(const SafetensorsFile& file, int n) {
  const std::vector<std::int64_t> wide = load_tensor(*file.find(fmt::format("ids.{}", n))).to_vector<std::int64_t>();
  return {wide.begin(), wide.end()};
}

// Logits of every prompt in a file against the file's.
void expect_logits(const Decoder& model, const SafetensorsFile& prompts, const SafetensorsFile& expected) {
  int count = 0;
  for (; expected.find(fmt::format("logits.{}", count)) != nullptr; ++count) {
    const std::vector<std::int32_t> ids = ids_of(prompts, count);
    const Tensor found = model.logits(model.forward(TokenBatch::single(ids)));
    EXPECT_LE(largest_difference(found, load_tensor(*expected.find(fmt::format("logits.{}", count)))), 2e-4) << "prompt " << count;
  }
  EXPECT_GT(count, 0);
}

class GoldenTest : public ::testing::TestWithParam<Golden> {
 protected:
  FusedScope fused_{GetParam().fused};
  fs::path folder_ = folder(GetParam().name);
  Decoder model_ = Decoder::load(model_folder(GetParam().name));
};

TEST_P(GoldenTest, Logits) {
  const SafetensorsFile file = SafetensorsFile::open(folder_ / "logits.safetensors");
  expect_logits(model_, file, file);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         ::testing::Values(Golden{"tales", true}, Golden{"tales", false}, Golden{"llama-gqa", true},
                                           Golden{"llama-gqa", false}, Golden{"qwen3-qknorm", true},
                                           Golden{"qwen3-qknorm", false}, Golden{"qwen2-untied", true},
                                           Golden{"qwen2-untied", false}),
                         [](const auto& info) {
                           std::string name = info.param.name + (info.param.fused ? "_fused" : "_composite");
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace wick::testing
