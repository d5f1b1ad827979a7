#include "wick/tokenizer.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include <string>
#include <utility>
#include <vector>

#include "wick/error.h"

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

// NAME.json is a small tokenizer, NAME_cases.json what the Python package `tokenizers` makes with it of texts.json.
class Reference : public testing::TestWithParam<std::string> {};

TEST_P(Reference, AgreesOnEveryText) {
  const Tokenizer tokenizer = Tokenizer::from_file(data_path(GetParam() + ".json"));
  dom::parser text_parser;
  dom::parser case_parser;
  const dom::array texts = text_parser.load(data_path("texts.json")).get_array();
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
                                         "odd", "invert", "gaps", "unk"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace wick
