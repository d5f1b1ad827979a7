// BPE over characters (sentencepiece's): what its files can get wrong, decoding token by token, and long texts.
#include <gtest/gtest.h>
#include <simdjson.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "broken_tokenizer.h"
#include "text/bpe_merge.h"
#include "wick/error.h"
#include "wick/tokenizer.h"

namespace wick {
namespace {

using Ids = std::vector<TokenId>;
constexpr auto kFormat = ErrorCode::format;
constexpr auto kUnsupported = ErrorCode::unsupported;

std::string sequence(const std::string& parts) { return R"({"type":"Sequence","decoders":[)" + parts + "]}"; }

const std::string kReplace = R"({"type":"Replace","pattern":{"String":"\u2581"},"content":" "})";
const std::string kFallback = R"({"type":"ByteFallback"})";
const std::string kFuse = R"({"type":"Fuse"})";
const std::string kStrip = R"({"type":"Strip","content":" ","start":1,"stop":0})";

// A BPE tokenizer.json over characters of which every part can be replaced.
struct SmallBpe {
  std::string normalizer = R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},)"
                           R"({"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]})";
  std::string pre_tokenizer = "null";
  std::string decoder = sequence(kReplace + "," + kFallback + "," + kFuse + "," + kStrip);
  std::string options = R"("unk_token":"<unk>","byte_fallback":true,"fuse_unk":true,)";
  // 8 to 11 are the bytes of U+1F600, 12 and 13 of U+00E9.
  std::string vocab = R"({"<unk>":0,"\u2581":1,"a":2,"b":3,"aa":4,"\u2581a":5,"aaaa":6,"<0x0A>":7,"<0xF0>":8,)"
                      R"("<0x9F>":9,"<0x98>":10,"<0x80>":11,"<0xC3>":12,"<0xA9>":13})";
  std::string merges = R"(["a a",["\u2581","a"],["aa","aa"]])";

  std::string json() const {
    return R"({"version":"1.0","added_tokens":[],"normalizer":)" + normalizer + R"(,"pre_tokenizer":)" + pre_tokenizer +
           R"(,"post_processor":null,"decoder":)" + decoder + R"(,"model":{"type":"BPE",)" + options + R"("vocab":)" +
           vocab + R"(,"merges":)" + merges + "}}";
  }
  Tokenizer tokenizer() const { return Tokenizer::from_json(json(), "bpe.json"); }
};

using test::expect_broken;
using Broken = test::BrokenTokenizer<SmallBpe>;

const Broken kBroken[] = {
    {"UnkNotInVocabulary", &SmallBpe::options, R"("unk_token":"<u>",)", kFormat, "model.unk_token is \"<u>\""},
    {"FallbackText", &SmallBpe::options, R"("byte_fallback":"yes",)", kFormat, "model.byte_fallback"},
    {"Dropout", &SmallBpe::options, R"("dropout":0.5,)", kUnsupported, "model.dropout"},
    {"Prefix", &SmallBpe::options, R"("continuing_subword_prefix":"##",)", kUnsupported, "##"},
    {"Suffix", &SmallBpe::options, R"("end_of_word_suffix":"</w>",)", kUnsupported, "</w>"},
    {"MergeUnknown", &SmallBpe::merges, R"(["a c"])", kFormat, R"(names "c")"},
    {"MergeToUnknown", &SmallBpe::merges, R"([["a","b"]])", kFormat, R"(joins to "ab")"},
    {"MergeOfNothing", &SmallBpe::merges, R"(["a a"," a"])", kFormat, "model.merges[1] has an empty token"},
    {"DecoderMissing", &SmallBpe::decoder, "null", kUnsupported, "no decoder"},
    {"DecoderByteLevel", &SmallBpe::decoder, R"({"type":"ByteLevel"})", kUnsupported, "decoder is ByteLevel"},
    {"DecoderUnknown", &SmallBpe::decoder, R"({"type":"BPEDecoder","suffix":"</w>"})", kUnsupported, "BPEDecoder"},
    {"StripWithoutFuse", &SmallBpe::decoder,
     R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Strip","content":" ","start":1,"stop":0}]})",
     kUnsupported, "decoder.decoders[1] is Strip"},
    {"ReplaceAfterFallback", &SmallBpe::decoder,
     R"({"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Replace","pattern":{"String":"a"},"content":""}]})",
     kUnsupported, "decoder.decoders[1] is Replace"},
    {"FallbackAfterFuse", &SmallBpe::decoder,
     R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]})", kUnsupported, "is ByteFallback"},
    {"StripAtTheEnd", &SmallBpe::decoder,
     R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":1}]})",
     kUnsupported, "decoder.decoders[1].stop is 1"},
    {"StripOfAWord", &SmallBpe::decoder,
     R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":"ab","start":1,"stop":0}]})", kFormat,
     "one character"},
    {"StripNegative", &SmallBpe::decoder,
     R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":"a","start":-1,"stop":0}]})", kFormat,
     "start"},
};

