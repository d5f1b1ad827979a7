// What tokenizer.json files can get wrong, and what they can ask for that is not there: each is one wick::Error.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "broken_tokenizer.h"
#include "io_test_util.h"
#include "small_tokenizer.h"
#include "wick/error.h"

namespace wick {
namespace {

using test::expect_broken;
using Broken = test::BrokenTokenizer<SmallTokenizer>;

constexpr auto kFormat = ErrorCode::format;
constexpr auto kUnsupported = ErrorCode::unsupported;

const Broken kBroken[] = {
    {"VocabIdNegative", &SmallTokenizer::more_vocab, R"(,"x1":-1)", kFormat, "model.vocab.x1 is a number"},
    {"VocabIdHuge", &SmallTokenizer::more_vocab, R"(,"x1":4294967296)", kFormat, "expected less than"},
    {"VocabIdBeyond64Bits", &SmallTokenizer::more_vocab, R"(,"x1":99999999999999999999)", kFormat, "not JSON"},
    {"VocabIdFraction", &SmallTokenizer::more_vocab, R"(,"x1":256.5)", kFormat, "a whole number"},
    {"VocabIdText", &SmallTokenizer::more_vocab, R"(,"x1":"256")", kFormat, "model.vocab.x1 is a string"},
    {"VocabIdTwice", &SmallTokenizer::more_vocab, R"(,"aa":256,"aaaa":257,"b":256)", kFormat, "twice"},
    {"VocabTokenTwice", &SmallTokenizer::more_vocab, R"(,"aa":256,"aaaa":257,"aa":258)", kFormat,
     R"(the token "aa" twice)"},
    {"MergesNotAList", &SmallTokenizer::merges, R"({"a":"a"})", kFormat, "model.merges is an object, expected a list"},
    {"MergeOneWord", &SmallTokenizer::merges, R"(["a a","aa"])", kFormat, "model.merges[1] is \"aa\""},
    {"MergeThreeWords", &SmallTokenizer::merges, R"(["a a a"])", kFormat, "model.merges[0]"},
    {"MergeListOfOne", &SmallTokenizer::merges, R"([["a"]])", kFormat, "model.merges[0]"},
    {"MergeListOfNumbers", &SmallTokenizer::merges, R"([[1,2]])", kFormat, "model.merges[0]"},
    {"MergeNumber", &SmallTokenizer::merges, "[7]", kFormat, "model.merges[0]"},
    {"MergeOfUnknownLeft", &SmallTokenizer::merges, R"([["ab","a"]])", kFormat, R"(names "ab")"},
    {"MergeOfUnknownRight", &SmallTokenizer::merges, R"(["a ab"])", kFormat, R"(names "ab")"},
    {"MergeToUnknown", &SmallTokenizer::merges, R"(["a b"])", kFormat, R"(joins to "ab")"},
    {"ModelOptionUnknown", &SmallTokenizer::options, R"("speed":1,)", kUnsupported, R"("speed")"},
    {"ModelDropout", &SmallTokenizer::options, R"("dropout":0.1,)", kUnsupported, "model.dropout"},
    {"ModelDropoutText", &SmallTokenizer::options, R"("dropout":"0.1",)", kFormat, "model.dropout"},
    {"ModelPrefix", &SmallTokenizer::options, R"("continuing_subword_prefix":"##",)", kUnsupported, "##"},
    {"ModelSuffix", &SmallTokenizer::options, R"("end_of_word_suffix":"</w>",)", kUnsupported, "</w>"},
    {"ModelIgnoreMergesText", &SmallTokenizer::options, R"("ignore_merges":"yes",)", kFormat, "model.ignore_merges"},
    {"AddedNotAList", &SmallTokenizer::added, "{}", kFormat, "added_tokens is an object"},
    {"AddedWithoutId", &SmallTokenizer::added, R"([{"content":"<e>"}])", kFormat, R"(added_tokens[0] has no "id")"},
    {"AddedIdHuge", &SmallTokenizer::added, R"([{"content":"<e>","id":1000000000000}])", kFormat, "less than"},
    {"AddedIdLeavesAGap", &SmallTokenizer::added,
     R"([{"id":300,"content":"<e>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}])",
     kFormat, "expected the id 258"},
    {"AddedIdTaken", &SmallTokenizer::added,
     R"([{"id":7,"content":"<e>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}])",
     kFormat, "expected the id 258"},
    {"AddedWithAnotherIdThanTheVocabulary", &SmallTokenizer::added,
     R"([{"id":258,"content":"aa","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}])",
     kFormat, "expected the id 256"},
    {"AddedEmpty", &SmallTokenizer::added,
     R"([{"id":258,"content":"","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}])",
     kFormat, "empty"},
    {"NormalizerUnknown", &SmallTokenizer::normalizer, R"({"type":"Shorten"})", kUnsupported, "Shorten"},
    {"NormalizerInSequenceUnknown", &SmallTokenizer::normalizer,
     R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Shorten"}]})", kUnsupported,
     "normalizer.normalizers[1] is Shorten"},
    {"NormalizerNotAnObject", &SmallTokenizer::normalizer, R"("NFC")", kFormat, "normalizer is a string"},
    {"NormalizerWithoutType", &SmallTokenizer::normalizer, "{}", kFormat, R"(normalizer has no "type")"},
    {"NormalizerOption", &SmallTokenizer::normalizer, R"({"type":"NFC","strict":true})", kUnsupported, "strict"},
    {"PreTokenizerNull", &SmallTokenizer::pre_tokenizer, "null", kUnsupported, "pre_tokenizer"},
    {"PreTokenizerUnknown", &SmallTokenizer::pre_tokenizer, R"({"type":"UnicodeScripts"})", kUnsupported,
     "UnicodeScripts"},
    {"PreTokenizerWithoutBytes", &SmallTokenizer::pre_tokenizer, R"({"type":"Digits","individual_digits":true})",
     kUnsupported, "ByteLevel"},
    {"PreTokenizerAfterBytes", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false},{"type":"Digits"}]})",
     kUnsupported, "Digits after ByteLevel"},
    {"SplitBehaviorUnknown", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Split","pattern":{"String":"a"},"behavior":"Shuffled"})", kFormat, "Shuffled"},
    {"SplitPatternEmpty", &SmallTokenizer::pre_tokenizer, R"({"type":"Split","pattern":{},"behavior":"Isolated"})",
     kFormat, "String"},
    {"RegexBroken", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated"})", kFormat, "(a"},
    {"RegexWord", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Split","pattern":{"Regex":"\\w+"},"behavior":"Isolated"})", kUnsupported, "\\w"},
    {"RegexIntersection", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Split","pattern":{"Regex":"[a-z&&b]"},"behavior":"Isolated"})", kUnsupported, "&&"},
    {"RegexProperty", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Split","pattern":{"Regex":"\\p{Klingon}"},"behavior":"Isolated"})", kUnsupported, "property"},
    {"RegexBackreference", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Split","pattern":{"Regex":"(a)\\1"},"behavior":"Isolated"})", kUnsupported, "\\1"},
    {"RegexClassOpen", &SmallTokenizer::pre_tokenizer,
     R"({"type":"Split","pattern":{"Regex":"[a"},"behavior":"Isolated"})", kFormat, "[a"},
    {"PostProcessorUnknown", &SmallTokenizer::post_processor, R"({"type":"Shorten"})", kUnsupported, "Shorten"},
    {"TemplateOfUnknownToken", &SmallTokenizer::post_processor,
     R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}],"special_tokens":{}})",
     kFormat, "<s>"},
    {"TemplateOfSecondSequence", &SmallTokenizer::post_processor,
     R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"B","type_id":0}}],"special_tokens":{}})", kFormat,
     "\"B\""},
    {"TemplateIdHuge", &SmallTokenizer::post_processor,
     R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}}],)"
     R"("special_tokens":{"<s>":{"id":"<s>","ids":[4294967295],"tokens":["<s>"]}}})",
     kFormat, "less than"},
    {"DecoderNull", &SmallTokenizer::decoder, "null", kUnsupported, "decoder"},
    {"DecoderUnknown", &SmallTokenizer::decoder, R"({"type":"WordPiece"})", kUnsupported, "WordPiece"},
    {"DecoderFuseFirst", &SmallTokenizer::decoder,
     R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteLevel"}]})", kUnsupported, "Fuse"},
    {"SectionUnknown", &SmallTokenizer::rest, R"("extra":1,)", kUnsupported, "extra"},
    {"TruncationStrategy", &SmallTokenizer::rest,
     R"("truncation":{"max_length":8,"strategy":"OnlySecond","stride":0,"direction":"Right"},)", kUnsupported,
     "OnlySecond"},
    {"TruncationLengthNegative", &SmallTokenizer::rest,
     R"("truncation":{"max_length":-8,"strategy":"OnlyFirst","stride":0,"direction":"Right"},)", kFormat,
     "truncation.max_length"},
};

