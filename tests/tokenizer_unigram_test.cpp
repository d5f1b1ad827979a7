// Unigram tokenizers: what their files can get wrong, and texts that would make a careless search slow.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "broken_tokenizer.h"
#include "text/token_trie.h"
#include "wick/error.h"
#include "wick/tokenizer.h"

namespace wick {
namespace {

using Ids = std::vector<TokenId>;
constexpr auto kFormat = ErrorCode::format;
constexpr auto kUnsupported = ErrorCode::unsupported;

// A Unigram tokenizer.json of which every part can be replaced.
struct SmallUnigram {
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true})";
  std::string post_processor = "null";
  std::string decoder = R"({"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true})";
  std::string vocab = R"([["<unk>",0],["\u2581",-2],["a",-3],["aa",-3.5],["\u2581a",-4],["b",-3]])";
  std::string options = R"("unk_id":0,"byte_fallback":false,)";

  std::string json() const {
    return R"({"version":"1.0","added_tokens":[],"normalizer":)" + normalizer + R"(,"pre_tokenizer":)" + pre_tokenizer +
           R"(,"post_processor":)" + post_processor + R"(,"decoder":)" + decoder + R"(,"model":{"type":"Unigram",)" +
           options + R"("vocab":)" + vocab + "}}";
  }
  Tokenizer tokenizer() const { return Tokenizer::from_json(json(), "unigram.json"); }
};

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    }
    for (std::size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? kDigits[bits >> (18 - 6 * k) & 63U] : '=';
  }
  return out;
}

std::string little_endian(std::uint32_t value) {
  std::string out;
  for (int i = 0; i < 4; ++i, value >>= 8) out += static_cast<char>(static_cast<unsigned char>(value));
  return out;
}

std::string precompiled(const std::string& charsmap) {
  return R"({"type":"Precompiled","precompiled_charsmap":")" + charsmap + "\"}";
}

// A trie of 512 units with the one entry "A" -> "b" (the replacements are "x\0b\0"): the root leads to 256, from where
// 'A' leads to 256 ^ 'A' ^ 1.
std::vector<std::uint32_t> small_trie() {
  std::vector<std::uint32_t> units(512);
  units[0] = 256U << 10;
  units[256 ^ 'A'] = 1U << 10 | 1U << 8 | 'A';
  units[256 ^ 'A' ^ 1] = 1U << 31 | 2U;
  return units;
}

std::string charsmap_of(const std::vector<std::uint32_t>& units, std::string_view replacements) {
  std::string bytes = little_endian(static_cast<std::uint32_t>(units.size() * 4));
  for (const std::uint32_t unit : units) bytes += little_endian(unit);
  return base64(bytes + std::string(replacements));
}

constexpr std::string_view kReplacements{"x\0b\0", 4};

using test::expect_broken;
using Broken = test::BrokenTokenizer<SmallUnigram>;

