#include <algorithm>
#include <map>
#include <system_error>
#include <utility>

#include "core/fail.h"
#include "io/json.h"
#include "io/quote.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is reported by the attempt to open it
  return fs::exists(path, ignored);
}

// weight_map, turned round: what each shard is to hold.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const std::string where = path.string();
  const Json index = read_json_file(path);
  const Json map = get<Json>(index, "weight_map", where);
  if (!map.is_object()) json_detail::wrong(where, "weight_map", map, "an object of tensor names and files");
  if (map.empty()) fail(ErrorCode::format, "{}: \"weight_map\" names no tensor", where);
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, value] : map.get_ref<const Json::object_t&>()) {
    if (!value.is_string()) {
      fail(ErrorCode::format, "{}: tensor {} is {}, expected the name of a file", where, quote(tensor),
           value.type_name());
    }
    const auto& shard = value.get_ref<const std::string&>();
    if (shard.empty() || shard == "." || shard.find("..") != std::string::npos ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      fail(ErrorCode::format, "{}: tensor {} is in {}, expected a file beside the index", where, quote(tensor),
           quote(shard));
    }
    shards[shard].push_back(tensor);
  }
  return shards;
}

}  // namespace

ShardedSafetensors ShardedSafetensors::open(const fs::path& folder) {
  ShardedSafetensors out;
  const fs::path single = folder / "model.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  if (is_there(single)) {
    out.source_ = single;
    out.files_.push_back(SafetensorsFile::open(single));
  } else if (is_there(index)) {
    out.source_ = index;
    const auto shards = read_index(index);
    for (const auto& [shard, tensors] : shards) {
      if (!is_there(folder / shard)) {
        fail(ErrorCode::format, "{}: tensor {} is in {}, which does not exist", index.string(), quote(tensors.front()),
             quote(shard));
      }
      out.files_.push_back(SafetensorsFile::open(folder / shard));
      for (const std::string& tensor : tensors) {
        if (out.files_.back().find(tensor) == nullptr) {
          fail(ErrorCode::format, "{}: tensor {} is in {}, which does not hold it", index.string(), quote(tensor),
               quote(shard));
        }
      }
    }
  } else {
    fail(ErrorCode::io, "{}: has neither model.safetensors nor model.safetensors.index.json", folder.string());
  }

  for (const SafetensorsFile& file : out.files_) {
    for (const SafetensorsEntry& entry : file.entries()) {
      if (!out.by_name_.emplace(entry.name, &entry).second) {
        fail(ErrorCode::format, "{}: tensor {} is in two of the shards, again in {}", out.source_.string(),
             quote(entry.name), file.path().filename().string());
      }
      out.names_.push_back(entry.name);
    }
  }
  std::ranges::sort(out.names_);
  return out;
}

const SafetensorsEntry* ShardedSafetensors::find(std::string_view name) const noexcept {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : at->second;
}

const SafetensorsEntry& ShardedSafetensors::at(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr) fail(ErrorCode::format, "{}: tensor {} is missing", source_.string(), quote(name));
  return *entry;
}

}  // namespace wick