class BrokenBpe : public testing::TestWithParam<Broken> {};

TEST_P(BrokenBpe, IsRefused) { expect_broken(GetParam().code, GetParam().file().json(), GetParam().message); }

INSTANTIATE_TEST_SUITE_P(TokenizerCharacterBpe, BrokenBpe, testing::ValuesIn(kBroken),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TokenizerCharacterBpe, IsRefusedWhereverItIsCutOff) { test::expect_broken_wherever_cut(SmallBpe{}.json()); }

TEST(TokenizerCharacterBpe, SurvivesEveryChangedByte) {
  test::expect_survives_changed_bytes(SmallBpe{}.json(), "\"0},\xff\\", "aaaa b \u00e9\u00e8");
}

TEST(TokenizerCharacterBpe, SpellsWhatItDoesNotKnow) {
  SmallBpe file;
  // U+00E8 has no token for its second byte.
  EXPECT_EQ(file.tokenizer().encode_ids("aaaa\n\u00e9\u00e8\u00e8b"), (Ids{1, 6, 7, 12, 13, 0, 3}));
  const auto offsets = file.tokenizer().encode("aaaa\n\u00e9\u00e8\u00e8b").offsets;
  EXPECT_EQ(offsets,
            (std::vector<std::pair<std::size_t, std::size_t>>{{0, 1}, {0, 4}, {4, 5}, {5, 6}, {5, 6}, {6, 8}, {8, 9}}));
  file.options = R"("unk_token":"<unk>","byte_fallback":true,"fuse_unk":false,)";
  EXPECT_EQ(file.tokenizer().encode_ids("\u00e8\u00e8b"), (Ids{1, 0, 0, 3}));
  file.options = R"("byte_fallback":true,)";
  EXPECT_EQ(file.tokenizer().encode_ids("\u00e8b\n"), (Ids{1, 3, 7}));
  file.options = R"("unk_token":"<unk>",)";
  EXPECT_EQ(file.tokenizer().encode_ids("\u00e9b\n"), (Ids{1, 0, 3, 0}));
  // What the merges never reach.
  file.options = R"("unk_token":"<unk>","ignore_merges":true,)";
  file.merges = "[]";
  EXPECT_EQ(file.tokenizer().encode_ids("a"), (Ids{5}));
  EXPECT_EQ(file.tokenizer().encode_ids("aa"), (Ids{1, 2, 2}));
}

TEST(TokenizerCharacterBpe, KnowsItsTokens) {
  const Tokenizer tokenizer = SmallBpe{}.tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 14U);
  EXPECT_EQ(tokenizer.token_to_id("\u2581a"), 5);
  EXPECT_EQ(tokenizer.token_to_id("<0xF0>"), 8);
  EXPECT_EQ(tokenizer.token_to_id(" a"), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(1), "\u2581");
  EXPECT_EQ(tokenizer.id_to_token(14), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(-1), std::nullopt);
}

std::vector<std::string> pushed(const Tokenizer& tokenizer, const Ids& ids) {
  std::vector<std::string> out;
  DecodeStream stream(tokenizer);
  for (const TokenId id : ids) out.push_back(stream.push(id));
  out.push_back(stream.finish());
  return out;
}

