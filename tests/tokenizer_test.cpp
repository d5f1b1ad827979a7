#include "wick/tokenizer.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "small_tokenizer.h"
#include "text/unicode.h"

namespace wick {
namespace {

namespace dom = simdjson::dom;

std::string data_path(const std::string& name) { return std::string(WICK_TEST_DATA) + "/tokenizer/" + name; }

std::vector<TokenId> ids_of(dom::element list) {
  std::vector<TokenId> ids;
  for (const dom::element id : list.get_array()) ids.push_back(static_cast<TokenId>(id.get_int64().value()));
  return ids;
}

using Offsets = std::vector<std::pair<std::size_t, std::size_t>>;

std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip) {
  DecodeStream stream(tokenizer, skip);
  std::string text;
  for (const TokenId id : ids) text += stream.push(id);
  return text + stream.finish();
}

struct Case {
  std::string text;
  std::vector<TokenId> ids;
  std::vector<TokenId> ids_plain;  // without special tokens
  Offsets offsets;
  std::string decoded;
  std::string decoded_skip;
};

// Returns whether all is as expected.
bool check(const Tokenizer& tokenizer, const Case& expected) {
  const Encoding encoding = tokenizer.encode(expected.text);
  EXPECT_EQ(encoding.ids, expected.ids);
  EXPECT_EQ(encoding.offsets, expected.offsets);
  EXPECT_EQ(tokenizer.encode_ids(expected.text), expected.ids);
  EXPECT_EQ(tokenizer.encode_ids(expected.text, false), expected.ids_plain);
  EXPECT_EQ(tokenizer.encode(expected.text, false).ids, expected.ids_plain);
  EXPECT_EQ(tokenizer.decode(expected.ids), expected.decoded);
  EXPECT_EQ(tokenizer.decode(expected.ids, true), expected.decoded_skip);
  EXPECT_EQ(streamed(tokenizer, expected.ids, false), expected.decoded);
  EXPECT_EQ(streamed(tokenizer, expected.ids, true), expected.decoded_skip);
  return !testing::Test::HasFailure();
}

TEST(Tokenizer, AgreesWithTheReferenceOnTales) {
  const Tokenizer tokenizer = Tokenizer::from_file(std::string(WICK_MODELS) + "/tales/tokenizer.json");
  dom::parser parser;
  std::size_t count = 0;
  for (const dom::element item : parser.load(data_path("tales_cases.json")).get_array()) {
    const auto text = [&](std::string_view key) { return std::string(item[key].get_string().value()); };
    Case expected{text("text"), ids_of(item["ids"]), ids_of(item["ids"]), {}, text("decoded"), text("decoded_skip")};
    for (const dom::element pair : item["offsets"].get_array()) {
      expected.offsets.emplace_back(pair.at(0).get_uint64().value(), pair.at(1).get_uint64().value());
    }
    ASSERT_TRUE(check(tokenizer, expected)) << "text \"" << expected.text << "\"";
    ++count;
  }
  EXPECT_EQ(count, 37U);
}

// NAME.json is a small tokenizer, NAME_cases.json what the Python package `tokenizers` makes with it of the texts in
// NAME_texts.json, or in texts.json where there is none.
// unigram was trained by that package; unigram_spm has the pieces and the character map of a model that sentencepiece
// trained with nmt_nfkc; unigram_bytes has many ties and falls back to bytes. They share unigram_texts.json.
// spm and its variants are BPE over characters, made by data/tokenizer/make_spm.py. They share spm_texts.json.
class Reference : public testing::TestWithParam<std::string> {};

TEST_P(Reference, AgreesOnEveryText) {
  const Tokenizer tokenizer = Tokenizer::from_file(data_path(GetParam() + ".json"));
  dom::parser text_parser;
  dom::parser case_parser;
  std::string own = data_path(GetParam() + "_texts.json");
  if (GetParam().starts_with("unigram")) own = data_path("unigram_texts.json");
  if (GetParam().starts_with("spm")) own = data_path("spm_texts.json");
  const dom::array texts = text_parser.load(std::filesystem::exists(own) ? own : data_path("texts.json")).get_array();
  const dom::array cases = case_parser.load(data_path(GetParam() + "_cases.json")).get_array();
  ASSERT_EQ(texts.size(), cases.size());
  ASSERT_GT(texts.size(), 250U);
  auto next = cases.begin();
  for (const dom::element text : texts) {
    const dom::element item = *next;
    ++next;
    Case expected;
    expected.text = text.get_string().value();
    expected.ids = ids_of(item["ids"]);
    // What is left out is the same as what stands before it.
    dom::element field;
    expected.ids_plain = item["ids_plain"].get(field) == simdjson::SUCCESS ? ids_of(field) : expected.ids;
    const auto string_or = [&](std::string_view key, const std::string& otherwise) {
      return item[key].get(field) == simdjson::SUCCESS ? std::string(field.get_string().value()) : otherwise;
    };
    expected.decoded = string_or("decoded", expected.text);
    expected.decoded_skip = string_or("decoded_skip", expected.decoded);
    const dom::array flat = item["offsets"].get_array();
    for (auto offset = flat.begin(); offset != flat.end(); ++offset) {
      const std::size_t begin = (*offset).get_uint64().value();
      ++offset;
      expected.offsets.emplace_back(begin, (*offset).get_uint64().value());
    }
    ASSERT_TRUE(check(tokenizer, expected)) << "text " << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Reference,
                         testing::Values("gpt2", "gpt2_prefix", "gpt2_notrim", "llama3", "qwen2", "added", "added_nfc",
                                         "odd", "invert", "gaps", "unk", "bert", "bert_cased", "word_piece",
                                         "word_piece_split", "unigram", "unigram_spm", "unigram_bytes", "spm",
                                         "spm_first", "spm_gemma", "spm_odd"),
                         [](const auto& info) { return info.param; });

using Ids = std::vector<TokenId>;

TEST(Tokenizer, MergesLongRunsAsShortOnes) {
  // Above and below the length where a heap takes over from a scan; without cutting at all.
  SmallTokenizer parts;
  parts.pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  const Tokenizer tokenizer = parts.tokenizer();
  for (std::size_t length = 1; length < 300; ++length) {
    Ids expected(length / 4, 257);
    if (length % 4 >= 2) expected.push_back(256);
    if (length % 2 == 1) expected.push_back('a');
    EXPECT_EQ(tokenizer.encode_ids(std::string(length, 'a')), expected) << length;
  }
}

TEST(Tokenizer, EncodesAMebibyteOfOneCharacterAsOnePiece) {
  SmallTokenizer parts;
  parts.pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  const Tokenizer tokenizer = parts.tokenizer();
  EXPECT_EQ(tokenizer.encode_ids(std::string(1 << 20, 'a')), Ids(1 << 18, 257));
  EXPECT_EQ(tokenizer.encode_ids(std::string(1 << 20, ' ')).size(), std::size_t{1} << 20);
  const Tokenizer cutting = SmallTokenizer{}.tokenizer();
  EXPECT_EQ(cutting.encode_ids(std::string(16 << 20, ' ')).size(), std::size_t{16} << 20);
}

TEST(Tokenizer, ReadsBrokenUtf8AsReplacementCharacters) {
  const Tokenizer tokenizer = SmallTokenizer{}.tokenizer();
  const std::string good = "a\uFFFDb\uFFFD\uFFFD\uFFFD";
  const std::string bad =
      "a\xE2\x82"
      "b\xC0\x80\xF0\x9F\x98";
  EXPECT_EQ(tokenizer.encode(bad).ids, tokenizer.encode(good).ids);
  EXPECT_EQ(tokenizer.encode(bad).offsets, tokenizer.encode(good).offsets);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode_ids(bad)), good);
  for (unsigned first = 0; first < 256; ++first) {
    for (unsigned second = 0; second < 256; ++second) {
      const std::string text{static_cast<char>(first), static_cast<char>(second)};
      const std::string decoded = tokenizer.decode(tokenizer.encode_ids(text));
      EXPECT_EQ(tokenizer.decode(tokenizer.encode_ids(decoded)), decoded);
    }
  }
}

