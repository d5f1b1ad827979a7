#include "wick/tokenizer.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include <string>
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

Offsets offsets_of(dom::element list) {
  Offsets offsets;
  for (const dom::element pair : list.get_array()) {
    offsets.emplace_back(pair.at(0).get_uint64().value(), pair.at(1).get_uint64().value());
  }
  return offsets;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids, bool skip) {
  DecodeStream stream(tokenizer, skip);
  std::string text;
  for (const TokenId id : ids) text += stream.push(id);
  return text + stream.finish();
}

// The answers of the Python package `tokenizers` for one tokenizer.json.
void expect_cases(const Tokenizer& tokenizer, const std::string& file) {
  dom::parser parser;
  std::size_t count = 0;
  for (const dom::element item : parser.load(data_path(file)).get_array()) {
    const std::string text(item["text"].get_string().value());
    SCOPED_TRACE(file + ", text \"" + text + "\"");
    const std::vector<TokenId> ids = ids_of(item["ids"]);
    const Encoding encoding = tokenizer.encode(text);
    ASSERT_EQ(encoding.ids, ids);
    EXPECT_EQ(encoding.offsets, offsets_of(item["offsets"]));
    EXPECT_EQ(tokenizer.encode_ids(text), ids);
    dom::element plain;
    if (item["ids_plain"].get(plain) == simdjson::SUCCESS) {
      EXPECT_EQ(tokenizer.encode_ids(text, false), ids_of(plain));
    }
    const std::string decoded(item["decoded"].get_string().value());
    const std::string decoded_skip(item["decoded_skip"].get_string().value());
    EXPECT_EQ(tokenizer.decode(ids), decoded);
    EXPECT_EQ(tokenizer.decode(ids, true), decoded_skip);
    EXPECT_EQ(streamed(tokenizer, ids, false), decoded);
    EXPECT_EQ(streamed(tokenizer, ids, true), decoded_skip);
    ++count;
  }
  EXPECT_GT(count, 30U);
}

TEST(Tokenizer, AgreesWithTheReferenceOnTales) {
  expect_cases(Tokenizer::from_file(std::string(WICK_MODELS) + "/tales/tokenizer.json"), "tales_cases.json");
}

}  // namespace
}  // namespace wick