TEST(TokenizerCharacterBpe, GivesCharactersAsSoonAsTheyAreWhole) {
  using Texts = std::vector<std::string>;
  const std::string bad = "\uFFFD";
  const Tokenizer tokenizer = SmallBpe{}.tokenizer();
  EXPECT_EQ(pushed(tokenizer, {5, 7, 8, 9, 10, 11, 12, 13, 5}),
            (Texts{"a", "\n", "", "", "", "\U0001F600", "", "\u00e9", " a", ""}));
  // One space goes, wherever the first text comes from, and at the beginning alone.
  EXPECT_EQ(pushed(tokenizer, {1, 99, 1, 5}), (Texts{"", "", " ", " a", ""}));
  EXPECT_EQ(pushed(tokenizer, {7, 5}), (Texts{"\n", " a", ""}));
  // What is cut off, by a token or by the end, is one U+FFFD for each byte.
  EXPECT_EQ(pushed(tokenizer, {8, 9, 10, 2}), (Texts{"", "", "", bad + bad + bad + "a", ""}));
  EXPECT_EQ(pushed(tokenizer, {8, 9, 10}), (Texts{"", "", "", bad + bad + bad}));
  EXPECT_EQ(tokenizer.decode(Ids{8, 9, 10, 2}), bad + bad + bad + "a");
  // In decode() also for the whole character before, which a stream has given away.
  EXPECT_EQ(pushed(tokenizer, {12, 13, 9, 12, 13, 2, 12, 13}),
            (Texts{"", "\u00e9", bad, bad, bad, "a", "", "\u00e9", ""}));
  EXPECT_EQ(tokenizer.decode(Ids{12, 13, 9, 12, 13, 2, 12, 13}), bad + bad + bad + bad + bad + "a\u00e9");
  // A stream is as new after finish().
  DecodeStream stream(tokenizer);
  for (int run = 0; run < 2; ++run) {
    EXPECT_EQ(stream.push(5), "a");
    EXPECT_EQ(stream.push(12), "");
    EXPECT_EQ(stream.finish(), bad);
  }
}

TEST(TokenizerCharacterBpe, GoesOnBehindATextThatIsThere) {
  const Tokenizer tokenizer = SmallBpe{}.tokenizer();
  DecodeStream stream(tokenizer);
  stream.follow(Ids{5, 3, 12});
  EXPECT_EQ(stream.push(13), "\u00e9");
  EXPECT_EQ(stream.push(5), " a");
  EXPECT_EQ(stream.finish(), "");
  stream.follow(Ids{0});  // text, too
  EXPECT_EQ(stream.push(5), " a");
}

// The ids of text[0, cut) and of the rest as its continuation.
Ids in_two_parts(const Tokenizer& tokenizer, const std::string& text, std::size_t cut) {
  Ids ids = tokenizer.encode_ids(text.substr(0, cut));
  const Ids rest = tokenizer.encode_ids(text.substr(cut), {.add_special_tokens = false, .continues = true});
  ids.insert(ids.end(), rest.begin(), rest.end());
  return ids;
}

TEST(TokenizerCharacterBpe, PutsNoSpaceBeforeATextThatContinuesAnother) {
  // Words are tokenized by themselves, so what the reference makes of a text is what is made of its parts.
  const std::string folder = std::string(WICK_TEST_DATA) + "/tokenizer/";
  std::size_t cuts = 0;
  for (const char* name : {"spm", "spm_first", "spm_gemma"}) {
    const Tokenizer tokenizer = Tokenizer::from_file(folder + name + ".json");
    simdjson::dom::parser parser;
    for (const simdjson::dom::element item : parser.load(folder + "spm_texts.json").get_array()) {
      const std::string text(item.get_string().value());
      for (std::size_t i = 1; i + 1 < text.size(); ++i) {
        const auto is_letter = [&](std::size_t at) { return text[at] >= 'a' && text[at] <= 'z'; };
        if (text[i] != ' ' || !is_letter(i - 1) || !is_letter(i + 1)) continue;
        EXPECT_EQ(in_two_parts(tokenizer, text, i), tokenizer.encode_ids(text)) << name << ": " << text << " at " << i;
        ++cuts;
      }
    }
  }
  EXPECT_GT(cuts, 300U);
  const Tokenizer tokenizer = SmallBpe{}.tokenizer();
  EXPECT_EQ(in_two_parts(tokenizer, "baa", 1), (Ids{1, 3, 4}));
  const auto offsets = tokenizer.encode(" aa", {.add_special_tokens = false, .continues = true}).offsets;
  EXPECT_EQ(offsets, (std::vector<std::pair<std::size_t, std::size_t>>{{0, 1}, {1, 3}}));
}