const Broken kBroken[] = {
    {"VocabEmpty", &SmallUnigram::vocab, "[]", kFormat, "model.vocab is empty"},
    {"VocabAnObject", &SmallUnigram::vocab, R"({"a":1})", kFormat, "expected a list"},
    {"VocabWithoutScore", &SmallUnigram::vocab, R"([["a",1],["b"]])", kFormat, "[1]"},
    {"VocabOfStrings", &SmallUnigram::vocab, R"(["a"])", kFormat, "[0]"},
    {"VocabOfThree", &SmallUnigram::vocab, R"([["a",1,2]])", kFormat, "[0]"},
    {"ScoreText", &SmallUnigram::vocab, R"([["a","1"]])", kFormat, "[0]"},
    {"ScoreNull", &SmallUnigram::vocab, R"([["a",null]])", kFormat, "[0]"},
    {"ScoreNotANumber", &SmallUnigram::vocab, R"([["a",NaN]])", kFormat, "not JSON"},
    {"ScoreInfinite", &SmallUnigram::vocab, R"([["a",1e999]])", kFormat, ""},
    {"UnkBeyondTheVocabulary", &SmallUnigram::options, R"("unk_id":6,)", kFormat, "model.unk_id is 6"},
    {"UnkNegative", &SmallUnigram::options, R"("unk_id":-1,)", kFormat, "model.unk_id"},
    {"UnkMissing", &SmallUnigram::options, "", kUnsupported, "unk_id"},
    {"OptionUnknown", &SmallUnigram::options, R"("unk_id":0,"alpha":0.1,)", kUnsupported, "alpha"},
    {"DecoderNull", &SmallUnigram::decoder, "null", kUnsupported, "no decoder"},
    {"DecoderByteLevel", &SmallUnigram::decoder,
     R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false})", kUnsupported,
     "decoder is ByteLevel"},
    {"DecoderUnknown", &SmallUnigram::decoder, R"({"type":"CTC"})", kUnsupported, "decoder is CTC"},
    {"ByteLevel", &SmallUnigram::pre_tokenizer, R"({"type":"ByteLevel","add_prefix_space":false})", kUnsupported,
     "ByteLevel"},
    {"ReplacementEmpty", &SmallUnigram::pre_tokenizer, R"({"type":"Metaspace","replacement":""})", kFormat,
     "one character"},
    {"ReplacementLong", &SmallUnigram::pre_tokenizer, R"({"type":"Metaspace","replacement":"__"})", kFormat,
     "one character"},
    {"SchemeUnknown", &SmallUnigram::pre_tokenizer, R"({"type":"Metaspace","replacement":"_","prepend_scheme":"last"})",
     kFormat, "last"},
    {"SchemeAgainstFlag", &SmallUnigram::pre_tokenizer,
     R"({"type":"Metaspace","replacement":"_","prepend_scheme":"first","add_prefix_space":false})", kFormat,
     "add_prefix_space"},
    {"RobertaOneEntry", &SmallUnigram::post_processor,
     R"({"type":"RobertaProcessing","sep":["</s>"],"cls":["<s>",0],"trim_offsets":true,"add_prefix_space":true})",
     kFormat, "post_processor.sep"},
    {"NormalizerUnknown", &SmallUnigram::normalizer, R"({"type":"Nmt"})", kUnsupported, "Nmt"},
    {"StripWithoutSides", &SmallUnigram::normalizer, R"({"type":"Strip"})", kFormat, "strip_left"},
    {"ReplaceWithoutPattern", &SmallUnigram::normalizer, R"({"type":"Replace","content":""})", kFormat, "pattern"},
    {"ReplaceRegexBroken", &SmallUnigram::normalizer, R"({"type":"Replace","pattern":{"Regex":"(a"},"content":""})",
     kFormat, "(a"},
    {"CharsmapNumber", &SmallUnigram::normalizer, R"({"type":"Precompiled","precompiled_charsmap":7})", kFormat,
     "precompiled_charsmap is a number"},
    {"CharsmapMissing", &SmallUnigram::normalizer, R"({"type":"Precompiled"})", kFormat, "precompiled_charsmap"},
};

class BrokenUnigram : public testing::TestWithParam<Broken> {};

TEST_P(BrokenUnigram, IsRefused) { expect_broken(GetParam().code, GetParam().file().json(), GetParam().message); }

