#include "backend/backend.h"
#include "core/fail.h"
#include "wick/model.h"

namespace wick {

KvCache::KvCache(const ModelConfig& config, std::int64_t capacity, DType dtype, Device device)
    : offsets_(Tensor::zeros({2}, DType::i32, device)), capacity_(capacity) {
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const Shape shape = {capacity, config.num_key_value_heads, config.head_dim};
    keys_.push_back(Tensor::empty(shape, dtype, device));
    values_.push_back(Tensor::empty(shape, dtype, device));
  }
}

void KvCache::truncate(std::int64_t length) {
  if (length < 0 || length > length_)
    fail(ErrorCode::invalid_argument, "a cache of {} tokens cut to {}", length_, length);
  offsets_.slice(0, 1, 1).fill(static_cast<double>(length));
  end_ = length_ = length;
}

void KvCache::replayed(std::int64_t tokens) {
  check_room(tokens);
  length_ += tokens;
  end_ = length_;
}

void KvCache::check_room(std::int64_t tokens) const {
  if (tokens > capacity_ - length_) {
    fail(ErrorCode::invalid_argument, "the cache holds {} of {} tokens, {} more do not fit", length_, capacity_,
         tokens);
  }
}

// The end is moved by what is added, not set, so that a replay moves it again; it is set where a pass that failed has
// left it elsewhere.
Tensor KvCache::begin(std::int64_t tokens) {
  check_room(tokens);
  const Tensor end = offsets_.slice(0, 1, 1);
  if (end_ != length_) end.fill(static_cast<double>(length_));
  if (Backend* device = accelerator(offsets_)) {
    device->advance(end, static_cast<std::int32_t>(tokens));
  } else {
    *end.data<std::int32_t>() += static_cast<std::int32_t>(tokens);
  }
  end_ = length_ + tokens;
  return offsets_;
}

}  // namespace wick
