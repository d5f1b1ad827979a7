#pragma once

#include <fmt/format.h>

#include <string>

#include "text/byte_level.h"
#include "wick/tokenizer.h"

namespace wick {

/// A tokenizer.json in as few words as possible: bytes (each its own id), two merges, one added token. Every part of it
/// can be replaced.
struct SmallTokenizer {
  std::string added = R"([{"id":258,"content":"<e>","single_word":false,"lstrip":false,"rstrip":false,)"
                      R"("normalized":false,"special":true}])";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
  std::string post_processor = "null";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string options;  // more fields of the model, each with a comma behind
  std::string more_vocab = R"(,"aa":256,"aaaa":257)";
  std::string merges = R"(["a a",["aa","aa"]])";
  std::string rest;  // more sections, each with a comma behind

  static std::string bytes() {
    std::string out;
    const auto& alphabet = text::byte_level_alphabet();
    for (std::size_t byte = 0; byte < 256; ++byte) {
      out += (byte == 0 ? "" : ",") + fmt::format("\"\\u{:04x}\":{}", static_cast<unsigned>(alphabet[byte]), byte);
    }
    return out;
  }
  std::string json() const {
    return "{" + rest + R"("version":"1.0","added_tokens":)" + added + R"(,"normalizer":)" + normalizer +
           R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"post_processor":)" + post_processor + R"(,"decoder":)" +
           decoder + R"(,"model":{"type":"BPE",)" + options + R"("vocab":{)" + bytes() + more_vocab + R"(},"merges":)" +
           merges + "}}";
  }
  Tokenizer tokenizer() const { return Tokenizer::from_json(json(), "small.json"); }
};

}  // namespace wick