INSTANTIATE_TEST_SUITE_P(TokenizerUnigram, BrokenUnigram, testing::ValuesIn(kBroken),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TokenizerUnigram, RefusesABrokenCharacterMap) {
  const auto expect = [](const std::string& charsmap, const std::string& part) {
    SmallUnigram file;
    file.normalizer = precompiled(charsmap);
    expect_broken(kFormat, file.json(), part);
  };
  for (const char* text : {"A", "AAA", "AAAAA", "AA*A", "A===", "====", "AB==", "AAB=", "AA==AAAA", "AAA ", "AA-_"}) {
    expect(text, "base64");
  }
  expect("", "0 bytes");
  expect("AAAA", "3 bytes");
  expect(base64(little_endian(0)), "trie of 0 bytes");
  expect(base64(little_endian(6) + "123456"), "trie of 6 bytes");
  expect(base64(little_endian(0xFFFFFFFC) + "1234"), "trie of 4294967292 bytes");
  expect(base64(little_endian(4) + "123"), "trie of 4 bytes");
  expect(charsmap_of(small_trie(), "\xff"), "UTF-8");
  expect(charsmap_of({0}, ""), "leads to unit 255 of 1");

  auto units = small_trie();
  units[0] = 512U << 10;
  expect(charsmap_of(units, kReplacements), "leads to unit 767 of 512");
  units = small_trie();
  units[0] |= 1U << 9;  // the offset counts blocks of 256
  expect(charsmap_of(units, kReplacements), "leads to unit");
  units = small_trie();
  units[256 ^ 'A'] = 0x1FFFFFU << 10 | 1U << 8 | 'A';
  expect(charsmap_of(units, kReplacements), "leads to unit");
  units = small_trie();
  units[256 ^ 'A' ^ 1] = 1U << 31 | 5U;
  expect(charsmap_of(units, kReplacements), "replacement at 5 of 4 bytes");
  units[256 ^ 'A' ^ 1] = 1U << 31 | 1U;
  expect(charsmap_of(units, "\u00e9"), "replacement at 1 of 2 bytes");
}

TEST(TokenizerUnigram, AppliesACharacterMap) {
  SmallUnigram file;
  file.normalizer = precompiled(charsmap_of(small_trie(), kReplacements));
  EXPECT_EQ(file.tokenizer().encode_ids("AaA"), (Ids{1, 5, 2, 5}));
  // A trie may lead back into itself.
  auto units = small_trie();
  units[256 ^ 'A'] = static_cast<std::uint32_t>('A') << 10 | 'A';
  file.normalizer = precompiled(charsmap_of(units, kReplacements));
  EXPECT_EQ(file.tokenizer().encode_ids("aAAAAAAAAa"), (Ids{4, 0, 2}));
}

TEST(TokenizerUnigram, SurvivesEveryChangedUnit) {
  std::mt19937 random(3);
  for (int run = 0; run < 3000; ++run) {
    auto units = small_trie();
    std::string replacements(kReplacements);
    for (std::uint32_t k = 1 + random() % 4; k > 0; --k) {
      const std::array<std::size_t, 3> used{0, 256 ^ 'A', 256 ^ 'A' ^ 1};
      const std::size_t at = random() % 2 == 0 ? used[random() % 3] : random() % units.size();
      units[at] = random() % 2 == 0 ? static_cast<std::uint32_t>(random()) : units[at] ^ 1U << random() % 32;
    }
    SmallUnigram file;
    file.normalizer = precompiled(charsmap_of(units, replacements));
    try {
      const Tokenizer tokenizer = file.tokenizer();
      for (const char* text : {"AaA", "\u00e9A\u0301", "AAAAAAA", "\x01\x02\r\n\x7f \U0001F600\u200d"}) {
        tokenizer.encode_ids(text);
        tokenizer.decode(tokenizer.encode(text).ids);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), kFormat) << error.what();
    }
  }
}

TEST(TokenizerUnigram, SurvivesEveryChangedByte) {
  SmallUnigram file;
  file.normalizer =
      R"({"type":"Sequence","normalizers":[{"type":"Strip","strip_left":true,"strip_right":true},)"
      R"({"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "},{"type":"Prepend","prepend":"b"}]})";
  test::expect_survives_changed_bytes(file.json(), "\"0},\xff\\-", "  aaaa  b\u00e9 ");
}

