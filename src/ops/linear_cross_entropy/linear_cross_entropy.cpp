#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include <algorithm>
#include <bit>

#include "ops/op.h"

#include "backend/backend.h"
#include "core/dispatch.h"
#include "core/strided.h"

namespace wick {

Kernels<LinearCrossEntropy> linear_cross_entropy_kernels{{linear_cross_entropy_cpu}};
Kernels<LabelTargets> label_targets_kernels;

std::int64_t logit_rows(DeviceType device, std::int64_t tokens, std::int64_t vocab, bool gradient) {
  const std::int64_t row = vocab * static_cast<std::int64_t>(sizeof(float));
  if (device == DeviceType::cpu) {
    // At 4,096 and 32,000 words 256 tokens measured fastest of 64 to 1,024 in bf16, and within a tenth of the best in
    // f32: fewer read the head for too little work, more leave the cache. Past 64 MiB of logits memory counts more.
    constexpr std::int64_t kBudget = std::int64_t{64} << 20;
    return std::min(tokens, std::clamp<std::int64_t>(kBudget / row, 128, 256));
  }
  // The largest power of two whose logits stay within the budget, and fewer where that cuts the tokens into pieces of
  // one size. The logits stand beside all that the layers have saved, so they are what a training step needs at most.
  // A power of two keeps the tiles (128 x 256) of dx = dlogits W [chunk, k] even: of 512 tokens, at 128,256 and 151,936
  // words (250 and 297 MiB), there are 32 at k = 2048, 64 at 4096, so four or two parts of the vocabulary fill 128
  // multiprocessors of 132; at k = 896 they are 14. The weight, which every chunk reads again, takes a third of the
  // time that tensor cores take for its product. Losses alone are wanted where no layer has saved anything: twice as
  // many rows then take a tenth less each.
  const std::uint64_t budget = std::uint64_t{gradient ? 320U : 640U} << 20;
  const auto fitting = static_cast<std::int64_t>(std::bit_floor(budget / static_cast<std::uint64_t>(row)));
  const std::int64_t most = std::max<std::int64_t>(fitting, 128);
  const std::int64_t pieces = std::max<std::int64_t>((tokens + most - 1) / most, 1);
  const std::int64_t each = (tokens + pieces - 1) / pieces;
  return std::min(tokens, (each + 127) / 128 * 128);
}

namespace {

DType sums_of(const Tensor& x) { return x.dtype() == DType::f64 ? DType::f64 : DType::f32; }

Tensor log_softmax(const Tensor& x, const Tensor& weight) {
  const DType sums = sums_of(x);
  const Tensor logits = matmul(cast(x, sums), transpose(cast(weight, sums), 0, 1));
  const Tensor shifted = sub(logits, max(logits, -1, true));
  return sub(shifted, log(sum(exp(shifted), -1, true)));
}

// `labels` as the kernels take them. Rows with -1 are left out before any logit is computed.
Tensor composite(const Tensor& x, const Tensor& weight, const Tensor& labels, double smoothing) {
  std::vector<std::int32_t> rows;
  std::vector<std::int32_t> targets;
  const std::vector<std::int32_t> values = labels.to_vector<std::int32_t>();  // a device is waited for here
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0) continue;
    rows.push_back(static_cast<std::int32_t>(i));
    targets.push_back(values[i]);
  }
  const Shape count{static_cast<std::int64_t>(rows.size())};
  const Tensor log_probs = log_softmax(gather_rows(x, Tensor::from(rows, count).to(x.device())), weight);
  const Tensor likelihood = sum(gather_columns(log_probs, Tensor::from(targets, count).to(x.device())));
  if (smoothing == 0) return mul(likelihood, -1.0);
  return add(mul(likelihood, smoothing - 1.0), mul(sum(mean(log_probs, -1)), -smoothing));
}

void check(const char* op, const Tensor& x, const Tensor& weight, const char* what, const Tensor& labels) {
  check_floating(op, "x", x);
  check_same_dtype(op, x, "weight", weight);
  if (x.rank() != 2 || weight.rank() != 2 || x.size(1) != weight.size(1) || weight.size(0) == 0) {
    fail(ErrorCode::invalid_argument, "[{}] x is {} and weight {}, expected [tokens, k] and [vocab, k]", op,
         describe(x), describe(weight));
  }
  if (!labels.defined() || is_floating(labels.dtype()) || labels.rank() != 1 || labels.size(0) != x.size(0)) {
    fail(ErrorCode::invalid_argument, "[{}] {} is {}, expected i32 or i64 [{}]", op, what, describe(labels), x.size(0));
  }
  check_same_device(op, x, "weight", weight);
  check_same_device(op, x, what, labels);
}

