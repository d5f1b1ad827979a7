#pragma once

// What the tests of broken tokenizer files share. A `File` is one of the small tokenizers, every part of which can be
// replaced.

#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <string_view>

#include "wick/error.h"
#include "wick/tokenizer.h"

namespace wick::test {

/// A file with one part replaced, and how it must be refused.
template <class File>
struct BrokenTokenizer {
  const char* name;
  std::string File::*part;
  const char* value;
  ErrorCode code;
  const char* message;

  File file() const {
    File result;
    result.*part = value;
    return result;
  }
};

template <class File>
std::ostream& operator<<(std::ostream& out, const BrokenTokenizer<File>& broken) {
  return out << broken.name;
}

/// This tokenizer.json must be refused in one line that begins with its name and contains `part`.
inline void expect_broken(ErrorCode code, const std::string& json, std::string_view part) {
  try {
    Tokenizer::from_json(json, "broken.json");
    ADD_FAILURE() << "accepted, expected an error with \"" << part << "\"";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.code(), code) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with("broken.json: ")) << message;
  }
}

/// Every beginning of this tokenizer.json must be refused.
inline void expect_broken_wherever_cut(const std::string& json) {
  for (std::size_t length = 0; length < json.size(); ++length) {
    EXPECT_THROW(Tokenizer::from_json(json.substr(0, length), "cut.json"), Error) << length;
  }
}

/// With any one of its bytes changed into any one of `bytes`, this tokenizer.json is refused or reads `text`.
inline void expect_survives_changed_bytes(const std::string& json, std::string_view bytes, std::string_view text) {
  for (std::size_t at = 0; at < json.size(); ++at) {
    for (const char byte : bytes) {
      std::string changed = json;
      changed[at] = byte;
      try {
        const Tokenizer tokenizer = Tokenizer::from_json(changed, "changed.json");
        tokenizer.decode(tokenizer.encode(text).ids);
      } catch (const Error& error) {
        EXPECT_TRUE(error.code() == ErrorCode::format || error.code() == ErrorCode::unsupported) << error.what();
      }
    }
  }
}

}  // namespace wick::test
