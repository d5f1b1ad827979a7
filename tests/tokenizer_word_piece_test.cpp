// WordPiece in the small, and what its files can get wrong. That it agrees with the reference is in tokenizer_test.cpp.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "broken_tokenizer.h"
#include "small_word_piece.h"
#include "wick/error.h"

namespace wick {
namespace {

using Ids = std::vector<TokenId>;

TEST(WordPiece, TakesTheLongestTokenFirst) {
  const Tokenizer tokenizer = SmallWordPiece{}.tokenizer();
  EXPECT_EQ(tokenizer.encode_ids("Un\u00e4ffable."), (Ids{2, 4, 5, 6, 9, 3}));
  EXPECT_EQ(tokenizer.encode_ids("aaa aa", false), (Ids{13, 8, 13}));
  EXPECT_EQ(tokenizer.encode_ids("una\u4e00\u4e00[CLS]##a", false), (Ids{4, 8, 12, 12, 2, 11, 11, 7}));
  EXPECT_EQ(tokenizer.encode_ids("", true), (Ids{2, 3}));
}

TEST(WordPiece, CutsAWordOnlyIfAllOfItIsKnown) {
  const Tokenizer tokenizer = SmallWordPiece{}.tokenizer();
  EXPECT_EQ(tokenizer.encode_ids("unx a", false), (Ids{1, 7}));
  EXPECT_EQ(tokenizer.encode_ids("aaaaaaaaaa", false).size(), 9U);
  EXPECT_EQ(tokenizer.encode_ids("aaaaaaaaaaa", false), Ids{1});
  // The limit counts characters of the text after its normalization.
  EXPECT_EQ(tokenizer.encode_ids("\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4", false).size(), 9U);
}

TEST(WordPiece, ReadsATokenThatBeginsWithThePrefixAtTheStartOfAWordToo) {
  SmallWordPiece small;
  small.pre_tokenizer = R"({"type":"WhitespaceSplit"})";
  EXPECT_EQ(small.tokenizer().encode_ids("##a ##", false), (Ids{8, 10}));
  small.pre_tokenizer = "null";
  EXPECT_EQ(small.tokenizer().encode_ids("##a ##", false), Ids{1});
}

// What tokenizers 0.23 gives: white space at either end of a token, and the character that byte-level tokens have for a
// space, is no part of its offsets.
TEST(WordPiece, TrimsOffsets) {
  using Offsets = std::vector<std::pair<std::size_t, std::size_t>>;
  SmallWordPiece small;
  small.normalizer = small.pre_tokenizer = "null";
  small.vocab = R"({"[UNK]":0,"a":1,"[CLS]":2,"[SEP]":3," a":4,"\u0120a":5,"##\u0120":6,"## \u3000":7," ":8,"##a ":9})";
  const auto offsets = [&](const char* prefix_space, const char* text) {
    small.post_processor = std::string(R"({"type":"RobertaProcessing","sep":["[SEP]",3],"cls":["[CLS]",2],)") +
                           R"("trim_offsets":true,"add_prefix_space":)" + prefix_space + "}";
    return small.tokenizer().encode(text).offsets;
  };
  EXPECT_EQ(offsets("true", " a"), (Offsets{{0, 0}, {0, 2}, {0, 0}}));
  EXPECT_EQ(offsets("false", " a"), (Offsets{{0, 0}, {1, 2}, {0, 0}}));
  EXPECT_EQ(offsets("true", " "), (Offsets{{0, 0}, {0, 0}, {0, 0}}));
  EXPECT_EQ(offsets("false", " "), (Offsets{{0, 0}, {1, 1}, {0, 0}}));
  EXPECT_EQ(offsets("false", "\u0120a\u0120"), (Offsets{{0, 0}, {1, 2}, {2, 2}, {0, 0}}));
  EXPECT_EQ(offsets("false", "a \u3000"), (Offsets{{0, 0}, {0, 1}, {1, 1}, {0, 0}}));
  EXPECT_EQ(offsets("false", "\u0120aa "), (Offsets{{0, 0}, {1, 2}, {2, 3}, {0, 0}}));
  EXPECT_EQ(offsets("false", "b "), (Offsets{{0, 0}, {0, 2}, {0, 0}}));  // the unknown token has no white space
  EXPECT_EQ(offsets("true", " [CLS] a"), (Offsets{{0, 0}, {0, 0}, {1, 6}, {7, 8}, {0, 0}}));
}

TEST(WordPiece, KnowsItsTokens) {
  const Tokenizer tokenizer = SmallWordPiece{}.tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 14U);
  EXPECT_EQ(tokenizer.token_to_id("##a"), 8);
  EXPECT_EQ(tokenizer.token_to_id("##"), 10);
  EXPECT_EQ(tokenizer.token_to_id("able"), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(6), "##able");
  EXPECT_EQ(tokenizer.id_to_token(10), "##");
  EXPECT_EQ(tokenizer.id_to_token(14), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(-1), std::nullopt);
}

TEST(WordPiece, DecodesToWords) {
  SmallWordPiece small;
  const Ids ids = {2, 4, 5, 6, 99, -1, 9, 7, 8, 3};
  EXPECT_EQ(small.tokenizer().decode(ids), "[CLS] unaffable. aa [SEP]");
  EXPECT_EQ(small.tokenizer().decode(ids, true), "unaffable. aa [SEP]");
  EXPECT_EQ(small.tokenizer().decode(Ids{6, 6}), "##ableable");
  small.decoder = R"({"type":"WordPiece","prefix":"##","cleanup":false})";
  EXPECT_EQ(small.tokenizer().decode(ids, true), "unaffable . aa [SEP]");
  small.decoder = "null";
  EXPECT_EQ(small.tokenizer().decode(ids, true), "un ##aff ##able . a ##a [SEP]");
}

TEST(WordPiece, StreamsTheSameTextAgainAfterItsEnd) {
  DecodeStream stream(SmallWordPiece{}.tokenizer());
  for (int run = 0; run < 2; ++run) {
    std::string text;
    for (const TokenId id : {4, 5, 7}) text += stream.push(id);
    EXPECT_EQ(text + stream.finish(), "unaff a");
  }
}

TEST(WordPiece, CutsToTheNumberOfTokensAskedFor) {
  SmallWordPiece small;
  const Tokenizer tokenizer = small.tokenizer();
  const std::string text = "unaffable a . .";
  EXPECT_EQ(tokenizer.encode_ids(text, EncodeOptions{.max_tokens = 5}), (Ids{2, 4, 5, 6, 3}));
  EXPECT_EQ(tokenizer.encode_ids(text, EncodeOptions{.max_tokens = 2}), (Ids{2, 3}));
  EXPECT_EQ(tokenizer.encode_ids(text, EncodeOptions{.max_tokens = 100}), tokenizer.encode_ids(text));
  EXPECT_EQ(tokenizer.encode_ids(text, EncodeOptions{.add_special_tokens = false, .max_tokens = 0}), Ids{});
  const Encoding encoding = tokenizer.encode(text, EncodeOptions{.max_tokens = 4});
  EXPECT_EQ(encoding.ids, (Ids{2, 4, 5, 3}));
  EXPECT_EQ(encoding.offsets, (std::vector<std::pair<std::size_t, std::size_t>>{{0, 0}, {0, 2}, {2, 5}, {0, 0}}));
  try {
    tokenizer.encode(text, EncodeOptions{.max_tokens = 1});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
  }
  // In place of the file's length, at the file's end.
  small.rest = R"("truncation":{"max_length":3,"strategy":"LongestFirst","stride":0,"direction":"Left"},)";
  EXPECT_EQ(small.tokenizer().encode_ids(text), (Ids{2, 9, 3}));
  EXPECT_EQ(small.tokenizer().encode_ids(text, EncodeOptions{.max_tokens = 5}), (Ids{2, 7, 9, 9, 3}));
}

// Texts that would take hours if any step were quadratic.
TEST(WordPiece, ReadsAMebibyteOfAnything) {
  SmallWordPiece small;
  for (const char* limit : {R"("max_input_chars_per_word":100,)", R"("max_input_chars_per_word":1000000000,)"}) {
    small.max_input = limit;
    const Tokenizer tokenizer = small.tokenizer();
    for (const std::string part :
         {"a", " ", ".", "un", "\u4e00", "\u0301", "\u0301\u0327", "\u00e9", "[CLS]", "[", "\x01"}) {
      std::string text;
      while (text.size() < (std::size_t{1} << 20)) text += part;
      const Encoding encoding = tokenizer.encode(text);
      EXPECT_EQ(encoding.ids.size(), encoding.offsets.size());
      EXPECT_EQ(tokenizer.encode_ids(text), encoding.ids);
    }
  }
  EXPECT_EQ(small.tokenizer().encode_ids(std::string(1 << 20, 'a'), false).size(), (std::size_t{1} << 20) - 1);
}

TEST(WordPiece, MayHaveNoTypeInAnOldFile) {
  SmallWordPiece small;
  small.type = "";
  EXPECT_EQ(small.tokenizer().encode_ids("una", false), (Ids{4, 8}));
}

using Broken = test::BrokenTokenizer<SmallWordPiece>;

constexpr auto kFormat = ErrorCode::format;
constexpr auto kUnsupported = ErrorCode::unsupported;

const Broken kBroken[] = {
    {"UnkMissing", &SmallWordPiece::unk, "", kFormat, "unk_token"},
    {"UnkNotInTheVocabulary", &SmallWordPiece::unk, R"("unk_token":"<unk>",)", kFormat, "model.unk_token is \"<unk>\""},
    {"UnkNumber", &SmallWordPiece::unk, R"("unk_token":1,)", kFormat, "model.unk_token is a number"},
    {"PrefixMissing", &SmallWordPiece::prefix, "", kFormat, "continuing_subword_prefix"},
    {"PrefixNumber", &SmallWordPiece::prefix, R"("continuing_subword_prefix":2,)", kFormat, "a string"},
    {"MaxInputMissing", &SmallWordPiece::max_input, "", kFormat, "max_input_chars_per_word"},
    {"MaxInputNegative", &SmallWordPiece::max_input, R"("max_input_chars_per_word":-1,)", kFormat, "per_word is"},
    {"MaxInputFraction", &SmallWordPiece::max_input, R"("max_input_chars_per_word":1.5,)", kFormat, "whole number"},
    {"OptionUnknown", &SmallWordPiece::unk, R"("unk_token":"[UNK]","speed":1,)", kUnsupported, R"("speed")"},
    {"VocabList", &SmallWordPiece::vocab, R"(["[UNK]"])", kFormat, "model.vocab is a list"},
    {"VocabEmpty", &SmallWordPiece::vocab, "{}", kFormat, "[UNK]"},
    {"VocabIdNegative", &SmallWordPiece::vocab, R"({"[UNK]":-1})", kFormat, "model.vocab.[UNK] is a number"},
    {"VocabIdHuge", &SmallWordPiece::vocab, R"({"[UNK]":4294967296})", kFormat, "expected less than"},
    {"VocabIdTwice", &SmallWordPiece::vocab, R"({"[UNK]":1,"a":1})", kFormat, "the id 1 twice"},
    {"VocabTokenTwice", &SmallWordPiece::vocab, R"({"[UNK]":1,"##a":2,"##a":3})", kFormat, R"("##a" twice)"},
    {"NormalizerOptionMissing", &SmallWordPiece::normalizer, R"({"type":"BertNormalizer","clean_text":true})", kFormat,
     "lowercase"},
    {"NormalizerOptionText", &SmallWordPiece::normalizer,
     R"({"type":"BertNormalizer","clean_text":"yes","handle_chinese_chars":true,"lowercase":true})", kFormat,
     "normalizer.clean_text is a string"},
    {"NormalizerOptionUnknown", &SmallWordPiece::normalizer, R"({"type":"Lowercase","locale":"tr"})", kUnsupported,
     "locale"},
    {"PreTokenizerOfBytes", &SmallWordPiece::pre_tokenizer, R"({"type":"ByteLevel","add_prefix_space":false})",
     kUnsupported, "ByteLevel"},
    {"PreTokenizerOption", &SmallWordPiece::pre_tokenizer, R"({"type":"BertPreTokenizer","strict":true})", kUnsupported,
     "strict"},
    {"SepMissing", &SmallWordPiece::post_processor, R"({"type":"BertProcessing","cls":["[CLS]",2]})", kFormat, "sep"},
    {"SepShort", &SmallWordPiece::post_processor, R"({"type":"BertProcessing","cls":["[CLS]",2],"sep":["[SEP]"]})",
     kFormat, "post_processor.sep is not a list"},
    {"SepIdText", &SmallWordPiece::post_processor, R"({"type":"BertProcessing","cls":["[CLS]",2],"sep":["[SEP]","3"]})",
     kFormat, "post_processor.sep.1 is a string"},
    {"ClsIdHuge", &SmallWordPiece::post_processor,
     R"({"type":"BertProcessing","cls":["[CLS]",4294967295],"sep":["[SEP]",3]})", kFormat, "less than"},
    {"DecoderOfBytes", &SmallWordPiece::decoder, R"({"type":"ByteLevel"})", kUnsupported, "decoder is ByteLevel"},
    {"DecoderPrefixMissing", &SmallWordPiece::decoder, R"({"type":"WordPiece","cleanup":true})", kFormat, "prefix"},
    {"DecoderCleanupText", &SmallWordPiece::decoder, R"({"type":"WordPiece","prefix":"##","cleanup":"no"})", kFormat,
     "decoder.cleanup is a string"},
    {"TruncationShorterThanTheTemplate", &SmallWordPiece::rest,
     R"("truncation":{"max_length":1,"strategy":"LongestFirst","stride":0},)", kFormat, "max_length 1"},
};

class BrokenWordPiece : public testing::TestWithParam<Broken> {};

TEST_P(BrokenWordPiece, IsRefused) {
  test::expect_broken(GetParam().code, GetParam().file().json(), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(WordPiece, BrokenWordPiece, testing::ValuesIn(kBroken),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(WordPieceFile, IsRefusedWhereverItIsCutOff) { test::expect_broken_wherever_cut(SmallWordPiece{}.json()); }

TEST(WordPieceFile, SurvivesEveryChangedByte) {
  test::expect_survives_changed_bytes(SmallWordPiece{}.json(), "\"0},\xff\\#", "Un\u00e4ffable [CLS]\u4e00 ##a.");
}

}  // namespace
}  // namespace wick
