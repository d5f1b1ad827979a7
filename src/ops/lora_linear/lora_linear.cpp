#include "ops/lora_linear/lora_linear.h"
#include "ops/op.h"

#include "backend/gemm.h"

namespace wick {

Kernels<LoraProject> lora_project;
Kernels<LoraFactorGradients> lora_factor_gradients;

namespace {

constexpr const char* kOp = "lora_linear";
constexpr std::int64_t kFewTokens = 8;  // up to here gemm() streams the factor past x, which no kernel here does better

void check(const Tensor& x, const LoraWeight& weight, const Tensor& bias, std::span<const LoraBranch> branches) {
  check_floating(kOp, "x", x);
  check_same_dtype(kOp, x, "weight", weight.core());
  check_same_device(kOp, x, "weight", weight.core());
  const std::int64_t n = weight.core().size(0);
  if (x.rank() != 2 || x.size(1) != weight.core().size(1)) {
    fail(ErrorCode::invalid_argument, "[lora_linear] the weight has shape {}, x has shape {}",
         to_string(weight.core().shape()), to_string(x.shape()));
  }
  if (bias.defined() && (bias.rank() != 1 || bias.size(0) != n || bias.dtype() != x.dtype())) {
    fail(ErrorCode::invalid_argument, "[lora_linear] bias is {}, expected {} [{}]", describe(bias),
         to_string(x.dtype()), n);
  }
  if (branches.size() != weight.blocks().size()) {
    fail(ErrorCode::invalid_argument, "[lora_linear] {} adapters for a weight of {} projections", branches.size(),
         weight.blocks().size());
  }
}

// The specification: what PEFT computes, projection by projection.
Tensor composite(const Tensor& x, const LoraWeight& weight, const Tensor& bias, std::span<const LoraBranch> branches,
                 const Dropout& options) {
  const Tensor base = linear(x, weight.core(), bias);
  std::vector<Tensor> columns;
  for (std::size_t i = 0; i < branches.size(); ++i) {
    const LoraWeight::Block& block = weight.blocks()[i];
    Tensor y = slice(base, 1, block.out_begin, block.out_size);
    if (block.rank_size > 0) {
      const Tensor dropped =
          dropout(x, {options.p, options.seed, options.module + static_cast<std::uint32_t>(i), options.pass});
      const Tensor h = linear(dropped, cast(branches[i].a, x.dtype()));
      y = add(y, linear(h, cast(mul(branches[i].b, block.scale), x.dtype())));
    }
    columns.push_back(y);
  }
  return columns.size() == 1 ? columns[0] : concat(columns, 1);
}

// A device without a kernel for these is none that falls back: gemm() is its way.
template <class Signature, class... Args>
bool run_skinny(Kernels<Signature>& kernels, const Tensor& x, Args&&... args) {
  return kernels.on(x.device().type) != nullptr && x.size(0) > kFewTokens &&
         run_kernel(kOp, kernels, x.device(), std::forward<Args>(args)...);
}

// Measured on an H200 (lora_bench, 8,192 tokens): the fused pass over dy pays for one short rank and outputs no
// narrower than inputs; the library is faster otherwise, and always for h.
bool fused_gradients_pay(const LoraWeight& weight) {
  return weight.rank() <= 16 && weight.core().size(1) <= weight.core().size(0);
}

// g, dA and dB as products of the library. Without `padding` the columns of g past the last sibling's stay as they are.
// `stacked`, where defined, is all of da in one: x is then read once.
void factor_gradients(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight, bool padding,
                      const Tensor& g, const Tensor& stacked, std::span<const Tensor> da, std::span<const Tensor> db) {
  if (padding) gemm(dy, weight.scaled_b(), g);
  for (std::size_t i = 0; i < weight.blocks().size(); ++i) {
    const LoraWeight::Block& block = weight.blocks()[i];
    if (block.rank_size == 0) continue;
    const Tensor dy_i = dy.slice(1, block.out_begin, block.out_size);
    const Tensor g_i = g.slice(1, block.rank_begin, block.rank_size);
    const Tensor b_i =
        weight.scaled_b().slice(0, block.out_begin, block.out_size).slice(1, block.rank_begin, block.rank_size);
    if (!padding) gemm(dy_i, b_i, g_i);
    if (da[i].defined() && !stacked.defined()) gemm(g_i.transpose(0, 1), x, da[i]);
    if (db[i].defined()) {
      gemm(dy_i.transpose(0, 1), h.slice(1, block.rank_begin, block.rank_size), db[i], block.scale);
    }
  }
  if (stacked.defined()) gemm(g.slice(1, 0, stacked.size(0)).transpose(0, 1), x, stacked);
}

// The ranks of all siblings, without padding.
std::int64_t ranks_of(const LoraWeight& weight) {
  return weight.blocks().back().rank_begin + weight.blocks().back().rank_size;
}

}  // namespace

Tensor with_border(const Tensor& m, std::int64_t border) {
  return m.as_strided({m.size(0), m.size(1) + border}, {m.size(1) + m.storage()->border(), 1});
}

Tensor claim_border(const Tensor& m, const LoraWeight& weight) {
  if (!weight.bordered().defined()) return {};
  const Tensor spare = m.border_columns();
  if (!spare.defined() || spare.size(1) < weight.rank() || !m.storage()->claim_border()) return {};
  return spare.slice(1, 0, weight.rank());
}

LoraForward lora_forward(const Tensor& x, const LoraWeight& weight, const Tensor& bias) {
  const Tensor y = Tensor::empty({x.size(0), weight.core().size(0)}, x.dtype(), x.device());
  if (bias.defined()) y.copy_from(bias.expand(y.shape()));
  const double beta = bias.defined() ? 1.0 : 0.0;
  const Tensor border = claim_border(x, weight);
  if (border.defined()) {
    gemm(x, weight.a().transpose(0, 1), border);
    const Tensor rows = weight.bordered().slice(0, 0, y.size(1));
    gemm(with_border(x, weight.rank()), rows.transpose(0, 1), y, 1.0, beta);
    return {y, border};
  }
  const Tensor h = Tensor::empty({x.size(0), weight.rank()}, x.dtype(), x.device());
  gemm(x, weight.core().transpose(0, 1), y, 1.0, beta);
  gemm(x, weight.a().transpose(0, 1), h);
  for (const LoraWeight::Block& block : weight.blocks()) {
    if (block.rank_size == 0) continue;
    const Tensor b =
        weight.scaled_b().slice(0, block.out_begin, block.out_size).slice(1, block.rank_begin, block.rank_size);
    gemm(h.slice(1, block.rank_begin, block.rank_size), b.transpose(0, 1), y.slice(1, block.out_begin, block.out_size),
         1.0, 1.0);
  }
  return {y, h};
}

LoraGradients lora_backward(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight, bool needs_x,
                            const std::vector<bool>& needs_a, const std::vector<bool>& needs_b) {
  LoraGradients result;
  const DType sums = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor all = Tensor::empty({ranks_of(weight), x.size(1)}, sums, x.device());
  bool every = true;
  for (std::size_t i = 0; i < weight.blocks().size(); ++i) {
    const LoraWeight::Block& block = weight.blocks()[i];
    const bool adapted = block.rank_size > 0;
    every = every && (!adapted || needs_a[i]);
    result.da.push_back(adapted && needs_a[i] ? all.slice(0, block.rank_begin, block.rank_size) : Tensor());
    result.db.push_back(adapted && needs_b[i] ? Tensor::empty({block.out_size, block.rank_size}, sums, x.device())
                                              : Tensor());
  }
  const Tensor border = claim_border(dy, weight);
  const Tensor g = border.defined() ? border : Tensor::empty({x.size(0), weight.rank()}, x.dtype(), x.device());
  if (!fused_gradients_pay(weight) ||
      !run_skinny(lora_factor_gradients, x, dy, x, h, weight, g, result.da, result.db)) {
    factor_gradients(dy, x, h, weight, border.defined(), g, every ? all : Tensor(), result.da, result.db);
  }
  if (!needs_x) return result;
  result.dx = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (border.defined()) {
    gemm(with_border(dy, weight.rank()), weight.bordered().slice(1, 0, x.size(1)), result.dx);
  } else {
    gemm(dy, weight.core(), result.dx);
    const std::int64_t rank = ranks_of(weight);
    gemm(g.slice(1, 0, rank), weight.a().slice(0, 0, rank), result.dx, 1.0, 1.0);
  }
  return result;
}

Tensor lora_linear(const Tensor& x, const LoraWeight& weight, const Tensor& bias, std::span<const LoraBranch> branches,
                   const Dropout& options, const std::function<Tensor()>& again) {
  check(x, weight, bias, branches);
  if (weight.rank() == 0) return linear(x, weight.core(), bias);
  if (!fused_enabled() || options.p > 0) return composite(x, weight, bias, branches, options);

  std::vector<Tensor> inputs = {x};
  for (const LoraBranch& branch : branches) {
    inputs.push_back(branch.a);
    inputs.push_back(branch.b);
  }
  const Tensor rows = as_rows(x.detach());  // a view, with its border, unless x is no plain matrix of rows
  auto [y, h] = lora_forward(rows, weight, bias.detach());
  Tensor* outputs[] = {&y};
  const bool kept = !again || !recording(inputs);
  const Tensor saved_h = kept ? h : h.clone();  // it may stand in x's border
  record(kOp, inputs, outputs,
         [saved = kept ? rows : Tensor(), again, h = saved_h, weight](std::span<const Tensor> grad,
                                                                      const std::vector<bool>& needs) {
           const Tensor rows = saved.defined() ? saved : as_rows(again());
           std::vector<bool> needs_a;
           std::vector<bool> needs_b;
           for (std::size_t i = 1; i < needs.size(); i += 2) {
             needs_a.push_back(needs[i]);
             needs_b.push_back(needs[i + 1]);
           }
           const Tensor dy = as_rows(grad[0]);
           LoraGradients grads = lora_backward(dy, rows, h, weight, needs[0], needs_a, needs_b);
           std::vector<Tensor> result = {grads.dx};
           for (std::size_t i = 0; i < grads.da.size(); ++i) {
             result.push_back(grads.da[i]);
             result.push_back(grads.db[i]);
           }
           return result;
         });
  return y;
}

}  // namespace wick