TEST(TokenizerCharacterBpe, DecodesAsTheReferenceDoes) {
  simdjson::dom::parser parser;
  const std::string folder = std::string(WICK_TEST_DATA) + "/tokenizer/";
  std::map<std::string, Tokenizer> tokenizers;
  std::size_t count = 0;
  for (const simdjson::dom::element item : parser.load(folder + "spm_decodes.json").get_array()) {
    const std::string name(item["file"].get_string().value());
    if (!tokenizers.contains(name)) tokenizers.emplace(name, Tokenizer::from_file(folder + name + ".json"));
    const Tokenizer& tokenizer = tokenizers.at(name);
    Ids ids;
    for (const auto id : item["ids"].get_array()) ids.push_back(static_cast<TokenId>(id.get_int64().value()));
    for (const bool skip : {false, true}) {
      const std::string expected(item[skip ? "decoded_skip" : "decoded"].get_string().value());
      EXPECT_EQ(tokenizer.decode(ids, skip), expected) << simdjson::to_string(item);
      if (expected.find("\uFFFD") != std::string::npos) continue;
      DecodeStream stream(tokenizer, skip);
      std::string text;
      for (const TokenId id : ids) text += stream.push(id);
      EXPECT_EQ(text + stream.finish(), expected) << simdjson::to_string(item);
    }
    ++count;
  }
  EXPECT_EQ(count, 240U);
}

TEST(TokenizerCharacterBpe, EncodesAMebibyteAsOneWord) {
  const std::size_t size = std::size_t{1} << 20;
  const Tokenizer tokenizer = SmallBpe{}.tokenizer();
  Ids expected(size / 4 + 1, 6);
  expected[0] = 1;
  EXPECT_EQ(tokenizer.encode_ids(std::string(size, 'a')), expected);
  EXPECT_EQ(tokenizer.encode(std::string(size, '\n')).ids.size(), size + 1);
  std::string words;
  while (words.size() < size) words += "aaaa b\u00e9 ";
  const Ids ids = tokenizer.encode_ids(words);
  EXPECT_EQ(tokenizer.decode(ids), words);
}

// The definition: as long as there is a pair in the table, join the leftmost one of the lowest rank.
Ids merged(const text::MergeTable& merges, Ids ids) {
  for (;;) {
    text::MergeTable::Merge best{text::MergeTable::kNone, -1};
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = merges.find(ids[i], ids[i + 1]);
      if (merge.rank < best.rank) best = merge, at = i;
    }
    if (best.rank == text::MergeTable::kNone) return ids;
    ids[at] = best.joined;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

TEST(MergeSymbols, JoinsInTheOrderOfRanks) {
  std::mt19937 random(7);
  for (int run = 0; run < 400; ++run) {
    // Tokens are strings over {a, b}; every one has some of the ways to be made, at random ranks.
    std::vector<std::string> tokens{"a", "b"};
    std::map<std::string, TokenId> id_of{{"a", 0}, {"b", 1}};
    text::MergeTable merges;
    std::vector<std::uint32_t> ranks(60);
    for (std::uint32_t i = 0; i < ranks.size(); ++i) ranks[i] = i;
    std::shuffle(ranks.begin(), ranks.end(), random);
    for (const std::uint32_t rank : ranks) {
      const std::size_t left = random() % tokens.size();
      const std::size_t right = random() % tokens.size();
      const std::string joined = tokens[left] + tokens[right];
      if (joined.size() > 12) continue;
      const auto [entry, is_new] = id_of.emplace(joined, static_cast<TokenId>(tokens.size()));
      if (is_new) tokens.push_back(joined);
      merges.set(static_cast<TokenId>(left), static_cast<TokenId>(right), {rank, entry->second});
    }
    Ids ids(random() % 120);
    std::vector<text::Symbol> symbols;
    for (TokenId& id : ids) symbols.push_back({id = static_cast<TokenId>(random() % 2), 1});
    std::vector<text::ModelToken> out;
    text::merge_symbols(merges, symbols, 5, out);
    Ids got;
    std::uint32_t end = 5;
    for (const text::ModelToken& token : out) {
      got.push_back(token.id);
      EXPECT_EQ(token.begin, end);
      end = token.end;
      EXPECT_EQ(token.end - token.begin, tokens[static_cast<std::size_t>(token.id)].size());
    }
    EXPECT_EQ(got, merged(merges, ids));
  }
}

}  // namespace
}  // namespace wick