class BrokenTokenizer : public testing::TestWithParam<Broken> {};

TEST_P(BrokenTokenizer, IsRefused) { expect_broken(GetParam().code, GetParam().file().json(), GetParam().message); }

INSTANTIATE_TEST_SUITE_P(TokenizerFile, BrokenTokenizer, testing::ValuesIn(kBroken),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TokenizerFile, IsAcceptedWhenItIsWhole) { EXPECT_EQ(SmallTokenizer{}.tokenizer().vocab_size(), 259U); }

TEST(TokenizerFile, IsRefusedWhenItIsNotTheRightJson) {
  for (const char* json : {"", " ", "{", "[", "nul", "{\"model\"", "\xEF\xBB\xBF", "{\"a\":1}}", "{\"a\":\"\xff\"}",
                           "{\"a\":\"\\ud800\"}", "{'a':1}"}) {
    expect_broken(kFormat, json, "not JSON");
  }
  expect_broken(kFormat, "[]", "expected an object");
  expect_broken(kFormat, "3", "expected an object");
  expect_broken(kFormat, "{}", "has no \"model\"");
  expect_broken(kFormat, R"({"model":{}})", "has no \"type\"");
  expect_broken(kUnsupported, R"({"model":{"type":"WordLevel"}})", "WordLevel");
  expect_broken(kUnsupported, R"({"version":"2.0","model":{}})", "2.0");
  expect_broken(kFormat, std::string(100000, '['), "not JSON");
  std::string deep;
  for (int i = 0; i < 600; ++i) deep += R"({"type":"Sequence","normalizers":[)";
  expect_broken(kFormat, R"({"normalizer":)" + deep, "not JSON");
}

