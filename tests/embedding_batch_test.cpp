// An embedding is a function of its text: the same bytes whatever else is in the batch, and on any number of threads,
// on the CPU or the device of WICK_TEST_DEVICE.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cstdlib>
#include <cstring>

#include "embed/embed_batches.h"
#include "io/json.h"
#include "io_test_util.h"
#include "op_matrix.h"
#include "wick/embedding.h"

namespace wick::test {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(WICK_TEST_DATA);

class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

// `count` texts of 1 to `longest` tokens, with short ones among them for each number of rows up to 20.
std::vector<std::vector<TokenId>> make_texts(std::int64_t vocab_size, int count, std::int64_t longest) {
  std::vector<std::vector<TokenId>> texts;
  std::uint32_t state = 1;
  const auto next = [&](std::int64_t limit) {
    state = state * 1664525U + 1013904223U;
    return static_cast<std::int64_t>(state >> 8) % limit;
  };
  for (int i = 0; i < count; ++i) {
    std::vector<TokenId> text(
        static_cast<std::size_t>(std::min<std::int64_t>(i < 20 ? i + 1 : 1 + next(longest), longest)));
    for (TokenId& id : text) id = static_cast<TokenId>(next(vocab_size));
    texts.push_back(text);
  }
  return texts;
}

void expect_same_bytes(const Tensor& found, const Tensor& expected, std::int64_t row, const std::string& how) {
  const std::int64_t n = expected.size(1);
  const auto bytes = static_cast<std::size_t>(n) * sizeof(float);
  EXPECT_EQ(std::memcmp(found.data<float>(), expected.data<float>() + row * n, bytes), 0) << how << ", text " << row;
}

struct Ways {
  int texts, alone;
  std::vector<int> threads;
  std::vector<std::int64_t> batch_tokens;
};

// Enough for every way in which an accelerator might choose its kernels; the CPU, on which it is slow, has one.
Ways wide_ways() {
  if (testing::test_device().type == DeviceType::cpu) return {24, 5, {2}, {150}};
  return {500, 40, {1}, {1, 150, 3000, 1 << 20}};
}

using Embed = std::function<Tensor(std::span<const std::vector<TokenId>>, std::int64_t batch_tokens)>;

void check(const std::vector<std::vector<TokenId>>& texts, const Ways& ways, const std::string& what,
           const Embed& embed) {
  const Tensor expected = embed(texts, 8192);
  for (const int threads : ways.threads) {
    const Threads set(threads);
    const std::string how = fmt::format("{}, {} threads", what, threads);
    for (const std::int64_t batch_tokens : ways.batch_tokens) {
      const Tensor found = embed(texts, batch_tokens);
      for (std::int64_t i = 0; i < ways.texts; ++i) {
        expect_same_bytes(found.slice(0, i, 1), expected, i, fmt::format("{}, {} a batch", how, batch_tokens));
      }
    }
    for (int i = 0; i < ways.alone; ++i) {
      expect_same_bytes(embed({&texts[static_cast<std::size_t>(i)], 1}, 8192), expected, i, how + ", alone");
    }
  }
}

std::shared_ptr<const Adapter> adapter_of(const AdapterWeights& weights, const std::vector<ModuleInfo>& modules) {
  return std::make_shared<const Adapter>(weights, modules, testing::test_device());
}

void check(const fs::path& folder, const Ways& ways, const fs::path& adapter = {}) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EmbeddingModel model = EmbeddingModel::load(folder, {.dtype = dtype, .device = testing::test_device()});
    if (!adapter.empty()) {
      const std::vector<ModuleInfo>& modules = model.linear_modules();
      model.attach(adapter_of(load_adapter(adapter, modules), modules));
    }
    const auto vocab_size = read_json_file(folder / "config.json").at("vocab_size").get<std::int64_t>();
    const auto texts = make_texts(vocab_size, ways.texts, std::min<std::int64_t>(model.max_tokens(), 100));
    check(texts, ways, std::string(to_string(dtype)),
          [&](auto batch, std::int64_t batch_tokens) { return model.embed_tokens(batch, batch_tokens); });
  }
}

