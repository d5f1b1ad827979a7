#include "train/data_files.h"

#include "core/fail.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

bool is_folder(const fs::path& path) {
  std::error_code ignored;  // whatever it is, opening it as a file will name it
  return fs::is_directory(path, ignored);
}

bool is_there(const fs::path& path) {
  std::error_code error;
  const bool found = fs::exists(path, error);
  if (error) fail(ErrorCode::io, "{}: cannot stat: {}", path.string(), error.message());
  return found;
}

std::optional<fs::path> if_there(const fs::path& path) { return is_there(path) ? std::optional(path) : std::nullopt; }

}  // namespace

DataFiles find_data_files(const fs::path& path) {
  if (!is_folder(path)) return {path, std::nullopt, std::nullopt};
  if (!is_there(path / "train.jsonl")) {
    fail(ErrorCode::io, "{}: has no train.jsonl, expected a .jsonl file or a folder with one", path.string());
  }
  return {path / "train.jsonl", if_there(path / "valid.jsonl"), if_there(path / "test.jsonl")};
}

}  // namespace wick
