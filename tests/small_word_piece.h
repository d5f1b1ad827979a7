#pragma once

#include <string>

#include "wick/tokenizer.h"

namespace wick {

/// A tokenizer.json of BERT's kind in as few words as possible. Every part of it can be replaced.
struct SmallWordPiece {
  std::string added = R"([{"id":2,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,)"
                      R"("normalized":false,"special":true}])";
  std::string normalizer =
      R"({"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true})";
  std::string pre_tokenizer = R"({"type":"BertPreTokenizer"})";
  std::string post_processor = R"({"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]})";
  std::string decoder = R"({"type":"WordPiece","prefix":"##","cleanup":true})";
  std::string type = R"("type":"WordPiece",)";
  std::string unk = R"("unk_token":"[UNK]",)";
  std::string prefix = R"("continuing_subword_prefix":"##",)";
  std::string max_input = R"("max_input_chars_per_word":10,)";
  std::string vocab =
      R"({"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"un":4,"##aff":5,"##able":6,"a":7,"##a":8,".":9,"##":10,"#":11,)"
      R"("\u4e00":12,"aa":13})";
  std::string rest;  // more sections, each with a comma behind

  std::string json() const {
    return "{" + rest + R"("version":"1.0","added_tokens":)" + added + R"(,"normalizer":)" + normalizer +
           R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"post_processor":)" + post_processor + R"(,"decoder":)" +
           decoder + R"(,"model":{)" + type + unk + prefix + max_input + R"("vocab":)" + vocab + "}}";
  }
  Tokenizer tokenizer() const { return Tokenizer::from_json(json(), "small.json"); }
};

}  // namespace wick
