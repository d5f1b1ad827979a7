#include "embed/embed_batches.h"

#include <algorithm>
#include <array>
#include <memory>

#include "backend/backend.h"
#include "core/batch_invariance.h"
#include "core/parallel.h"
#include "core/work.h"
#include "ops/attention/attention.h"
#include "wick/autograd.h"

namespace wick {
namespace {

using Texts = std::span<const std::vector<std::int32_t>>;
using Order = std::span<const std::int64_t>;

// The texts' numbers, longest texts first, those of one length as they came.
std::vector<std::int64_t> by_length(Texts texts) {
  std::size_t longest = 0;
  for (const auto& text : texts) longest = std::max(longest, text.size());
  std::vector<std::int64_t> next(longest + 2);  // where the next text of a length goes
  for (const auto& text : texts) ++next[longest - text.size() + 1];
  for (std::size_t i = 1; i < next.size(); ++i) next[i] += next[i - 1];
  std::vector<std::int64_t> order(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    order[static_cast<std::size_t>(next[longest - texts[i].size()]++)] = static_cast<std::int64_t>(i);
  }
  return order;
}

TokenBatch batch_of(Texts texts, Order which) {
  std::int64_t tokens = 0;
  for (const std::int64_t i : which) tokens += std::ssize(texts[static_cast<std::size_t>(i)]);
  const Tensor ids = Tensor::empty({tokens}, DType::i32);
  const Tensor positions = Tensor::empty({tokens}, DType::i32);
  const Tensor offsets = Tensor::empty({std::ssize(which) + 1}, DType::i32);
  std::int32_t* id = ids.data<std::int32_t>();
  std::int32_t* position = positions.data<std::int32_t>();
  std::int32_t* offset = offsets.data<std::int32_t>();
  std::int64_t longest = 0;
  *offset = 0;
  for (const std::int64_t i : which) {
    const std::vector<std::int32_t>& text = texts[static_cast<std::size_t>(i)];
    const auto count = static_cast<std::int32_t>(text.size());
    longest = std::max<std::int64_t>(longest, count);
    id = std::copy(text.begin(), text.end(), id);
    for (std::int32_t p = 0; p < count; ++p) *position++ = p;
    offset[1] = offset[0] + count;
    ++offset;
  }
  return {ids, positions, offsets, longest};
}

// Where batches of up to `limit` tokens, or one text, end in the order of texts. Short sequences are not mixed with
// long ones, beside which attention would compute them otherwise.
std::vector<std::size_t> cut(Texts texts, Order order, std::int64_t limit) {
  std::vector<std::size_t> ends;
  std::int64_t tokens = 0;
  std::int64_t before = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::int64_t more = std::ssize(texts[static_cast<std::size_t>(order[i])]);
    if (i > 0 && (tokens + more > limit || (before > kShortSequence && more <= kShortSequence))) {
      ends.push_back(i);
      tokens = 0;
    }
    tokens += more;
    before = more;
  }
  if (!order.empty()) ends.push_back(order.size());
  return ends;
}

// Tokens of a batch on the CPU: few enough that what passes between ops stays in the caches and that each thread gets
// several batches, enough that products have whole tiles.
std::int64_t host_batch_tokens(Texts texts) {
  std::int64_t tokens = 0;
  for (const std::vector<std::int32_t>& text : texts) tokens += std::ssize(text);
  return std::clamp<std::int64_t>(tokens / (4 * omp_get_max_threads()), 128, 512);
}

// A batch whose vectors are on their way to the host.
struct Pending {
  std::unique_ptr<Readback> readback;
  std::size_t bytes = 0;  // that it has room for
  Order which;            // empty: there is none
};

}  // namespace

Tensor embed_batches(Texts texts, std::int64_t columns, std::int64_t batch_tokens, Device device,
                     const std::function<Tensor(const TokenBatch&)>& vectors) {
  const NoGrad no_grad;
  const BatchInvariance invariant;
  const Tensor result = Tensor::empty({std::ssize(texts), columns}, DType::f32);
  const auto take = [&](const float* rows, Order which) {
    parallel_for(std::ssize(which), std::max<std::int64_t>(1, (1 << 16) / columns),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t i = begin; i < end; ++i) {
                     std::copy_n(rows + i * columns, columns,
                                 result.data<float>() + which[static_cast<std::size_t>(i)] * columns);
                   }
                 });
  };
  const auto finish = [&](Pending& pending) {
    if (pending.which.empty()) return;
    take(reinterpret_cast<const float*>(pending.readback->receive()), pending.which);
    pending.which = {};
  };
  const std::vector<std::int64_t> order = by_length(texts);
  const bool host = device.type == DeviceType::cpu;
  const std::vector<std::size_t> ends =
      cut(texts, order, host ? std::min(batch_tokens, host_batch_tokens(texts)) : batch_tokens);
  const auto which_of = [&](std::int64_t index) {
    const auto at = static_cast<std::size_t>(index);
    const std::size_t begin = at == 0 ? 0 : ends[at - 1];
    return Order(order).subspan(begin, ends[at] - begin);
  };
  const auto make = [&](Order which) { return vectors(batch_of(texts, which)).to(DType::f32).contiguous(); };
  const std::int64_t batches = std::ssize(ends);
  if (host) {
    const auto embed = [&](std::int64_t index) {
      const NoGrad none;  // of this thread
      take(make(which_of(index)).data<float>(), which_of(index));
    };
    // A thread that has batches of its own waits for no other. A profile sees the work of its own thread only.
    if (batches >= omp_get_max_threads() && work_listener() == nullptr) {
      parallel_each(batches, embed);
    } else {
      for (std::int64_t i = 0; i < batches; ++i) embed(i);
    }
    return result;
  }
  std::array<Pending, 2> slots;
  std::size_t slot = 0;
  for (std::int64_t i = 0; i < batches; ++i) {
    const Tensor rows = make(which_of(i));
    Pending& pending = slots[slot];
    const std::size_t bytes = static_cast<std::size_t>(rows.numel()) * sizeof(float);
    if (pending.bytes < bytes) {
      pending.readback = backend(device).readback(device, bytes);
      pending.bytes = bytes;
    }
    pending.readback->send(rows);
    pending.which = which_of(i);
    slot = 1 - slot;
    finish(slots[slot]);
  }
  finish(slots[1 - slot]);
  return result;
}

}  // namespace wick
