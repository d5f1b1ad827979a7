#include "text/decoder_file.h"

#include <limits>

#include "text/section_values.h"

namespace wick::text {
namespace {

// Reads decoders in the one order in which text can be made token by token: what changes tokens, ByteFallback, Fuse,
// Strip; or ByteLevel by itself.
class DecoderReader {
 public:
  void read(const JsonValue& value) {
    const std::string_view type = value.at("type").string();
    if (type == "Sequence") {
      value.only({"type", "decoders"});
      return value.at("decoders").for_each([&](const JsonValue& part) { read(part); });
    }
    if (type == "ByteLevel") {
      after(value, type, Stage::none, Stage::none);
      value.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      stage_ = Stage::byte_level;
    } else if (type == "Replace") {
      after(value, type, Stage::none, Stage::tokens);
      decoder_.steps.emplace_back(read_replace(value));
      stage_ = Stage::tokens;
    } else if (type == "Metaspace") {
      after(value, type, Stage::none, Stage::tokens);
      MetaspaceStep step = read_metaspace(value);
      decoder_.steps.emplace_back(MarkStep{std::move(step.replacement), step.prepend != PrependScheme::never});
      stage_ = Stage::tokens;
    } else if (type == "ByteFallback") {
      after(value, type, Stage::none, Stage::tokens);
      value.only({"type"});
      decoder_.byte_fallback = true;
      stage_ = Stage::byte_fallback;
    } else if (type == "Fuse") {
      after(value, type, Stage::none, Stage::fuse);
      value.only({"type"});
      if (stage_ != Stage::byte_level) stage_ = Stage::fuse;
    } else if (type == "Strip") {
      after(value, type, Stage::fuse, Stage::fuse);
      read_strip(value);
      stage_ = Stage::strip;
    } else {
      value.unsupported("is {}, a decoder that is not supported", type);
    }
  }

  std::optional<PieceDecoder> take() {
    return stage_ == Stage::byte_level ? std::nullopt : std::optional(std::move(decoder_));
  }

 private:
  enum class Stage { none, byte_level, tokens, byte_fallback, fuse, strip };

  void after(const JsonValue& value, std::string_view type, Stage first, Stage last) const {
    if (stage_ < first || stage_ > last || (stage_ == Stage::byte_level && type != "Fuse")) {
      value.unsupported(
          "is {} where it is not supported: decoders may be ByteLevel and Fuse, or Replace or Metaspace, ByteFallback, "
          "Fuse and Strip in this order",
          type);
    }
  }

  void read_strip(const JsonValue& value) {
    value.only({"type", "content", "start", "stop"});
    decoder_.strip = read_character(value.at("content"));
    decoder_.strip_count = value.at("start").integer_below(std::numeric_limits<std::uint64_t>::max());
    const JsonValue stop = value.at("stop");
    if (const auto count = stop.integer_below(std::numeric_limits<std::uint64_t>::max()); count != 0) {
      stop.unsupported("is {}: stripping the end of a text is not supported", count);
    }
  }

  PieceDecoder decoder_;
  Stage stage_ = Stage::none;
};

}  // namespace

std::optional<PieceDecoder> read_decoder(const JsonValue& value) {
  DecoderReader reader;
  reader.read(value);
  return reader.take();
}

WordDecoder read_word_decoder(const std::optional<JsonValue>& value) {
  if (!value) return {};
  if (const auto type = value->at("type").string(); type != "WordPiece") {
    value->unsupported("is {}, a decoder that is not supported with WordPiece", type);
  }
  value->only({"type", "prefix", "cleanup"});
  return {std::string(value->at("prefix").string()), value->at("cleanup").boolean()};
}

}  // namespace wick::text
