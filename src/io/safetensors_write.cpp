#include <algorithm>
#include <limits>
#include <utility>

#include "core/checked.h"
#include "core/fail.h"
#include "io/atomic_file.h"
#include "io/json_string.h"
#include "io/quote.h"
#include "io/safetensors_dtype.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

std::size_t alignment_rank(std::string_view dtype) {
  return static_cast<std::size_t>(std::ranges::find(kSafetensorsDTypes, dtype, &SafetensorsDType::name) -
                                  kSafetensorsDTypes.begin());
}

// Escaped as by serde_json, which wrote the files that ours are compared with.
void append_string(std::string& out, std::string_view text, std::string_view where) {
  if (valid_utf8_prefix(text) != text.size()) {
    fail(ErrorCode::invalid_argument, "{}: {} is not UTF-8", where, quote(text));
  }
  append_json_string(out, text, JsonEscapes::needed);
}

std::string make_header(const std::vector<const SafetensorsEntry*>& entries,
                        const std::map<std::string, std::string>& metadata, std::string_view where) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (!header.ends_with('{')) header += ',';
      append_string(header, key, where);
      header += ':';
      append_string(header, value, where);
    }
    header += '}';
  }
  CheckedSize offset = 0;
  for (const SafetensorsEntry* entry : entries) {
    const CheckedSize end = offset + entry->bytes.size();
    if (header.size() > 1) header += ',';
    append_string(header, entry->name, where);
    fmt::format_to(std::back_inserter(header), R"(:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", entry->dtype,
                   fmt::join(entry->shape, ","), offset.value(), end.value());
    offset = end;
  }
  header += '}';
  header.resize(CheckedSize(header.size()).aligned_to(8).value(), ' ');
  return header;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const SafetensorsEntry> entries,
                       const std::map<std::string, std::string>& metadata) {
  const std::string where = path.string();
  std::vector<const SafetensorsEntry*> sorted;
  for (const SafetensorsEntry& entry : entries) {
    const std::string tensor = fmt::format("{}: tensor {}", where, quote(entry.name));
    if (entry.name == "__metadata__") fail(ErrorCode::invalid_argument, "{}: the name is reserved", tensor);
    const std::size_t size = safetensors_size(entry, tensor, ErrorCode::invalid_argument).value();
    if (size != entry.bytes.size()) {
      fail(ErrorCode::invalid_argument, "{}: shape [{}] of {} needs {} bytes, has {}", tensor,
           fmt::join(entry.shape, ", "), entry.dtype, size, entry.bytes.size());
    }
    sorted.push_back(&entry);
  }
  std::ranges::sort(sorted, [](const SafetensorsEntry* a, const SafetensorsEntry* b) {
    const std::size_t rank_a = alignment_rank(a->dtype);
    const std::size_t rank_b = alignment_rank(b->dtype);
    return rank_a != rank_b ? rank_a > rank_b : a->name < b->name;
  });
  std::vector<std::string_view> names;
  for (const SafetensorsEntry* entry : sorted) names.push_back(entry->name);
  std::ranges::sort(names);
  if (const auto twice = std::ranges::adjacent_find(names); twice != names.end()) {
    fail(ErrorCode::invalid_argument, "{}: tensor {} is given twice", where, quote(*twice));
  }

  const std::string header = make_header(sorted, metadata, where);
  if (header.size() > kSafetensorsMaxHeader) {
    fail(ErrorCode::invalid_argument, "{}: the header is {} bytes, at most {} are allowed", where, header.size(),
         kSafetensorsMaxHeader);
  }
  const std::uint64_t length = header.size();
  AtomicFile file(path);
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(header);
  for (const SafetensorsEntry* entry : sorted) file.write(entry->bytes);
  file.commit();
}

}  // namespace wick
