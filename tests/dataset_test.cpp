#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "io/json.h"
#include "io_test_util.h"
#include "wick/data.h"
#include "wick/tokenizer.h"

namespace wick {
namespace {

using test::expect_error;
using test::TempDir;
using test::write_file;
using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kEos = 4093;

const Tokenizer& tales() {
  static const Tokenizer tokenizer = Tokenizer::from_file(WICK_MODELS "/tales/tokenizer.json");
  return tokenizer;
}

// The tales tokenizer with a template that puts 4094 in front of a text and 4095 behind it.
Tokenizer with_template() {
  Json file = read_json_file(WICK_MODELS "/tales/tokenizer.json");
  const auto special = [](const char* token, int id) {
    return Json{{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  };
  const auto piece = [](const char* token) { return Json{{"SpecialToken", {{"id", token}, {"type_id", 0}}}}; };
  const auto sequence = [](const char* name) { return Json{{"Sequence", {{"id", name}, {"type_id", 0}}}}; };
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", Json::array({piece("<|im_start|>"), sequence("A"), piece("<|im_end|>")})},
      {"pair", Json::array({sequence("A"), sequence("B")})},
      {"special_tokens",
       {{"<|im_start|>", special("<|im_start|>", 4094)}, {"<|im_end|>", special("<|im_end|>", 4095)}}}};
  return Tokenizer::from_json(file.dump(), "template");
}

DatasetOptions ids_only() { return {.vocab_size = 100, .max_seq_length = 8}; }

DatasetOptions with_text() {
  return {.vocab_size = 4096, .max_seq_length = 64, .tokenizer = &tales(), .eos_token_ids = {kEos}};
}

Dataset read(std::string_view contents, const DatasetOptions& options) {
  const TempDir dir;
  write_file(dir / "rows.jsonl", contents);
  return Dataset::from_file(dir / "rows.jsonl", options);
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Dataset, TextIsTrainedOnWholeAndEnds) {
  const Dataset data = read(R"({"text": "Once upon a time", "id": 7})"
                            "\n\n"
                            R"({"text": "The end<|endoftext|>", "prompt": null})"
                            "\r\n",
                            with_text());
  ASSERT_EQ(data.size(), 2);
  EXPECT_EQ(data.report().format, RowFormat::text);
  const Ids once = tales().encode_ids("Once upon a time");
  EXPECT_EQ(data.examples()[0].ids, joined(once, {kEos}));
  EXPECT_EQ(data.examples()[0].labels, data.examples()[0].ids);
  EXPECT_EQ(data.examples()[0].trained_tokens(), static_cast<std::int64_t>(once.size()));
  // Ends already: no second end.
  EXPECT_EQ(data.examples()[1].ids, tales().encode_ids("The end<|endoftext|>"));
  EXPECT_EQ(data.examples()[1].ids.back(), kEos);
  EXPECT_EQ(data.report().tokens, data.examples()[0].tokens() + data.examples()[1].tokens());
  EXPECT_EQ(data.report().trained_tokens, data.report().tokens - 2);
}

TEST(Dataset, AnyEosEndsARowAndWithoutOneNothingIsAppended) {
  DatasetOptions options = with_text();
  options.eos_token_ids = {4095, kEos};
  EXPECT_EQ(read(R"({"text": "a<|endoftext|>"})", options).examples()[0].ids.back(), kEos);
  EXPECT_EQ(read(R"({"text": "once more"})", options).examples()[0].ids.back(), 4095);
  options.eos_token_ids.clear();
  EXPECT_EQ(read(R"({"text": "once more"})", options).examples()[0].ids, tales().encode_ids("once more"));
}

TEST(Dataset, PromptAndCompletionMeetAtATokenBorder) {
  // "rab" + "bit" would be one token if encoded together.
  ASSERT_NE(tales().encode_ids("rabbit"), joined(tales().encode_ids("rab"), tales().encode_ids("bit")));
  const std::string row = R"({"prompt": "The rab", "completion": "bit ran"})";
  const Ids prompt = tales().encode_ids("The rab");
  const Ids completion = joined(tales().encode_ids("bit ran"), {kEos});

  DatasetOptions options = with_text();
  const Dataset whole = read(row, options);
  EXPECT_EQ(whole.report().format, RowFormat::completion);
  EXPECT_EQ(whole.examples()[0].ids, joined(prompt, completion));
  EXPECT_EQ(whole.examples()[0].labels, whole.examples()[0].ids);

  options.mask_prompt = true;
  const Dataset masked = read(row, options);
  EXPECT_EQ(masked.examples()[0].ids, whole.examples()[0].ids);
  EXPECT_EQ(masked.examples()[0].labels, joined(Ids(prompt.size(), kIgnoreLabel), completion));
  EXPECT_EQ(masked.report().trained_tokens, static_cast<std::int64_t>(completion.size()));
}

TEST(Dataset, ACompletionBeginsWithNoSpaceOfItsOwn) {
  // This tokenizer puts a space before every text, as Llama 2's does.
  const Tokenizer tokenizer = Tokenizer::from_file(std::string(WICK_TEST_DATA) + "/tokenizer/spm.json");
  DatasetOptions options = with_text();
  options.tokenizer = &tokenizer;
  const Ids whole = joined(tokenizer.encode_ids("the book she had"), {kEos});
  EXPECT_EQ(read(R"({"prompt": "the book", "completion": " she had"})", options).examples()[0].ids, whole);
  EXPECT_EQ(tokenizer.decode(read(R"({"prompt": "the b", "completion": "ook"})", options).examples()[0].ids, true),
            tokenizer.decode(joined(tokenizer.encode_ids("the book"), {kEos}), true));
  // Behind no text it is one of its own.
  EXPECT_EQ(read(R"({"prompt": "", "completion": "the book she had"})", options).examples()[0].ids, whole);
}

TEST(Dataset, ATemplateSurroundsTheWholeRow) {
  const Tokenizer tokenizer = with_template();
  DatasetOptions options = with_text();
  options.tokenizer = &tokenizer;
  options.eos_token_ids = {4095};
  const Ids hello = tales().encode_ids("hello");
  const Ids you = tales().encode_ids(" you");
  EXPECT_EQ(read(R"({"text": "hello"})", options).examples()[0].ids, joined(joined({4094}, hello), {4095}));
  EXPECT_EQ(read(R"({"prompt": "hello", "completion": " you"})", options).examples()[0].ids,
            joined(joined(joined({4094}, hello), you), {4095}));
}

TEST(Dataset, TokensAreTakenAsTheyAre) {
  const Dataset data = read(R"({"input_ids": [0, 5, 99], "labels": [-100, -100, 42], "attention_mask": [1, 1, 1]})"
                            "\n"
                            R"({"input_ids": [1, 2]})"
                            "\n"
                            R"({"input_ids": [1, 2], "labels": null, "text": null})",
                            ids_only());
  ASSERT_EQ(data.size(), 3);
  EXPECT_EQ(data.report().format, RowFormat::tokens);
  EXPECT_EQ(data.examples()[0], (Example{{0, 5, 99}, {-100, -100, 42}}));
  EXPECT_EQ(data.examples()[1], (Example{{1, 2}, {1, 2}}));
  EXPECT_EQ(data.examples()[2], data.examples()[1]);
  EXPECT_EQ(data.longest(), 3);
  EXPECT_EQ(data.report().trained_tokens, 3);
}

TEST(Dataset, LongRowsLoseTheirEndAndUselessRowsGo) {
  const Dataset data = read(R"({"input_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]})"
                            "\n"
                            R"({"input_ids": [1, 2, 3, 4, 5, 6, 7, 8]})"
                            "\n"
                            R"({"input_ids": [7]})"
                            "\n"
                            R"({"input_ids": []})"
                            "\n"
                            R"({"input_ids": [7, 8], "labels": [7, -100]})"
                            "\n"
                            R"({"input_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9], )"
                            R"("labels": [-100, -100, -100, -100, -100, -100, -100, -100, 9]})",
                            ids_only());
  ASSERT_EQ(data.size(), 2);
  EXPECT_EQ(data.examples()[0], data.examples()[1]);
  EXPECT_EQ(data.report().rows, 6);
  EXPECT_EQ(data.report().truncated, 2);
  EXPECT_EQ(data.report().dropped, 4);  // the last one: what was trained on has been cut off
  EXPECT_EQ(data.report().tokens, 16);
}

