// An embedding is a function of its text: the same bytes whatever else is in the batch, and on any number of threads.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cstdlib>
#include <cstring>

#include "io/json.h"
#include "io_test_util.h"
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

void check(const fs::path& folder, const Ways& ways, const fs::path& adapter = {}) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EmbeddingModel model = EmbeddingModel::load(folder, {.dtype = dtype});
    if (!adapter.empty()) {
      const std::vector<ModuleInfo>& modules = model.linear_modules();
      model.attach(std::make_shared<const Adapter>(load_adapter(adapter, modules), modules));
    }
    const auto vocab_size = read_json_file(folder / "config.json").at("vocab_size").get<std::int64_t>();
    const auto texts = make_texts(vocab_size, ways.texts, std::min<std::int64_t>(model.max_tokens(), 100));
    const Tensor expected = model.embed_tokens(texts);
    for (const int threads : ways.threads) {
      const Threads set(threads);
      const std::string how = fmt::format("{}, {} threads", to_string(dtype), threads);
      for (const std::int64_t batch_tokens : ways.batch_tokens) {
        const Tensor found = model.embed_tokens(texts, batch_tokens);
        for (std::int64_t i = 0; i < ways.texts; ++i) {
          expect_same_bytes(found.slice(0, i, 1), expected, i, fmt::format("{}, {} a batch", how, batch_tokens));
        }
      }
      for (int i = 0; i < ways.alone; ++i) {
        expect_same_bytes(model.embed_tokens({&texts[static_cast<std::size_t>(i)], 1}), expected, i, how + ", alone");
      }
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

TEST(EmbeddingBatchTest, TheEmbeddingsOfMiniLmDoNotDependOnTheBatch) {
  const char* folder = std::getenv("WICK_MINILM");
  if (folder == nullptr) GTEST_SKIP() << "WICK_MINILM does not name the folder of all-MiniLM-L6-v2";
  check(folder, {1000, 40, {1, 2}, {150}});
}

}  // namespace
}  // namespace wick::test