// Random weights, alone and with an adapter whose B is not zero, in both layouts.
template <class Model>
void check_random(const std::function<Model(const LoadOptions&)>& make, const Ways& ways, Pooling pooling) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Model model = make({.dtype = dtype, .device = testing::test_device()});
    const auto texts = make_texts(model.config().vocab_size, ways.texts, 200);
    const auto embed = [&](auto batch, std::int64_t batch_tokens) {
      return embed_batches(batch, model.config().hidden_size, batch_tokens, model.device(),
                           [&](const TokenBatch& tokens) {
                             const Tensor hidden = model.forward(tokens);
                             return pool(hidden, tokens.offsets.to(model.device()), pooling);
                           });
    };
    check(texts, ways, std::string(to_string(dtype)), embed);
    LoraConfig config;
    config.rank = 4;  // siblings then begin at 8 bytes
    config.target_modules = "all-linear";
    AdapterWeights weights = init_adapter(config, model.linear_modules(), 3);
    for (auto& [name, factors] : weights.modules) {
      factors.b = Tensor::full(factors.b.shape(), 0.01, factors.b.dtype());
    }
    for (const LoraLayout layout : {LoraLayout::separate, LoraLayout::bordered}) {
      model.attach(adapter_of(weights, model.linear_modules()), layout);
      check(texts, ways, fmt::format("{} with an adapter, layout {}", to_string(dtype), static_cast<int>(layout)),
            embed);
    }
  }
}

TEST(EmbeddingBatchTest, ATinyModelsEmbeddingsDoNotDependOnTheBatch) {
  const TempDir dir;
  const fs::path folder = dir / "model";
  fs::copy(kData / "encoder", folder, fs::copy_options::recursive);
  fs::copy_file(kData / "tokenizer" / "bert.json", folder / "tokenizer.json");
  check(folder, {300, 60, {1, 2, 3, 7}, {1, 150, 8192}});
}

TEST(EmbeddingBatchTest, NorDoThoseOfOtherArchitectures) {
  for (const char* name : {"roberta", "mpnet", "qwen3"}) {
    SCOPED_TRACE(name);
    const fs::path folder = kData / "encoder_families" / name;
    check(folder, {100, 30, {1, 2}, {1, 150}});
    check(folder, {60, 30, {1, 2}, {1, 150}}, folder / "adapter");
  }
}

TEST(EmbeddingBatchTest, NorDoThoseOfWideEncoders) {
  for (const std::int64_t width : {768, 1024}) {
    SCOPED_TRACE(width);
    EncoderConfig config;
    config.vocab_size = 300;
    config.hidden_size = width;
    config.intermediate_size = 4 * width;
    config.num_hidden_layers = 2;
    config.num_attention_heads = width / 64;
    config.max_position_embeddings = 512;
    config.type_vocab_size = 2;
    check_random<Encoder>([&](const LoadOptions& options) { return Encoder::random(config, options, 7); }, wide_ways(),
                          Pooling::mean);
  }
}

TEST(EmbeddingBatchTest, NorDoThoseOfWideDecoders) {
  if (testing::test_device().type == DeviceType::cpu)
    GTEST_SKIP() << "on the CPU only decoders that are loaded to embed";
  ModelConfig config;
  config.architecture = Architecture::qwen3;
  config.vocab_size = 300;
  config.hidden_size = 1024;
  config.intermediate_size = 3072;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 16;
  config.num_key_value_heads = 8;
  config.head_dim = 128;
  config.max_position_embeddings = 1024;
  config.qk_norm = true;
  config.tie_word_embeddings = true;
  config.rope.theta = 10000;
  config.sliding_window.assign(2, 0);
  check_random<Decoder>(
      [&](LoadOptions options) {
        options.head = false;
        return Decoder::random(config, options, 7);
      },
      wide_ways(), Pooling::last);
}

TEST(EmbeddingBatchTest, TheEmbeddingsOfMiniLmDoNotDependOnTheBatch) {
  const char* const named = std::getenv("WICK_MINILM");
  const std::filesystem::path folder = named != nullptr ? named : WICK_MINILM;
  if (named == nullptr && !std::filesystem::exists(folder)) {
    GTEST_SKIP() << "all-MiniLM-L6-v2 is not in " << folder << ": `make minilm` fetches it";
  }
  check(folder, {1000, 40, {1, 2}, {150}});
}

}  // namespace
}  // namespace wick::test
