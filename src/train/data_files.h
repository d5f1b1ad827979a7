#pragma once

#include <filesystem>
#include <optional>

namespace wick {

struct DataFiles {
  std::filesystem::path train;
  std::optional<std::filesystem::path> valid, test;
};

/// train.jsonl and, where they are there, valid.jsonl and test.jsonl of a folder; a file is all for training.
/// Error(io) for a folder without train.jsonl.
DataFiles find_data_files(const std::filesystem::path& path);

}  // namespace wick
