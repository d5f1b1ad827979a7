#include "wick/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "generate/sampling.h"
#include "generate/stop_strings.h"
#include "io/json.h"
#include "io_test_util.h"
#include "op_matrix.h"

namespace wick {
namespace {

using test::expect_error;
using testing::test_device;
using Ids = std::vector<std::int32_t>;

std::string golden(const std::string& name) { return std::string(WICK_TEST_DATA) + "/golden/" + name; }
std::string model_folder(const std::string& name) {
  return name == "tales" ? std::string(WICK_MODELS) + "/tales" : golden(name) + "/model";
}
// On the CPU, or the device of WICK_TEST_DEVICE.
Decoder load(const std::filesystem::path& folder) { return Decoder::load(folder, {.device = test_device()}); }
const Decoder& tales() {
  static const Decoder model = load(model_folder("tales"));
  return model;
}
const Tokenizer& tales_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::from_file(model_folder("tales") + "/tokenizer.json");
  return tokenizer;
}

class Golden : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::Values("tales", "llama-gqa", "qwen3-qknorm", "qwen2-untied"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(Golden, GreedyTokensAreTransformersTokens) {
  const Decoder model = load(model_folder(GetParam()));
  const std::string path = golden(GetParam()) + "/greedy.json";
  const Json cases = read_json_file(path);
  ASSERT_FALSE(cases.empty());
  for (const Json& c : cases) {
    const auto expected = get<Ids>(c, "continuation", path);
    const GenerateResult result =
        generate(model, nullptr, get<Ids>(c, "prompt", path), {.max_tokens = std::ssize(expected), .ignore_eos = true});
    EXPECT_EQ(result.ids, expected);
    EXPECT_EQ(result.finish_reason, FinishReason::length);
    EXPECT_EQ(result.prompt_tokens, std::ssize(c.at("prompt")));
    EXPECT_TRUE(result.text.empty());
  }
}

TEST_P(Golden, TheCacheChangesNoToken) {
  const Decoder model = load(model_folder(GetParam()));
  Ids ids = {5, 6, 7};
  const GenerateResult result = generate(model, nullptr, ids, {.max_tokens = 12, .ignore_eos = true});
  for (const std::int32_t id : result.ids) {
    const Tensor hidden = model.forward(TokenBatch::single(ids));
    const Tensor logits = model.logits(hidden.slice(0, hidden.size(0) - 1, 1));
    ASSERT_EQ(id, argmax(logits.to_vector<float>()));
    ids.push_back(id);
  }
}

TEST_P(Golden, PrefillInChunksGivesTheSameLogits) {
  const Decoder model = load(model_folder(GetParam()));
  Ids ids;
  for (std::int32_t i = 0; i < 50; ++i) ids.push_back((i * 37 + 11) % 500);
  const auto whole = model.logits(model.forward(TokenBatch::single(ids)));
  for (const std::size_t chunk : {1U, 7U, 49U, 50U}) {
    KvCache cache(model.config(), 50, model.dtype(), model.device());
    for (std::size_t at = 0; at < ids.size(); at += chunk) {
      const std::size_t count = std::min(chunk, ids.size() - at);
      const auto part =
          model.logits(model.forward(TokenBatch::single(std::span(ids).subspan(at, count), cache.length()), &cache));
      const auto expected =
          whole.slice(0, static_cast<std::int64_t>(at), static_cast<std::int64_t>(count)).to_vector<float>();
      const auto got = part.to_vector<float>();
      for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-4) << "chunk " << chunk;
    }
  }
  const GenerateOptions options = {.max_tokens = 5, .ignore_eos = true};
  GenerateOptions chunked = options;
  chunked.prefill_chunk = 7;
  EXPECT_EQ(generate(model, nullptr, ids, options).ids, generate(model, nullptr, ids, chunked).ids);
}

TEST(Generate, TheSeedDecides) {
  const Ids prompt = {3449, 629, 258, 537};
  GenerateOptions options = {.max_tokens = 30, .sampling = {.temperature = 1, .top_p = 0.95}, .seed = 3};
  options.ignore_eos = true;
  const Ids first = generate(tales(), nullptr, prompt, options).ids;
  EXPECT_EQ(generate(tales(), nullptr, prompt, options).ids, first);
  options.seed = 4;
  EXPECT_NE(generate(tales(), nullptr, prompt, options).ids, first);
}

TEST(Generate, StopTokensEndAndStayInIdsButNotInText) {
  // The model's own greedy tokens serve: one of them is declared a stop token.
  const Ids prompt = {3449, 629, 258, 537};
  const GenerateResult all = generate(tales(), &tales_tokenizer(), prompt, {.max_tokens = 12, .ignore_eos = true});
  ASSERT_EQ(all.ids.size(), 12U);
  const std::int32_t stop = all.ids[6];
  const auto first = static_cast<std::size_t>(std::find(all.ids.begin(), all.ids.end(), stop) - all.ids.begin());
  const GenerateResult cut =
      generate(tales(), &tales_tokenizer(), prompt, {.max_tokens = 12, .ignore_eos = true, .stop_tokens = {stop}});
  EXPECT_EQ(cut.finish_reason, FinishReason::stop_token);
  EXPECT_EQ(cut.ids, Ids(all.ids.begin(), all.ids.begin() + static_cast<std::ptrdiff_t>(first) + 1));
  EXPECT_EQ(cut.text, tales_tokenizer().decode(std::span(all.ids).first(first), true));
}

TEST(Generate, EosIsTheModelsUnlessIgnored) {
  // The model again, with its third greedy token declared its eos.
  const test::TempDir folder;
  const std::filesystem::path source = model_folder("llama-gqa");
  std::filesystem::copy_file(source / "config.json", folder / "config.json");
  std::filesystem::create_symlink(std::filesystem::absolute(source / "model.safetensors"),
                                  folder / "model.safetensors");
  test::write_file(folder / "generation_config.json", R"({"eos_token_id": [3, 484]})");
  const Decoder model = load(folder.path());
  const GenerateResult result = generate(model, nullptr, Ids{29}, {.max_tokens = 10});
  EXPECT_EQ(result.ids, (Ids{241, 289, 484}));
  EXPECT_EQ(result.finish_reason, FinishReason::eos);
  EXPECT_EQ(generate(model, nullptr, Ids{29}, {.max_tokens = 10, .ignore_eos = true}).ids.size(), 10U);
}

TEST(Generate, StreamsTheTextItReturns) {
  const Ids prompt = tales_tokenizer().encode_ids("Once upon a time");
  std::string streamed;
  Ids ids;
  const GenerateResult result =
      generate(tales(), &tales_tokenizer(), prompt,
               {.max_tokens = 60, .sampling = {.temperature = 2}, .seed = 5, .ignore_eos = true},
               [&](std::string_view text, std::int32_t id) {
                 streamed += text;
                 ids.push_back(id);
                 return true;
               });
  EXPECT_EQ(ids, result.ids);
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.text, tales_tokenizer().decode(result.ids, true));
}