TEST(DecodeStream, NeverPrintsHalfACharacter) {
  const Tokenizer tokenizer = SmallTokenizer{}.tokenizer();
  const std::string text = "a\u00e9\u65e5\U0001F600z";
  std::vector<std::string> pushed;
  DecodeStream stream(tokenizer);
  for (const TokenId id : tokenizer.encode_ids(text)) pushed.push_back(stream.push(id));
  EXPECT_EQ(pushed, (std::vector<std::string>{"a", "", "\u00e9", "", "", "\u65e5", "", "", "", "\U0001F600", "z"}));
  EXPECT_EQ(stream.finish(), "");
}

TEST(DecodeStream, GivesWhatDecodeGivesForAnyTokens) {
  const Tokenizer tokenizer = SmallTokenizer{}.tokenizer();
  std::mt19937 random(1);
  for (int run = 0; run < 2000; ++run) {
    Ids ids(random() % 20);
    // Mostly bytes of characters that are not ASCII, some tokens that do not exist.
    for (TokenId& id : ids) id = static_cast<TokenId>(random() % 4 == 0 ? random() % 262 : 0x80 + random() % 0x78) - 1;
    EXPECT_EQ(streamed(tokenizer, ids, false), tokenizer.decode(ids));
    EXPECT_EQ(streamed(tokenizer, ids, true), tokenizer.decode(ids, true));
  }
}

