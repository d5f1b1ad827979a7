#include "io/npy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "core/checked.h"
#include "core/fail.h"
#include "io/mapped_file.h"
#include "io/quote.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);

// The Python dictionary of the header: strings, True and False, and tuples of integers.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  void parse() {
    expect('{');
    std::set<std::string> seen;
    while (!take('}')) {
      const std::string key = string();
      if (!seen.insert(key).second) malformed(fmt::format("{} is given twice", quote(key)));
      expect(':');
      if (key == "descr") {
        descr = string();
      } else if (key == "fortran_order") {
        fortran_order = boolean();
      } else if (key == "shape") {
        shape = tuple();
      } else {
        malformed(fmt::format("the key {} is unknown", quote(key)));
      }
      if (!take(',') && peek() != '}') malformed("expected a comma");
    }
    skip_space();
    if (at_ != text_.size()) malformed("something follows the dictionary");
    if (seen.size() != 3) malformed("expected descr, fortran_order and shape");
  }

  std::string descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;

 private:
  [[noreturn]] void malformed(const std::string& what) const {
    fail(ErrorCode::format, "{}: byte {} of the header: {}", where_, at_, what);
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) malformed(fmt::format("expected '{}'", c));
  }
  std::string string() {
    const char mark = peek();
    if (mark != '\'' && mark != '"') malformed("expected a string");
    const std::size_t end = text_.find(mark, at_ + 1);
    if (end == std::string_view::npos) malformed("a string does not end");
    std::string out(text_.substr(at_ + 1, end - at_ - 1));
    if (out.find('\\') != std::string::npos) malformed("a string with escapes");
    at_ = end + 1;
    return out;
  }
  bool boolean() {
    skip_space();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    malformed("expected True or False");
  }
  std::vector<std::int64_t> tuple() {
    expect('(');
    std::vector<std::int64_t> out;
    while (!take(')')) {
      skip_space();
      std::int64_t value = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
      if (error != std::errc() || value < 0) malformed("expected a size");
      at_ = static_cast<std::size_t>(end - text_.data());
      out.push_back(value);
      if (!take(',')) {
        // (3) is no tuple in Python, but a number.
        if (peek() != ')' || out.size() == 1) malformed("expected a comma");
      }
    }
    return out;
  }

  std::string_view text_;
  std::string where_;
  std::size_t at_ = 0;
};

const char* element_of(std::string_view descr) {
  if (descr == "<f4") return "F32";
  if (descr == "<f2") return "F16";
  if (descr == "<f8") return "F64";
  if (descr == "<i4") return "I32";
  if (descr == "<i8") return "I64";
  return nullptr;
}

}  // namespace

Tensor load_npy(const std::filesystem::path& path) {
  const std::string where = path.string();
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  const std::span<const std::byte> bytes = file->bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(kMagic) || text.size() < 10) fail(ErrorCode::format, "{}: is no .npy file", where);
  const int major = static_cast<unsigned char>(text[6]);
  const int minor = static_cast<unsigned char>(text[7]);
  if (major < 1 || major > 3 || minor != 0) {
    fail(ErrorCode::unsupported, "{}: .npy version {}.{}, only 1.0 to 3.0 are supported", where, major, minor);
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  std::size_t length = 0;
  const std::size_t start = 8 + length_bytes;
  for (std::size_t i = 0; i < length_bytes && 8 + i < text.size(); ++i) {
    length |= static_cast<std::size_t>(static_cast<unsigned char>(text[8 + i])) << (8 * i);
  }
  if (text.size() < start || text.size() - start < length) {
    fail(ErrorCode::format, "{}: the header of {} bytes is cut off", where, length);
  }
  HeaderParser header(text.substr(start, length), where);
  header.parse();
  const char* const dtype = element_of(header.descr);
  if (dtype == nullptr) {
    fail(ErrorCode::unsupported, "{}: elements are {}, only '<f4', '<f2', '<f8', '<i4' and '<i8' are supported", where,
         quote(header.descr));
  }
  if (header.fortran_order) fail(ErrorCode::unsupported, "{}: is in Fortran order, only C order is supported", where);
  CheckedSize size = static_cast<std::size_t>(safetensors_bits(dtype) / 8);
  for (const std::int64_t extent : header.shape) size = size * extent;
  const std::span<const std::byte> data = bytes.subspan(start + length);
  if (data.size() != size.value()) {
    fail(ErrorCode::format, "{}: shape ({}) of {} needs {} bytes, has {}", where, fmt::join(header.shape, ", "),
         header.descr, size.value(), data.size());
  }
  return load_tensor({.name = where, .dtype = dtype, .shape = header.shape, .bytes = data, .owner = file});
}

bool is_npy(const std::filesystem::path& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  return file->bytes().size() >= kMagic.size() && std::memcmp(file->bytes().data(), kMagic.data(), kMagic.size()) == 0;
}

std::string npy_header(std::int64_t rows, std::int64_t columns) {
  constexpr std::size_t kSize = 128;
  std::string out(kMagic);
  out += '\1';
  out += '\0';
  out += static_cast<char>(kSize - 10);
  out += '\0';
  out += fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  out.resize(kSize - 1, ' ');
  out += '\n';
  return out;
}

}  // namespace wick