TEST(Generate, TheTextStandsBehindThePrompt) {
  // Where words begin with a space that is taken off the beginning of a text, as in Llama 2's tokenizer: not of this
  // one.
  const Tokenizer tokenizer = Tokenizer::from_file(std::string(WICK_TEST_DATA) + "/tokenizer/spm.json");
  const Ids prompt = tokenizer.encode_ids("the book");
  int spaces = 0;
  int compared = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    // Of 4096 ids this tokenizer has a tenth; the others stand for nothing.
    const GenerateResult result =
        generate(tales(), &tokenizer, prompt,
                 {.max_tokens = 30, .sampling = {.temperature = 5}, .seed = seed, .ignore_eos = true});
    Ids all = prompt;
    all.insert(all.end(), result.ids.begin(), result.ids.end());
    const std::string decoded = tokenizer.decode(all, true);
    if (decoded.find("\uFFFD") == std::string::npos) {
      EXPECT_EQ("the book" + result.text, decoded) << seed;
      ++compared;
    }
    if (result.text.starts_with(' ')) ++spaces;
  }
  EXPECT_GT(spaces, 0);
  EXPECT_GT(compared, 0);
}

TEST(Generate, StopStringsCutTheText) {
  const Ids prompt = {3449, 629, 258, 537};
  const std::string all = generate(tales(), &tales_tokenizer(), prompt, {.max_tokens = 48, .ignore_eos = true}).text;
  ASSERT_GT(all.size(), 40U);
  // A piece of the text that begins and ends wherever, so also inside tokens.
  for (const std::size_t begin : {0U, 1U, 9U, 22U}) {
    const std::string stop = all.substr(begin, 13);
    std::string streamed;
    const GenerateResult result = generate(tales(), &tales_tokenizer(), prompt,
                                           {.max_tokens = 48, .ignore_eos = true, .stop_strings = {"\x01", stop}},
                                           [&](std::string_view text, std::int32_t) {
                                             streamed += text;
                                             return true;
                                           });
    EXPECT_EQ(result.finish_reason, FinishReason::stop_string);
    EXPECT_EQ(result.text, all.substr(0, all.find(stop)));
    EXPECT_EQ(streamed, result.text);
    const std::string decoded = tales_tokenizer().decode(result.ids, true);
    EXPECT_NE(decoded.find(stop), std::string::npos) << "the token that completes the string is the last id";
    EXPECT_EQ(tales_tokenizer().decode(std::span(result.ids).first(result.ids.size() - 1), true).find(stop),
              std::string::npos);
  }
}

