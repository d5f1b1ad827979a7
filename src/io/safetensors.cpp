#include "wick/safetensors.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <unordered_set>
#include <utility>

#include "core/checked.h"
#include "core/fail.h"
#include "io/json_events.h"
#include "io/mapped_file.h"
#include "io/quote.h"
#include "io/safetensors_dtype.h"

namespace wick {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used as they lie in the file");

constexpr std::size_t kMaxDimensions = 64;

struct HeaderEntry {
  SafetensorsEntry entry;
  std::size_t begin = 0;
  std::size_t end = 0;
};

// Reads the header, {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"k": "v"}},
// event by event: nlohmann's own builder would keep the last of two equal keys in silence.
class HeaderReader final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;

  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;

  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { unexpected(fmt::to_string(value)); }
  bool number_float(number_float_t value, const string_t&) override { unexpected(python_repr(value)); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::shape) {
      if (value > std::numeric_limits<std::int64_t>::max()) unexpected(fmt::to_string(value));
      if (current().entry.shape.size() == kMaxDimensions) {
        fail(ErrorCode::format, "{}: more than {} dimensions", here(), kMaxDimensions);
      }
      current().entry.shape.push_back(static_cast<std::int64_t>(value));
    } else if (state_ == State::offsets) {
      if (value > std::numeric_limits<std::int64_t>::max() || offsets_ == 2) unexpected(fmt::to_string(value));
      (offsets_ == 0 ? current().begin : current().end) = static_cast<std::size_t>(value);
      ++offsets_;
    } else {
      unexpected(fmt::to_string(value));
    }
    return true;
  }

  bool string(string_t& value) override {
    if (state_ == State::metadata) {
      metadata.at(key_) = std::move(value);
    } else if (state_ == State::entry && key_ == "dtype") {
      current().entry.dtype = std::move(value);
    } else {
      unexpected(quote(value));
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (state_ == State::start) {
      state_ = State::header;
    } else if (state_ == State::header) {
      state_ = key_ == "__metadata__" ? State::metadata : State::entry;
      has_dtype_ = has_shape_ = has_offsets_ = false;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& name) override {
    if (state_ == State::header) {
      if (!names_.insert(name).second) fail(ErrorCode::format, "{}: {} is given twice", where(), quote(name));
      if (name != "__metadata__") entries.emplace_back().entry.name = name;
    } else if (state_ == State::metadata) {
      if (!metadata.try_emplace(name).second) {
        fail(ErrorCode::format, "{}: metadata key {} is given twice", where(), quote(name));
      }
    } else {
      bool* seen = name == "dtype"          ? &has_dtype_
                   : name == "shape"        ? &has_shape_
                   : name == "data_offsets" ? &has_offsets_
                                            : nullptr;
      if (seen == nullptr) {
        fail(ErrorCode::format, "{}: key {}, expected dtype, shape and data_offsets", here(), quote(name));
      }
      if (std::exchange(*seen, true)) fail(ErrorCode::format, "{}: {} is given twice", here(), quote(name));
    }
    key_ = std::move(name);
    return true;
  }

  bool end_object() override {
    if (state_ == State::entry) {
      for (const auto& [seen, name] :
           {std::pair(has_dtype_, "dtype"), std::pair(has_shape_, "shape"), std::pair(has_offsets_, "data_offsets")}) {
        if (!seen) fail(ErrorCode::format, "{}: {} is missing", here(), name);
      }
    }
    state_ = state_ == State::header ? State::done : State::header;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::entry && key_ == "shape") {
      state_ = State::shape;
    } else if (state_ == State::entry && key_ == "data_offsets") {
      state_ = State::offsets;
      offsets_ = 0;
    } else {
      unexpected("a list");
    }
    return true;
  }

  bool end_array() override {
    if (state_ == State::offsets && offsets_ != 2) {
      fail(ErrorCode::format, "{}: data_offsets has {} numbers, expected 2", here(), offsets_);
    }
    state_ = State::entry;
    return true;
  }

 private:
  enum class State { start, header, metadata, entry, shape, offsets, done };

  HeaderEntry& current() { return entries.back(); }

  std::string here() const { return fmt::format("{}: tensor {}", where(), quote(entries.back().entry.name)); }

  [[noreturn]] void unexpected(std::string_view found) const {
    switch (state_) {
      case State::start:
      case State::done:
        fail(ErrorCode::format, "{}: the header is {}, expected an object", where(), found);
      case State::header:
        fail(ErrorCode::format, "{}: {} is {}, expected an object", where(), quote(key_), found);
      case State::metadata:
        fail(ErrorCode::format, "{}: metadata key {} is {}, expected a string", where(), quote(key_), found);
      case State::entry:
        fail(ErrorCode::format, "{}: {} is {}, expected {}", here(), key_, found,
             key_ == "dtype" ? "a string" : "a list of non-negative integers");
      case State::shape:
        fail(ErrorCode::format, "{}: shape has {}, expected non-negative integers", here(), found);
      case State::offsets:
        fail(ErrorCode::format, "{}: data_offsets has {}, expected two non-negative integers", here(), found);
    }
    fail(ErrorCode::format, "{}: unexpected {}", where(), found);
  }

  State state_ = State::start;
  std::string key_;
  std::unordered_set<std::string> names_;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  int offsets_ = 0;
};