TEST(Dataset, TheTokenizersOwnTruncationIsCounted) {
  Json file = read_json_file(WICK_MODELS "/tales/tokenizer.json");
  file["truncation"] = {{"max_length", 4}, {"direction", "Right"}, {"strategy", "LongestFirst"}, {"stride", 0}};
  const Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "short");
  DatasetOptions options = with_text();
  options.tokenizer = &tokenizer;
  const Dataset data = read(R"({"text": "Once upon a time there was a very long row of words"})"
                            "\n"
                            R"({"text": "the end"})",
                            options);
  EXPECT_EQ(data.report().truncated, 1);
  EXPECT_EQ(data.examples()[0].tokens(), 5);
}

struct BadRow {
  const char* name;
  std::string row;
  std::string message;
};

void PrintTo(const BadRow& bad, std::ostream* out) { *out << bad.name; }

class BadRows : public testing::TestWithParam<BadRow> {};

// The bad row is the third line, after a good row and a blank line.
TEST_P(BadRows, AreNamedByFileAndLine) {
  const BadRow& bad = GetParam();
  const TempDir dir;
  write_file(dir / "train.jsonl", R"({"input_ids": [1, 2]})"
                                  "\n\n" +
                                      bad.row + "\n" + R"({"input_ids": [1, 2]})" + "\n");
  expect_error(ErrorCode::format, (dir / "train.jsonl").string() + ":3", [&] { load_data(dir.path(), ids_only()); });
  expect_error(ErrorCode::format, bad.message, [&] { load_data(dir.path(), ids_only()); });
}

