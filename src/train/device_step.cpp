#include "train/device_step.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <vector>

#include "backend/gemm.h"
#include "core/fail.h"
#include "ops/op.h"

namespace wick {
namespace {

constexpr std::size_t kMaxShapes = 32;  // each keeps a graph, or two; their memory is shared

// Up to the next eighth of a power of two: few shapes, at most an eighth of padding.
std::int64_t bucket(std::int64_t tokens) {
  const auto whole =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(tokens, 1))));
  const std::int64_t step = std::max<std::int64_t>(whole / 8, 64);
  return (tokens + step - 1) / step * step;
}

// The batch in one i32 vector, as Shaped::inputs has it. What is added is a sequence of its own that trains nothing,
// and sequences without tokens.
std::vector<std::int32_t> padded(const Batch& batch, std::int64_t tokens, std::int64_t sequences, std::int32_t pad_id) {
  const std::int64_t count = batch.tokens.tokens();
  std::vector<std::int32_t> all;
  all.reserve(static_cast<std::size_t>(3 * tokens + sequences + 1));
  const auto append = [&](const Tensor& t, std::int64_t length, auto filler) {
    const auto* values = t.data<std::int32_t>();
    all.insert(all.end(), values, values + t.numel());
    for (std::int64_t i = t.numel(); i < length; ++i) all.push_back(filler(i));
  };
  append(batch.tokens.ids, tokens, [&](std::int64_t) { return pad_id; });
  append(batch.tokens.positions, tokens, [&](std::int64_t i) { return static_cast<std::int32_t>(i - count); });
  append(batch.labels, tokens, [](std::int64_t) { return kIgnoreLabel; });
  append(batch.tokens.offsets, sequences + 1, [&](std::int64_t) { return static_cast<std::int32_t>(tokens); });
  return all;
}

}  // namespace

DeviceStep::DeviceStep(TrainTask& task, const Adapter& adapter, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                       const Settings& settings)
    : task_(task),
      adapter_(adapter),
      exp_avg_(exp_avg),
      exp_avg_sq_(exp_avg_sq),
      settings_(settings),
      device_(task.device()),
      seed_(Tensor::empty({}, DType::f32, device_)),
      schedule_(Tensor::zeros({3}, DType::f64, device_)),
      results_(Tensor::zeros({2}, DType::f64, device_)) {}

DeviceStep::Shaped& DeviceStep::shaped_for(std::int64_t tokens, std::int64_t sequences, std::int64_t longest) {
  for (auto it = shapes_.begin(); it != shapes_.end(); ++it) {
    const TokenBatch& known = it->batch.tokens;
    if (known.tokens() != tokens || known.offsets.numel() != sequences + 1 || known.longest != longest) continue;
    shapes_.splice(shapes_.begin(), shapes_, it);
    return shapes_.front();
  }
  if (shapes_.size() == kMaxShapes) shapes_.pop_back();
  Shaped shaped;
  shaped.inputs = Tensor::empty({3 * tokens + sequences + 1}, DType::i32, device_);
  shaped.batch.tokens = {shaped.inputs.slice(0, 0, tokens), shaped.inputs.slice(0, tokens, tokens),
                         shaped.inputs.slice(0, 3 * tokens, sequences + 1), longest};
  shaped.batch.labels = shaped.inputs.slice(0, 2 * tokens, tokens);
  shapes_.push_front(std::move(shaped));
  return shapes_.front();
}

// A new shape runs launch by launch, in memory beside that of the recordings. Where there would be too little of it
// they are given up, to be made again.
void DeviceStep::make_room(std::int64_t tokens) {
  if (memory_ == nullptr || recorded_tokens_ == 0) return;
  backend(device_).trim(device_);
  const double needed = static_cast<double>(memory_->reserved_bytes()) * static_cast<double>(tokens) /
                        static_cast<double>(recorded_tokens_);
  if (static_cast<double>(backend(device_).memory(device_).free) < needed) forget_recordings();
}

void DeviceStep::forget_recordings() {
  for (Shaped& shape : shapes_) {
    shape.gradient.recording.reset();
    shape.step.recording.reset();
  }
  update_.recording.reset();
  memory_.reset();
  recorded_tokens_ = 0;
}

std::unique_ptr<Recording> DeviceStep::record(const std::function<void()>& work) {
  if (memory_ != nullptr) {
    try {
      return backend(device_).record(device_, work, memory_);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::out_of_memory) throw;
    }
    forget_recordings();  // they are in the way
  }
  std::shared_ptr<RecordingMemory> memory = backend(device_).recording_memory(device_);
  std::unique_ptr<Recording> recording = backend(device_).record(device_, work, memory);
  memory_ = std::move(memory);  // where there is too little for a recording, nothing is kept for it
  return recording;
}