TEST(Generate, TheCallbackInterrupts) {
  int calls = 0;
  const GenerateResult result = generate(tales(), &tales_tokenizer(), Ids{485}, {.max_tokens = 20, .ignore_eos = true},
                                         [&](std::string_view, std::int32_t) { return ++calls < 3; });
  EXPECT_EQ(result.ids.size(), 3U);
  EXPECT_EQ(result.finish_reason, FinishReason::interrupted);
}

TEST(Generate, EndsAtTheContext) {
  const Decoder model = load(model_folder("llama-gqa"));
  const auto run = [&](std::size_t prompt, std::int64_t max_tokens) {
    return generate(model, nullptr, Ids(prompt, 9), {.max_tokens = max_tokens, .ignore_eos = true});
  };
  ASSERT_EQ(model.config().max_position_embeddings, 256);
  EXPECT_EQ(run(250, 100).ids.size(), 6U);
  EXPECT_EQ(run(250, 100).finish_reason, FinishReason::length);
  EXPECT_TRUE(run(256, 1).ids.empty());
  EXPECT_TRUE(run(3, 0).ids.empty());
  expect_error(ErrorCode::invalid_argument, "the prompt has 257 tokens, the model's context 256", [&] { run(257, 1); });
}

TEST(Generate, AnEmptyPromptIsBos) {
  const Decoder llama = load(model_folder("llama-gqa"));
  const GenerateOptions options = {.max_tokens = 5, .ignore_eos = true};
  const GenerateResult result = generate(llama, nullptr, {}, options);
  EXPECT_EQ(result.prompt_tokens, 1);
  EXPECT_EQ(result.ids, generate(llama, nullptr, Ids{1}, options).ids);
  expect_error(ErrorCode::invalid_argument, "the prompt is empty", [&] { generate(tales(), nullptr, {}, options); });
}

TEST(Generate, RefusesWrongOptionsByName) {
  const auto bad = [](const GenerateOptions& options, const char* message) {
    expect_error(ErrorCode::invalid_argument, message, [&] { generate(tales(), nullptr, Ids{1}, options); });
  };
  bad({.max_tokens = -1}, "max_tokens is -1");
  bad({.prefill_chunk = 0}, "prefill_chunk is 0");
  bad({.stop_strings = {"a", ""}}, "a stop string is empty");
  bad({.stop_strings = {"a"}}, "stop strings need a tokenizer");
  bad({.sampling = {.top_p = 2}}, "top_p is 2");
}

// What StopStrings must do, character by character: the first position at which any string is complete.
std::pair<std::string, bool> cut(const std::string& text, const std::vector<std::string>& strings) {
  for (std::size_t end = 0; end <= text.size(); ++end) {
    std::size_t begin = std::string::npos;
    for (const std::string& s : strings) {
      if (text.substr(0, end).ends_with(s)) begin = std::min(begin, end - s.size());
    }
    if (begin != std::string::npos) return {text.substr(0, begin), true};
  }
  return {text, false};
}

TEST(StopStrings, AreFoundHoweverTheTextIsCut) {
  std::mt19937 random(1);
  const auto word = [&](std::size_t least, std::size_t most) {
    std::string s(least + random() % (most - least + 1), 'a');
    for (char& c : s) c = static_cast<char>('a' + random() % 2);
    return s;
  };
  int found = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> strings;
    for (std::size_t i = 0; i <= random() % 3; ++i) strings.push_back(word(2, 6));
    const std::string text = word(0, 20);
    const auto [expected, stopped] = cut(text, strings);
    StopStrings stops(strings);
    std::string printed;
    for (std::size_t at = 0; at < text.size() && !stops.found();) {
      const std::size_t count = 1 + random() % 4;
      printed += stops.push(std::string_view(text).substr(at, count));
      ASSERT_TRUE(expected.starts_with(printed)) << "printed too much: " << printed;
      at += count;
    }
    if (!stops.found()) printed += stops.finish();
    ASSERT_EQ(printed, expected);
    ASSERT_EQ(stops.found(), stopped);
    found += stopped ? 1 : 0;
  }
  EXPECT_GT(found, 300);
  EXPECT_LT(found, 2900);
}

TEST(StopStrings, HoldBackNoMoreThanNeeded) {
  StopStrings stops({"</s>", "\n\n"});
  EXPECT_EQ(stops.push("a < b\n"), "a < b");
  EXPECT_EQ(stops.push("c </"), "\nc ");
  EXPECT_EQ(stops.push("b>"), "</b>");
  EXPECT_EQ(stops.push("x</s> y"), "x");
  EXPECT_TRUE(stops.found());
}

}  // namespace
}  // namespace wick