INSTANTIATE_TEST_SUITE_P(
    Rows, BadRows,
    testing::Values(
        BadRow{"broken", R"({"input_ids": [1, 2)", "not valid JSON"},
        BadRow{"two_values", R"({"input_ids": [1, 2]} {"input_ids": [1, 2]})", "not valid JSON"},
        BadRow{"not_utf8", "{\"input_ids\": [1, 2], \"note\": \"\xff\"}", "not valid JSON"},
        BadRow{"lone_surrogate", R"({"text": "\ud800"})", "not valid JSON"},
        BadRow{"nul", std::string("{\"input_ids\": [1, 2]}\0", 22), "a NUL byte"},
        BadRow{"nan", R"({"input_ids": [1, NaN]})", "not valid JSON"},
        BadRow{"key_twice", R"({"input_ids": [1, 2], "input_ids": [3, 4]})", "given twice"},
        BadRow{"deep", std::string(10000, '['), "nested deeper"},
        BadRow{"list", "[1, 2]", "is a list, expected an object"}, BadRow{"number", "17", "is 17, expected an object"},
        BadRow{"null", "null", "is null, expected an object"},
        BadRow{"no_keys", "{}", "the row has no keys, expected \"text\""},
        BadRow{"other_keys", R"({"messages": []})", "the row has \"messages\", expected \"text\""},
        BadRow{"all_null", R"({"text": null})", "the row has no keys"},
        BadRow{"prompt_alone", R"({"prompt": "a"})", "the row has \"prompt\", expected"},
        BadRow{"labels_alone", R"({"labels": [1, 2]})", "the row has \"labels\", expected"},
        BadRow{"other_format", R"({"text": "a"})", "has the format text, expected input_ids as in line 1"},
        BadRow{"two_formats", R"({"text": "a", "input_ids": [1, 2]})", "several formats (\"input_ids\", \"text\")"},
        BadRow{"ids_not_a_list", R"({"input_ids": "1 2"})", "\"input_ids\" is \"1 2\", expected a list"},
        BadRow{"ids_float", R"({"input_ids": [1, 2.0]})", "\"input_ids[1]\" is 2.0, expected an integer from 0 to 99"},
        BadRow{"ids_string", R"({"input_ids": [1, "2"]})", "\"input_ids[1]\" is \"2\""},
        BadRow{"ids_bool", R"({"input_ids": [true, 2]})", "\"input_ids[0]\" is true"},
        BadRow{"ids_nested", R"({"input_ids": [[1, 2]]})", "\"input_ids[0]\" is a list"},
        BadRow{"ids_null", R"({"input_ids": [1, null]})", "\"input_ids[1]\" is null"},
        BadRow{"ids_beyond", R"({"input_ids": [1, 100]})", "\"input_ids[1]\" is 100, expected an integer from 0 to 99"},
        BadRow{"ids_negative", R"({"input_ids": [1, -1]})", "\"input_ids[1]\" is -1"},
        BadRow{"ids_masked", R"({"input_ids": [1, -100]})", "\"input_ids[1]\" is -100"},
        BadRow{"ids_wrap_32", R"({"input_ids": [1, 4294967297]})", "\"input_ids[1]\" is 4294967297"},
        BadRow{"ids_wrap_64", R"({"input_ids": [1, 18446744073709551615]})", "is 18446744073709551615"},
        BadRow{"labels_short", R"({"input_ids": [1, 2], "labels": [1]})", "\"labels\" has 1 entries, expected one for"},
        BadRow{"labels_long", R"({"input_ids": [1, 2], "labels": [1, 2, 3]})", "\"labels\" has 3 entries"},
        BadRow{"labels_beyond", R"({"input_ids": [1, 2], "labels": [1, 100]})",
               "\"labels[1]\" is 100, expected -100 or an integer from 0 to 99"},
        BadRow{"labels_other_mask", R"({"input_ids": [1, 2], "labels": [-1, 2]})", "\"labels[0]\" is -1"},
        BadRow{"labels_object", R"({"input_ids": [1, 2], "labels": {}})", "\"labels\" is an object"}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(Dataset, BadTextIsNamedByFileAndLine) {
  const std::vector<std::pair<std::string, std::string>> bad = {
      {R"({"text": 5})", "rows.jsonl:2: \"text\" is 5, expected a string"},
      {R"({"text": ["a"]})", "rows.jsonl:2: \"text\" is a list"},
      {R"({"prompt": "a", "completion": "b"})", "rows.jsonl:2: the row has the format prompt/completion"},
  };
  for (const auto& one : bad) {
    expect_error(ErrorCode::format, one.second, [&] { read("{\"text\": \"good row\"}\n" + one.first, with_text()); });
  }
  expect_error(ErrorCode::format, "rows.jsonl:1: \"completion\" is false, expected a string",
               [] { read(R"({"prompt": "a", "completion": false})", with_text()); });
  expect_error(ErrorCode::format, "rows.jsonl:1: \"prompt\" is 3, expected a string",
               [] { read(R"({"prompt": 3, "completion": "b"})", with_text()); });
}

TEST(Dataset, TextNeedsATokenizerThatFitsTheModel) {
  expect_error(ErrorCode::format, "rows.jsonl:1: the row is text and there is no tokenizer",
               [] { read(R"({"text": "a"})", ids_only()); });
  DatasetOptions small = with_text();
  small.vocab_size = 50;
  small.eos_token_ids.clear();
  expect_error(ErrorCode::format, "rows.jsonl:1: the tokenizer gives the id",
               [&] { read(R"({"text": "Once upon a time"})", small); });
  small.vocab_size = 4000;
  small.eos_token_ids = {kEos};
  expect_error(ErrorCode::invalid_argument, "the end-of-sequence id 4093",
               [&] { read(R"({"text": "Once upon a time"})", small); });
}

TEST(Dataset, ADatasetIsNeverEmpty) {
  expect_error(ErrorCode::format, "rows.jsonl: holds no rows", [] { read("", ids_only()); });
  expect_error(ErrorCode::format, "rows.jsonl: holds no rows", [] { read("\xef\xbb\xbf\n \n", ids_only()); });
  expect_error(ErrorCode::format, "none of the 2 rows has a token to train on",
               [] { read("{\"input_ids\": [1]}\n{\"input_ids\": []}", ids_only()); });
  expect_error(ErrorCode::invalid_argument, "at least one example", [] { Dataset::from_examples({}); });
  expect_error(ErrorCode::invalid_argument, "example 1 has 2 ids and 1 labels", [] {
    Dataset::from_examples({{{1, 2}, {1, 2}}, {{1, 2}, {1}}});
  });
  expect_error(ErrorCode::invalid_argument, "example 0 has no token", [] { Dataset::from_examples({{{1}, {1}}}); });
}

TEST(Dataset, OptionsAreChecked) {
  expect_error(ErrorCode::invalid_argument, "max_seq_length is 1",
               [] { read("", {.vocab_size = 10, .max_seq_length = 1}); });
  expect_error(ErrorCode::invalid_argument, "vocab_size is 0", [] { read("", {}); });
}

TEST(LoadData, AFolderOrAFile) {
  const TempDir dir;
  const std::string row = R"({"input_ids": [1, 2]})";
  write_file(dir / "valid.jsonl", row + "\n" + row);
  expect_error(ErrorCode::io, "has no train.jsonl", [&] { load_data(dir.path(), ids_only()); });
  write_file(dir / "train.jsonl", row);
  DataSplits splits = load_data(dir.path(), ids_only());
  EXPECT_EQ(splits.train.size(), 1);
  ASSERT_TRUE(splits.valid.has_value());
  EXPECT_EQ(splits.valid->size(), 2);
  EXPECT_FALSE(splits.test.has_value());

  write_file(dir / "test.jsonl", "{}");
  expect_error(ErrorCode::format, (dir / "test.jsonl").string() + ":1", [&] { load_data(dir.path(), ids_only()); });
  write_file(dir / "test.jsonl", row);
  EXPECT_TRUE(load_data(dir.path(), ids_only()).test.has_value());

  const DataSplits file = load_data(dir / "valid.jsonl", ids_only());
  EXPECT_EQ(file.train.size(), 2);
  EXPECT_FALSE(file.valid.has_value());
  EXPECT_FALSE(file.test.has_value());
  expect_error(ErrorCode::io, "nothing.jsonl", [&] { load_data(dir / "nothing.jsonl", ids_only()); });
}

TEST(Dataset, TheFingerprintTellsDataApart) {
  const auto of = [](std::vector<Example> examples) {
    return Dataset::from_examples(std::move(examples)).fingerprint();
  };
  const std::uint64_t base = of({{{1, 2}, {1, 2}}, {{3, 4}, {3, 4}}});
  EXPECT_EQ(base, of({{{1, 2}, {1, 2}}, {{3, 4}, {3, 4}}}));
  EXPECT_NE(base, of({{{3, 4}, {3, 4}}, {{1, 2}, {1, 2}}}));
  EXPECT_NE(base, of({{{1, 2}, {1, 2}}, {{3, 4}, {-100, 4}}}));
  EXPECT_NE(base, of({{{1, 2, 3, 4}, {1, 2, 3, 4}}}));
}

}  // namespace
}  // namespace wick