// The first time plans are made and memory is found; the second time the work is recorded.
void DeviceStep::run(Repeated& known, const std::function<void()>& work) {
  if (known.recording == nullptr && known.ran && settings_.record && fused_enabled()) {
    backend(device_).trim(device_);  // what launch by launch took, the recording now takes for itself
    try {
      known.recording = record(work);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      settings_.record = false;  // a composite that looks at values
      report_fallback("a training step", device_, "it is not recorded, since one of its ops waits for the device");
    }
  }
  if (known.recording != nullptr) {
    known.recording->replay();
  } else {
    work();
  }
  known.ran = true;
}

void DeviceStep::run_shaped(const Shaped& shaped, Repeated& known, const std::function<void()>& work) {
  const std::int64_t tokens = shaped.batch.tokens.tokens();
  if (!known.ran) make_room(tokens);
  run(known, work);
  if (known.recording != nullptr) recorded_tokens_ = std::max(recorded_tokens_, tokens);
}

void DeviceStep::forward_backward(const Batch& batch) {
  std::optional<GemmTuning> tuning;
  if (task_.takes_padding()) tuning.emplace();  // otherwise the shapes of products seldom come again
  Tape tape;
  const Tensor loss = task_.loss(batch);
  backend(device_).add_into(loss.detach(), results_.select(0, 0));
  tape.backward(loss, seed_);
  adapter_.require_gradients();
}

void DeviceStep::forward_backward_now(const Batch& batch, std::uint32_t pass) {
  task_.set_dropout(settings_.dropout, settings_.seed, pass);
  try {
    forward_backward(batch);
  } catch (...) {  // out of memory: what is computed next has no dropout because of that
    task_.set_dropout(0, 0, 0);
    throw;
  }
  task_.set_dropout(0, 0, 0);
}

void DeviceStep::begin(std::int64_t terms) {
  adapter_.zero_grad();
  results_.fill(0);
  seed_.fill(1.0 / static_cast<double>(terms));
}

DeviceStep::Shaped& DeviceStep::padded_into_place(const Batch& batch) {
  const std::int64_t tokens = std::max(
      settings_.token_budget > 0 ? settings_.token_budget : bucket(batch.tokens.tokens()), batch.tokens.tokens());
  const std::int64_t padding = tokens - batch.tokens.tokens();
  const auto power_of_two = [](std::int64_t n) {
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n)));
  };
  const std::int64_t rows = batch.tokens.offsets.numel() - 1;
  const std::int64_t sequences = power_of_two(rows + (padding > 0 ? 1 : 0));
  const std::int64_t longest = std::max(batch.tokens.longest, padding);
  const bool even = padding == 0 && sequences * longest == tokens;  // sequences of one length, which kernels may know
  Shaped& shaped = shaped_for(tokens, sequences, even ? longest : std::min(power_of_two(longest), tokens));
  shaped.inputs.copy_from(Tensor::from(padded(batch, tokens, sequences, settings_.pad_id), shaped.inputs.shape()));
  return shaped;
}

void DeviceStep::accumulate(const Batch& batch, std::uint32_t pass) {
  if (!task_.takes_padding()) return forward_backward_now(batch, pass);
  Shaped& shaped = padded_into_place(batch);
  // Dropout's masks differ from pass to pass in more than what lies in memory.
  if (settings_.dropout > 0) return forward_backward_now(shaped.batch, pass);
  run_shaped(shaped, shaped.gradient, [&] { forward_backward(shaped.batch); });
}

void DeviceStep::apply() {
  clipped_adamw_step(adapter_.values(), adapter_.gradients(), exp_avg_, exp_avg_sq_, settings_.adamw,
                     settings_.max_grad_norm, schedule_, results_.slice(0, 1, 1));
  task_.refresh_adapter();
}

DeviceStep::Result DeviceStep::update(const Batch& last, std::uint32_t pass, double learning_rate, std::int64_t step) {
  const auto exponent = static_cast<double>(step);
  schedule_.copy_from(Tensor::from(std::vector<double>{learning_rate, 1 - std::pow(settings_.adamw.beta1, exponent),
                                                       1 - std::pow(settings_.adamw.beta2, exponent)},
                                   {3}));
  if (task_.takes_padding() && settings_.dropout == 0) {
    Shaped& shaped = padded_into_place(last);
    run_shaped(shaped, shaped.step, [&] {
      forward_backward(shaped.batch);
      apply();
    });
  } else {
    accumulate(last, pass);
    run(update_, [this] { apply(); });
  }
  const std::vector<double> results = results_.to_vector<double>();
  return {results[0], results[1]};
}

}  // namespace wick
