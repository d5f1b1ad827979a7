#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "wick/model.h"

namespace wick {

/// One vector for each text, f32 [texts, columns] on the host, in their order: `vectors` makes those of a batch,
/// [sequences, columns] of any floating dtype on `device`. Batches have up to `batch_tokens` tokens, or one text, of
/// texts of like length, the longest first; on the CPU at most 512, whole batches on each thread. While an accelerator
/// computes one batch, the host takes the vectors of the one before and makes the next. No text is empty.
Tensor embed_batches(std::span<const std::vector<std::int32_t>> texts, std::int64_t columns, std::int64_t batch_tokens,
                     Device device, const std::function<Tensor(const TokenBatch&)>& vectors);

}  // namespace wick