// i32, dense, with -1 for ignore_index.
Tensor checked_labels(const Tensor& labels, std::int64_t vocab, std::int64_t ignore_index) {
  Tensor checked = Tensor::empty(labels.shape(), DType::i32, labels.device());
  if (LabelTargets* kernel = label_targets_kernels.on(labels.device().type)) {
    kernel(labels.contiguous(), vocab, ignore_index, checked);
    return checked;
  }
  const Tensor wide = labels.to(DType::i64).contiguous();
  for (std::int64_t i = 0; i < wide.numel(); ++i) {
    const std::int64_t label = wide.data<std::int64_t>()[i];
    const bool ignored = label == ignore_index;
    if (!ignored && (label < 0 || label >= vocab)) {
      fail(ErrorCode::invalid_argument, "[linear_cross_entropy] labels[{}] is {}, expected 0 to {}, or {} to ignore", i,
           label, vocab - 1, ignore_index);
    }
    checked.data<std::int32_t>()[i] = ignored ? -1 : static_cast<std::int32_t>(label);
  }
  return checked;
}

// In place: the node that saved it runs once, and nobody else holds it.
void scale(const Tensor& t, const Tensor& by_tensor) {
  if (!t.defined()) return;
  if (Backend* device = accelerator(t)) return device->scale(t, by_tensor);
  const double by = by_tensor.item();
  if (by == 1.0) return;
  visit_floating(t.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using S = Accumulator<T>;
    for_each_strided<const T, T>(
        t, t, [s = static_cast<S>(by)](const T& from, T& to) { to = convert<T>(convert<S>(from) * s); });
  });
}

}  // namespace

Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& labels,
                            const CrossEntropyOptions& options) {
  constexpr const char* kOp = "linear_cross_entropy";
  check(kOp, x, weight, "labels", labels);
  if (!(options.label_smoothing >= 0 && options.label_smoothing < 1)) {
    fail(ErrorCode::invalid_argument, "[{}] label_smoothing is {}, expected [0, 1)", kOp, options.label_smoothing);
  }
  if (options.chunk < 0) fail(ErrorCode::invalid_argument, "[{}] chunk is {}, expected 0 or more", kOp, options.chunk);
  const Tensor targets = checked_labels(labels, weight.size(0), options.ignore_index);

  const bool grads = recording({x, weight});
  Tensor loss = Tensor::empty({}, DType::f32, x.device());
  Tensor dx = grads && x.needs_grad() ? Tensor::empty(x.shape(), x.dtype(), x.device()) : Tensor();
  Tensor dweight = grads && weight.needs_grad() ? Tensor::empty(weight.shape(), DType::f32, x.device()) : Tensor();
  if (!run_kernel(kOp, linear_cross_entropy_kernels, x.device(), x.detach(), weight.detach(), targets,
                  options.label_smoothing, options.chunk, loss, Tensor(), dx, dweight)) {
    return composite(x, weight, targets, options.label_smoothing);
  }
  record(kOp, {x, weight}, {&loss},
         [dx = std::move(dx), dweight = std::move(dweight), dtype = weight.dtype()](std::span<const Tensor> dloss,
                                                                                    const std::vector<bool>&) {
           scale(dx, dloss[0]);
           scale(dweight, dloss[0]);
           return std::vector<Tensor>{dx, dweight.defined() ? dweight.to(dtype) : Tensor()};
         });
  return loss;
}

Tensor token_log_probs(const Tensor& x, const Tensor& weight, const Tensor& targets) {
  constexpr const char* kOp = "token_log_probs";
  check(kOp, x, weight, "targets", targets);
  const Tensor columns = checked_indices(kOp, "targets", targets, weight.size(0));
  const NoGrad no_grad;
  const Tensor loss = Tensor::empty({}, DType::f32, x.device());
  const Tensor losses = Tensor::empty({x.size(0)}, DType::f32, x.device());
  if (!run_kernel(kOp, linear_cross_entropy_kernels, x.device(), x.detach(), weight.detach(), columns, 0.0,
                  std::int64_t{0}, loss, losses, Tensor(), Tensor())) {
    return gather_columns(log_softmax(x.detach(), weight.detach()), columns);
  }
  return mul(losses, -1.0);
}

}  // namespace wick
