#include "generate/decode_step.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "backend/backend.h"
#include "core/fail.h"
#include "generate/device_sampler.h"
#include "generate/sampling.h"
#include "ops/op.h"

namespace wick {
namespace {

// The logits of the token behind `ids`, f32 [1, vocab_size], after they went into the cache.
Tensor logits_behind(const Decoder& model, std::span<const std::int32_t> ids, std::int64_t chunk, KvCache& cache) {
  Tensor hidden;
  while (!ids.empty()) {
    const auto part = ids.first(std::min(ids.size(), static_cast<std::size_t>(chunk)));
    hidden = model.forward(TokenBatch::single(part, cache.length()), &cache);
    ids = ids.subspan(part.size());
  }
  return model.logits(hidden.slice(0, hidden.size(0) - 1, 1));
}

KvCache make_cache(const Decoder& model, std::span<const std::int32_t> prompt, std::int64_t limit) {
  // The last token is never read.
  return {model.config(), std::ssize(prompt) + limit - 1, model.dtype(), model.device()};
}

class HostDecodeStep final : public DecodeStep {
 public:
  HostDecodeStep(const Decoder& model, const GenerateOptions& options, std::span<const std::int32_t> prompt,
                 std::int64_t limit)
      : model_(model),
        sampler_(options.sampling, options.seed, model.config().vocab_size, prompt),
        cache_(make_cache(model, prompt, limit)) {
    logits_ = logits_behind(model, prompt, options.prefill_chunk, cache_).to(Device::cpu());
  }

  std::int32_t next() override {
    if (last_) logits_ = logits_behind(model_, std::span(&*last_, 1), 1, cache_).to(Device::cpu());
    last_ = sampler_.next(std::span(logits_.data<float>(), static_cast<std::size_t>(logits_.numel())));
    return *last_;
  }

 private:
  const Decoder& model_;
  Sampler sampler_;
  KvCache cache_;
  Tensor logits_;
  std::optional<std::int32_t> last_;
};

class DeviceDecodeStep final : public DecodeStep {
 public:
  DeviceDecodeStep(const Decoder& model, DeviceSampler sampler, const GenerateOptions& options,
                   std::span<const std::int32_t> prompt, std::int64_t limit)
      : model_(model),
        backend_(backend(model.device())),
        sampler_(std::move(sampler)),
        cache_(make_cache(model, prompt, limit)),
        token_(TokenBatch::single(std::vector<std::int32_t>{0}).to(model.device())),
        limit_(limit) {
    for (auto& slot : slots_) slot = backend_.readback(model.device(), sizeof(std::int32_t));
    sampler_.next(logits_behind(model, prompt, options.prefill_chunk, cache_), token_.ids);
    send();
    backend_.synchronize(model.device());
  }

  std::int32_t next() override {
    // Not waited for: the device has the token already. If it ends the generation, this step was for nothing.
    if (sent_ < limit_) {
      run();
      send();
    }
    std::int32_t id = 0;
    std::memcpy(&id, slots_[received_++ % 2]->receive(), sizeof id);
    if (id < 0) {
      fail(ErrorCode::diverged, "a logit is NaN, or the largest of {} is not finite", model_.config().vocab_size);
    }
    return id;
  }

 private:
  // Reads the token that was chosen last and chooses the one behind it. Its position is the cache's.
  void step() { sampler_.next(model_.next_logits(token_, cache_), token_.ids); }

  void send() { slots_[sent_++ % 2]->send(token_.ids); }

  // The first time tables are made and memory is found; the second time the step is recorded.
  void run() {
    if (recording_ == nullptr && ran_ && record_) {
      const std::int64_t before = cache_.length();
      try {
        recording_ = backend_.record(model_.device(), [this] { step(); });
      } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
        record_ = false;  // a composite that looks at values
        report_fallback("a decoding step", model_.device(),
                        "it is not recorded, since one of its ops waits for the device");
      }
      cache_.truncate(before);  // nothing has run yet
    }
    if (recording_ == nullptr) {
      step();
    } else {
      recording_->replay();
      cache_.replayed(1);
    }
    ran_ = true;
  }

  const Decoder& model_;
  Backend& backend_;
  DeviceSampler sampler_;
  KvCache cache_;
  TokenBatch token_;  // one, at a fixed address; its positions are not looked at
  std::int64_t limit_;
  std::unique_ptr<Readback> slots_[2];  // one token may be on its way while the next one is made
  std::int64_t sent_ = 0;
  std::int64_t received_ = 0;
  bool ran_ = false;
  bool record_ = fused_enabled();
  std::unique_ptr<Recording> recording_;
};

}  // namespace

std::unique_ptr<DecodeStep> make_decode_step(const Decoder& model, const GenerateOptions& options,
                                             std::span<const std::int32_t> prompt, std::int64_t limit) {
  const Device device = model.device();
  std::optional<DeviceSampler> sampler;
  if (device.type != DeviceType::cpu) {
    try {
      sampler.emplace(options.sampling, options.seed, model.config().vocab_size, prompt, device);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      report_fallback("choosing a token", device, "no kernel takes this vocabulary, so logits go to the host");
    }
  }
  if (!sampler) return std::make_unique<HostDecodeStep>(model, options, prompt, limit);
  return std::make_unique<DeviceDecodeStep>(model, std::move(*sampler), options, prompt, limit);
}

}  // namespace wick