TEST(TokenizerUnigram, BreaksTiesAndFusesTheUnknown) {
  SmallUnigram file;
  EXPECT_EQ(file.tokenizer().encode_ids("aaa"), (Ids{4, 3}));  // -7.5; a aa a is -8.5 and more
  EXPECT_EQ(file.tokenizer().encode_ids("xyz ?a"), (Ids{1, 0, 1, 0, 2}));
  EXPECT_EQ(file.tokenizer().decode(Ids{4, 4, 1, 2}), "a a a");
  EXPECT_EQ(file.tokenizer().decode(Ids{1, 1, 99}), " ");
  // Of [ab][c] and [a][bc], with equal sums, the first found for the end: the longer last token.
  file.vocab = R"([["<unk>",0],["\u2581",0],["a",-1],["bc",-1],["ab",-1],["c",-1]])";
  EXPECT_EQ(file.tokenizer().encode_ids("abc"), (Ids{1, 2, 3}));
  // Of equal tokens the last one counts; one that is written <unk> joins the unknown.
  file.vocab = R"([["<unk>",0],["\u2581",0],["a",-1],["a",-1],["",5]])";
  EXPECT_EQ(file.tokenizer().encode_ids("a<unk>x"), (Ids{1, 3, 0}));
  file.options = R"("unk_id":0,"byte_fallback":true,)";
  file.vocab = R"([["<unk>",0],["\u2581",0],["<0xC3>",-1],["<0xA9>",-1]])";
  EXPECT_EQ(file.tokenizer().encode_ids("\u00e9"), (Ids{1, 2, 3}));
  EXPECT_EQ(file.tokenizer().encode_ids("\u00e8"), (Ids{1, 0}));
}

TEST(TokenTrie, FindsWhatItWasGiven) {
  std::mt19937 random(4);
  std::vector<std::string> strings;
  for (int i = 0; i < 20000; ++i) {
    std::string text(1 + random() % 6, ' ');
    const std::uint32_t alphabet = random() % 2 == 0 ? 4 : 256;
    for (char& c : text) c = static_cast<char>(static_cast<unsigned char>(random() % alphabet));
    strings.push_back(std::move(text));
  }
  const text::TokenTrie trie(std::vector<std::string_view>(strings.begin(), strings.end()));
  for (const std::string& text : strings) {
    const TokenId id = trie.find(text);
    ASSERT_GE(id, 0);
    EXPECT_EQ(strings[static_cast<std::size_t>(id)], text);
    std::size_t last = 0;
    trie.for_each_prefix(text + "tail", [&](std::size_t length, TokenId found) {
      EXPECT_GT(length, last);
      EXPECT_EQ(strings[static_cast<std::size_t>(found)], (text + "tail").substr(0, length));
      last = length;
    });
    EXPECT_GE(last, text.size());
  }
  // Bytes that lead from the root back to its own unit.
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    const std::array<std::string_view, 1> only{one};
    const text::TokenTrie small(only);
    for (unsigned other = 0; other < 256; ++other) {
      EXPECT_EQ(small.find(std::string(2, static_cast<char>(other))), -1);
      EXPECT_EQ(small.find(std::string(1, static_cast<char>(other))) == 0, other == byte);
    }
  }
}

TEST(TokenizerUnigram, TakesLinearTime) {
  SmallUnigram file;
  file.pre_tokenizer = R"({"type":"Metaspace","replacement":"\u2581","prepend_scheme":"never","split":false})";
  file.normalizer = R"({"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "})";
  const Tokenizer plain = file.tokenizer();
  const Tokenizer mapped = Tokenizer::from_file(std::string(WICK_TEST_DATA) + "/tokenizer/unigram_spm.json");
  constexpr std::size_t kSize = std::size_t{1} << 20;
  const auto repeated = [](std::string_view part) {
    std::string text;
    while (text.size() < kSize) text += part;
    return text;
  };
  for (const char* part : {"a", " ", "\u4e00", "\U0001F600", "\u0301", "e\u0301", "\U0001F468\u200d", "\U0001F1E9",
                           "\r\n", "\u1100", "<mask>"}) {
    for (const Tokenizer* tokenizer : {&plain, &mapped}) {
      const std::string text = repeated(part);
      const auto start = std::chrono::steady_clock::now();
      const Encoding encoding = tokenizer->encode(text);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      EXPECT_EQ(encoding.ids.size(), encoding.offsets.size());
      // Quadratic would be hours; a sanitizer on a busy machine is seconds.
      EXPECT_LT(seconds, 60) << part;
    }
  }
  EXPECT_EQ(plain.encode_ids(std::string(kSize, 'a')), Ids(kSize / 2, 3));
}

}  // namespace
}  // namespace wick