TEST(Tokenizer, GivesBackEveryText) {
  const Tokenizer tales = Tokenizer::from_file(std::string(WICK_MODELS) + "/tales/tokenizer.json");
  const Tokenizer llama = Tokenizer::from_file(data_path("llama3.json"));
  std::mt19937 random(2);
  for (int run = 0; run < 2000; ++run) {
    std::string text;
    for (std::size_t left = random() % 40; left > 0; --left) {
      const std::array<std::uint32_t, 4> ends{0x80, 0x400, 0x3000, 0x110000};
      const std::uint32_t c = static_cast<std::uint32_t>(random()) % ends[random() % 4];
      if (c < 0xD800 || c > 0xDFFF) text::append_utf8(text, c);
    }
    EXPECT_EQ(llama.decode(llama.encode_ids(text), true), text);
    const Encoding encoding = tales.encode(text);
    EXPECT_EQ(encoding.ids, tales.encode_ids(text));
    EXPECT_EQ(encoding.ids.size(), encoding.offsets.size());
  }
}

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer tokenizer = SmallTokenizer{}.tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 259U);
  EXPECT_EQ(tokenizer.token_to_id("aaaa"), 257);
  EXPECT_EQ(tokenizer.token_to_id("\u0120"), 32);
  EXPECT_EQ(tokenizer.token_to_id("<e>"), 258);
  EXPECT_EQ(tokenizer.token_to_id(" "), std::nullopt);
  EXPECT_EQ(tokenizer.token_to_id("\xff"), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(32), "\u0120");
  EXPECT_EQ(tokenizer.id_to_token(258), "<e>");
  EXPECT_EQ(tokenizer.id_to_token(259), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(-1), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(258));
  EXPECT_FALSE(tokenizer.is_special(257));
  EXPECT_EQ(tokenizer.truncation_length(), std::nullopt);
  EXPECT_EQ(Tokenizer::from_file(data_path("unk.json")).truncation_length(), 40U);
  EXPECT_EQ(Tokenizer::from_file(data_path("unk.json"), {.truncate = false}).truncation_length(), std::nullopt);
}

TEST(Tokenizer, ServesSeveralThreads) {
  const Tokenizer tokenizer = Tokenizer::from_file(data_path("gpt2.json"));
  const std::string text = "The Queen of Hearts, she made some tarts, all on a summer day. \U0001F600 tarts";
  const Ids expected = Tokenizer::from_file(data_path("gpt2.json")).encode_ids(text);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, copy = tokenizer] {
      for (int k = 0; k < 200; ++k) wrong += copy.encode_ids(text) == expected ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace wick
