#include "text/piece_decoder.h"

#include <optional>

#include "text/unicode.h"

namespace wick::text {
namespace {

std::string apply(const ReplaceStep& step, std::string_view token, bool /*first*/) {
  std::string out;
  std::size_t done = 0;
  if (token.empty()) return out;
  step.regex.for_each(token, [&](std::size_t begin, std::size_t end) {
    out.append(token.substr(done, begin - done)).append(step.content);
    done = end;
  });
  return out.append(token.substr(done));
}

std::string apply(const MarkStep& step, std::string_view token, bool first) {
  std::string out;
  for (std::size_t at = 0; (at = token.find(step.mark)) != std::string_view::npos;) {
    out += token.substr(0, at);
    if (!first || !step.drops_first) out += ' ';
    token.remove_prefix(at + step.mark.size());
  }
  return out.append(token);
}

// The byte that a token such as <0x0A> stands for. As the reference reads it, "+A" is a number, too.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : token.substr(token[3] == '+' ? 4 : 3, token[3] == '+' ? 1 : 2)) {
    unsigned digit = 16;
    if (c >= '0' && c <= '9') digit = static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'f') digit = static_cast<unsigned>(c - 'a') + 10;
    if (c >= 'A' && c <= 'F') digit = static_cast<unsigned>(c - 'A') + 10;
    if (digit == 16) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(static_cast<unsigned char>(value));
}

std::string replacement_characters(std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += "\xEF\xBF\xBD";
  return out;
}

}  // namespace

void PieceDecoder::append(std::string& out, std::string token, DecodeState& state) const {
  for (const Step& step : steps) {
    token = std::visit([&](const auto& one) { return apply(one, token, state.first); }, step);
  }
  state.first = false;
  if (byte_fallback) {
    if (const auto byte = byte_of(token)) return append_byte(out, *byte, state);
    finish(out, state);
  }
  emit(out, token, state);
}

void PieceDecoder::append_byte(std::string& out, char byte, DecodeState& state) const {
  state.bytes += byte;
  if (!state.streams) return;
  const Utf8Step step = utf8_step(state.bytes, 0);
  if (!state.broken && step.kind == Utf8Step::Kind::incomplete) return;
  if (!state.broken && step.kind == Utf8Step::Kind::character) {
    emit(out, state.bytes, state);
  } else {
    state.broken = true;
    emit(out, replacement_characters(state.bytes.size()), state);
  }
  state.bytes.clear();
}

void PieceDecoder::finish(std::string& out, DecodeState& state) const {
  const bool valid = valid_prefix(state.bytes) == state.bytes.size();
  emit(out, valid ? state.bytes : replacement_characters(state.bytes.size()), state);
  state.bytes.clear();
  state.broken = false;
}

void PieceDecoder::emit(std::string& out, std::string_view text, DecodeState& state) const {
  while (state.stripped < strip_count && !text.empty()) {
    if (text.starts_with(strip)) {
      text.remove_prefix(strip.size());
      ++state.stripped;
    } else {
      state.stripped = strip_count;
    }
  }
  out += text;
}

}  // namespace wick::text
