#pragma once

#include <cstdint>
#include <filesystem>

#include "wick/dtype.h"

namespace wick {

struct FuseReport {
  std::int64_t modules = 0;   ///< weights that were changed
  double largest_change = 0;  ///< largest |scale * B A| of all of them
  double largest_rounding_error =
      0;  ///< largest |stored - exact sum|, where the sum had to be rounded to the file's dtype
};

/// Writes a Hugging Face folder whose weights have the adapter added: W + scale * B A, summed in float32 and rounded
/// once to the dtype that each weight has in the model's files. Shards, tokenizer and configuration are carried over as
/// they are. `output` appears whole or not at all; an existing folder is replaced only if it holds a config.json (a
/// model). Error(invalid_argument) when output is the model or the adapter folder, Error(unsupported) for an adapter on
/// lm_head, and those of reading both.
FuseReport fuse(const std::filesystem::path& model, const std::filesystem::path& adapter,
                const std::filesystem::path& output);

}  // namespace wick