TEST(TokenizerFile, IsRefusedWhereverItIsCutOff) { test::expect_broken_wherever_cut(SmallTokenizer{}.json()); }

TEST(TokenizerFile, SurvivesEveryChangedByte) {
  test::expect_survives_changed_bytes(SmallTokenizer{}.json(), "\"0},\xff\\", "aaaa <e> \u00e9");
}

TEST(TokenizerFile, IsReadFromDisk) {
  const test::TempDir folder;
  for (const auto& path : {folder / "missing.json", folder.path()}) {
    test::expect_error(ErrorCode::io, path.string(), [&] { Tokenizer::from_file(path); });
  }
  const auto path = folder / "tokenizer.json";
  test::write_file(path, SmallTokenizer{}.json());
  EXPECT_EQ(Tokenizer::from_file(path).encode_ids("aaaa<e>"), (std::vector<TokenId>{257, 258}));
}

TEST(TokenizerFile, WithAPatternThatExplodesIsAnErrorNotAHang) {
  SmallTokenizer small;
  small.pre_tokenizer =
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?:a+)+(?:a+)+$|x"},)"
      R"("behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false}]})";
  const Tokenizer tokenizer = small.tokenizer();
  EXPECT_EQ(tokenizer.encode_ids("aaaa"), (std::vector<TokenId>{257}));
  try {
    tokenizer.encode_ids(std::string(64, 'a') + "b");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
  }
}

TEST(TokenizerFile, MayUseWhatIsCommonInPatterns) {
  // Each from a pattern in use; split "Ab12  c" and look at the pieces.
  const auto pieces = [](const std::string& regex, const std::string& text) {
    SmallTokenizer small;
    small.pre_tokenizer =
        R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":")" + regex +
        R"("},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":true,"use_regex":false}]})";
    // Every piece gets a space in front, so the spaces count them.
    std::string decoded = small.tokenizer().decode(small.tokenizer().encode_ids(text));
    return decoded;
  };
  EXPECT_EQ(pieces(R"(\\p{Lu}\\p{Ll}*|\\d{1,2})", "AbCd123"), " Ab Cd 12 3");
  EXPECT_EQ(pieces(R"([\\p{Han}]+)", "a\u4e00\u4e8cb"), " a \u4e00\u4e8c b");
  EXPECT_EQ(pieces(R"([^\\S\\n]x)", "a\txb"), " a \tx b");
  EXPECT_EQ(pieces(R"((?i)b)", "aBa"), " a B a");
  EXPECT_EQ(pieces(R"(\\u4e00|\\x{4e8c}|\\x41)", "\u4e00a\u4e8cA"), " \u4e00 a \u4e8c A");
  EXPECT_EQ(pieces(R"(a{,2}b)", "xaab"), " x aab");
  EXPECT_EQ(pieces(R"({a)", "x{a"), " x {a");
  EXPECT_EQ(pieces(R"((?<=x)a++(?!b))", "xaac"), " x aa c");
}

}  // namespace
}  // namespace wick