std::string_view read_header(std::span<const std::byte> bytes, std::string_view where) {
  if (bytes.size() < 8) {
    fail(ErrorCode::format, "{}: is {} bytes, a safetensors file starts with 8 bytes of header length", where,
         bytes.size());
  }
  std::uint64_t length = 0;
  std::copy_n(bytes.begin(), 8, std::as_writable_bytes(std::span(&length, 1)).begin());
  if (length > kSafetensorsMaxHeader) {
    fail(ErrorCode::format, "{}: the header is {} bytes, at most {} are allowed", where, length, kSafetensorsMaxHeader);
  }
  const std::size_t available = bytes.size() - 8;
  if (length > available) {
    fail(ErrorCode::format, "{}: the header is {} bytes, the file has {} left", where, length, available);
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<std::size_t>(length));
  if (!header.starts_with('{')) {
    fail(ErrorCode::format, "{}: the header starts with {}, expected '{{'", where, quote(header.substr(0, 1)));
  }
  return header;
}

// Checks that the tensors, sorted by offset, cover the data one after the other.
void check_coverage(const std::vector<HeaderEntry>& entries, std::size_t size, std::string_view where) {
  std::size_t expected = 0;
  for (const HeaderEntry& e : entries) {
    const auto name = quote(e.entry.name);
    if (e.begin > e.end) {
      fail(ErrorCode::format, "{}: tensor {}: data_offsets end at {} before they begin at {}", where, name, e.end,
           e.begin);
    }
    if (e.end > size) {
      fail(ErrorCode::format, "{}: tensor {}: data_offsets end at {}, the file has {} bytes of data", where, name,
           e.end, size);
    }
    if (e.begin != expected) {
      fail(ErrorCode::format, "{}: tensor {}: data_offsets begin at {}, expected {}: tensors {}", where, name, e.begin,
           expected, e.begin < expected ? "overlap" : "leave a hole");
    }
    expected = e.end;
  }
  if (expected != size) {
    fail(ErrorCode::format, "{}: tensors end at byte {} of the data, the file has {}", where, expected, size);
  }
}

}  // namespace

int safetensors_bits(std::string_view dtype) noexcept {
  const auto* at = std::ranges::find(kSafetensorsDTypes, dtype, &SafetensorsDType::name);
  return at == kSafetensorsDTypes.end() ? 0 : at->bits;
}

CheckedSize safetensors_size(const SafetensorsEntry& entry, std::string_view where, ErrorCode code) {
  const int bits = safetensors_bits(entry.dtype);
  if (bits == 0) {
    fail(ErrorCode::unsupported, "{}: dtype {} is not one of the safetensors format", where, quote(entry.dtype));
  }
  std::optional<CheckedSize> total;
  try {
    CheckedSize elements = 1;
    for (const std::int64_t extent : entry.shape) elements = elements * CheckedSize(extent);
    total = elements * CheckedSize(bits);
  } catch (const Error&) {
    fail(code, "{}: shape [{}] of {} does not fit 63 bits", where, fmt::join(entry.shape, ", "), entry.dtype);
  }
  if (total->value() % 8 != 0) {
    fail(code, "{}: shape [{}] of {} is {} bits, no whole number of bytes", where, fmt::join(entry.shape, ", "),
         entry.dtype, total->value());
  }
  return total->value() / 8;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const std::string where = path.string();
  const std::string_view header = read_header(file->bytes(), where);
  HeaderReader reader(header, where);
  reader.parse();

  const std::span<const std::byte> data = file->bytes().subspan(8 + header.size());
  std::ranges::stable_sort(reader.entries, {}, [](const HeaderEntry& e) { return std::pair(e.begin, e.end); });
  check_coverage(reader.entries, data.size(), where);

  SafetensorsFile out;
  out.path_ = path;
  out.metadata_ = std::move(reader.metadata);
  out.entries_.reserve(reader.entries.size());
  for (HeaderEntry& e : reader.entries) {
    const std::string tensor = fmt::format("{}: tensor {}", where, quote(e.entry.name));
    const std::size_t size = safetensors_size(e.entry, tensor, ErrorCode::format).value();
    if (size != e.end - e.begin) {
      fail(ErrorCode::format, "{}: shape [{}] of {} needs {} bytes, data_offsets hold {}", tensor,
           fmt::join(e.entry.shape, ", "), e.entry.dtype, size, e.end - e.begin);
    }
    e.entry.bytes = data.subspan(e.begin, size);
    e.entry.owner = file;
    out.entries_.push_back(std::move(e.entry));
  }
  for (std::size_t i = 0; i < out.entries_.size(); ++i) out.by_name_.emplace(out.entries_[i].name, i);
  return out;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const noexcept {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &entries_[at->second];
}

}  // namespace wick
