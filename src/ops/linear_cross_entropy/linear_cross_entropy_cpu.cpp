#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/op.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_cross_entropy/linear_cross_entropy_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#include <algorithm>
#include <cmath>

#include "backend/cpu/simd-inl.h"
#include "backend/gemm.h"
#include "core/dispatch.h"
#include "core/parallel.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace wick {
namespace HWY_NAMESPACE {

HWY_ATTR float max_of_row(FloatTag d, const float* row, std::size_t n) {
  const std::size_t lanes = hn::Lanes(d);
  auto a = hn::Set(d, row[0]), b = a, c = a, e = a;
  std::size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = hn::Max(a, hn::LoadU(d, row + i));
    b = hn::Max(b, hn::LoadU(d, row + i + lanes));
    c = hn::Max(c, hn::LoadU(d, row + i + 2 * lanes));
    e = hn::Max(e, hn::LoadU(d, row + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) a = hn::Max(a, hn::LoadU(d, row + i));
  float top = hn::GetLane(hn::MaxOfLanes(d, hn::Max(hn::Max(a, b), hn::Max(c, e))));
  for (; i < n; ++i) top = std::max(top, row[i]);
  return top;
}

// losses[i] = the cross-entropy of row i of `logits`; where `grads` is given (it may be `logits` itself), its rows
// become softmax - (1 - s) onehot(target) - s / vocab.
template <class T>
HWY_ATTR void loss_rows(float* logits, T* grads, std::int64_t vocab, const std::int32_t* targets, double smoothing,
                        double* losses, std::int64_t begin, std::int64_t end) {
  const FloatTag d;
  const auto n = static_cast<std::size_t>(vocab);
  for (std::int64_t row = begin; row < end; ++row) {
    float* in = logits + row * vocab;
    T* out = grads == nullptr ? nullptr : grads + row * vocab;
    const float top = max_of_row(d, in, n);
    const auto vtop = hn::Set(d, top);
    const double target = in[targets[row]];
    double below = 0;  // mean over the vocabulary of top - logit
    if (smoothing != 0) {
      below = static_cast<double>(sum_row(d, n,
                                          [&](std::size_t i, std::size_t k) HWY_ATTR {
                                            const auto z = hn::Sub(vtop, load_some(d, in + i, k));
                                            return k == hn::Lanes(d) ? z : hn::IfThenElseZero(hn::FirstN(d, k), z);
                                          })) /
              static_cast<double>(n);
    }
    // exp() maps NaN to 0, which would hide a model that has diverged.
    const float total = sum_row(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      const auto z = hn::Sub(load_some(d, in + i, k), vtop);
      auto e = hn::IfThenElse(hn::IsNaN(z), z, hn::Exp(d, z));
      if (k != hn::Lanes(d)) e = hn::IfThenElseZero(hn::FirstN(d, k), e);
      if (out != nullptr) store_some(d, e, in + i, k);
      return e;
    });
    losses[row] = std::log(static_cast<double>(total)) + (1 - smoothing) * (static_cast<double>(top) - target) +
                  smoothing * below;
    if (out == nullptr) continue;
    const auto inverse = hn::Set(d, 1.0F / total);
    const auto spread = hn::Set(d, static_cast<float>(smoothing / static_cast<double>(n)));
    const float at_target = in[targets[row]] / total - static_cast<float>(1 - smoothing) -
                            static_cast<float>(smoothing / static_cast<double>(n));
    each_vector(d, n, [&](std::size_t i, std::size_t k) HWY_ATTR {
      store_some(d, hn::MulSub(load_some(d, in + i, k), inverse, spread), out + i, k);
    });
    out[targets[row]] = T(at_target);
  }
}

void loss_chunk(float* logits, const Tensor& grads, std::int64_t vocab, const std::int32_t* targets, double smoothing,
                double* losses, std::int64_t begin, std::int64_t end) {
  if (!grads.defined()) {
    return loss_rows<float>(logits, nullptr, vocab, targets, smoothing, losses, begin, end);
  }
  visit_narrow(grads.dtype(), [&](auto tag) {
    using T = decltype(tag);
    loss_rows<T>(logits, grads.data<T>(), vocab, targets, smoothing, losses, begin, end);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace wick
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace wick {

HWY_EXPORT(loss_chunk);

namespace {

void fill_zero(const Tensor& t) {
  std::fill_n(t.raw(), static_cast<std::size_t>(t.numel()) * size_of(t.dtype()), std::byte{});
}

}  // namespace

Declined linear_cross_entropy_cpu(const Tensor& x, const Tensor& weight, const Tensor& labels, double label_smoothing,
                                  std::int64_t chunk, const Tensor& loss, const Tensor& token_losses, const Tensor& dx,
                                  const Tensor& dweight) {
  if (x.dtype() == DType::f64) return "f64";
  const bool rows_dense = weight.stride(1) == 1 && weight.stride(0) >= weight.size(1);
  const bool columns_dense = weight.stride(0) == 1 && weight.stride(1) >= weight.size(0);
  if (!rows_dense && !columns_dense) return "a weight with neither stride 1";

  const std::int64_t vocab = weight.size(0);
  std::vector<std::int64_t> rows;
  std::vector<std::int32_t> targets;
  for (std::int64_t i = 0; i < labels.numel(); ++i) {
    if (labels.data<std::int32_t>()[i] < 0) continue;
    rows.push_back(i);
    targets.push_back(labels.data<std::int32_t>()[i]);
  }
  const auto trained = static_cast<std::int64_t>(rows.size());
  if (token_losses.defined()) fill_zero(token_losses);
  if (dx.defined() && trained < labels.numel()) fill_zero(dx);
  if (dweight.defined()) fill_zero(dweight);

  // f16 has no GEMM worth the name on a CPU: it computes in f32, from one converted copy of the head.
  const DType dtype = x.dtype() == DType::f16 ? DType::f32 : x.dtype();
  const Tensor head = weight.to(dtype);
  const std::int64_t limit = std::min(trained, chunk > 0 ? chunk : logit_rows(DeviceType::cpu, trained, vocab));
  const Tensor inputs = Tensor::empty({limit, x.size(1)}, dtype);
  const Tensor logits = Tensor::empty({limit, vocab}, DType::f32);
  const bool gradients = dx.defined() || dweight.defined();
  Tensor dlogits;
  if (gradients) dlogits = dtype == DType::f32 ? logits : Tensor::empty({limit, vocab}, dtype);
  Tensor dinputs;
  if (dx.defined()) dinputs = Tensor::empty({limit, x.size(1)}, dtype == x.dtype() ? dtype : DType::f32);

  const auto run = HWY_DYNAMIC_DISPATCH(loss_chunk);
  std::vector<double> losses(rows.size());
  for (std::int64_t start = 0; start < trained; start += limit) {
    const std::int64_t count = std::min(limit, trained - start);
    const auto first = [count](const Tensor& t) { return t.slice(0, 0, count); };
    for (std::int64_t i = 0; i < count; ++i) {
      inputs.select(0, i).copy_from(x.select(0, rows[static_cast<std::size_t>(start + i)]));
    }
    gemm(first(inputs), head.transpose(0, 1), first(logits));
    parallel_for(count, rows_per_piece(vocab), [&](std::int64_t begin, std::int64_t end) {
      run(logits.data<float>(), dlogits, vocab, targets.data() + start, label_smoothing, losses.data() + start, begin,
          end);
    });
    if (dx.defined()) {
      gemm(first(dlogits), head, first(dinputs));
      for (std::int64_t i = 0; i < count; ++i) {
        dx.select(0, rows[static_cast<std::size_t>(start + i)]).copy_from(dinputs.select(0, i));
      }
    }
    if (dweight.defined()) gemm(first(dlogits).transpose(0, 1), first(inputs), dweight, 1.0, 1.0);
  }

  double total = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    total += losses[i];
    if (token_losses.defined()) token_losses.data<float>()[rows[i]] = static_cast<float>(losses[i]);
  }
  *loss.data<float>() = static_cast<float>(total);
  return nullptr;
}

}  // namespace wick
#endif
