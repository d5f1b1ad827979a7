// Token ids of texts, for bench/peers/compare_tokenizers.py: a JSON string a line from standard input, its ids a line
// to standard output, special tokens of the template included.
//
//   encode_lines TOKENIZER.json < texts.jsonl
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "io/json.h"
#include "wick/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "encode_lines TOKENIZER.json < texts.jsonl\n");
    return 2;
  }
  try {
    const wick::Tokenizer tokenizer = wick::Tokenizer::from_file(argv[1]);
    std::string line;
    while (std::getline(std::cin, line)) {
      for (const wick::TokenId id : tokenizer.encode_ids(wick::parse_json(line, "a line").get<std::string>())) {
        std::cout << id << ' ';
      }
      std::cout << '\n';
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
