#pragma once

#include <string>
#include <string_view>

#include "io/json.h"

namespace wick {

/// Base for readers of JSON events: nlohmann's parser does not recurse, and this turns its complaints into ours.
class JsonEvents : public nlohmann::json_sax<Json> {
 public:
  JsonEvents(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  /// Parses the whole text. Error(format) naming `where`, line and column when it is not one JSON value.
  void parse();

  bool binary(binary_t&) final { return false; }  // occurs in CBOR and its like only
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) final;

 protected:
  std::string_view where() const noexcept { return where_; }

 private:
  std::string_view text_;
  std::string_view where_;
};

}  // namespace wick
