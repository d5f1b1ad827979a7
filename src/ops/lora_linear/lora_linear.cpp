#include "ops/lora_linear/lora_linear.h"
#include "ops/op.h"

#include "backend/gemm.h"
#include "core/batch_invariance.h"

namespace wick {

Kernels<LoraFactorGradients> lora_factor_gradients;
Kernels<LoraOuterProducts> lora_outer_products;
Kernels<LoraProduct> lora_product;

namespace {

constexpr const char* kOp = "lora_linear";

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

// Measured on an H200 (lora_bench, 8,192 tokens): up to this rank reading dy and x once pays, beyond it the library's
// products are faster.
constexpr std::int64_t kMostFusedRank = 32;
constexpr std::int64_t kMostOuterRank = 48;      // the highest that lora_outer_products takes
constexpr std::int64_t kFewTokens = 8;           // up to here a tile would be nearly empty
constexpr std::int64_t kMostInside = 48;         // the highest rank of a g that is made within dx
constexpr std::int64_t kMostInsideForward = 32;  // of an h within y: the tiles that make it hold up the others
constexpr std::int64_t kMostColumns = 8;         // of y, over those of x: many short tiles lose more than h costs
constexpr std::int64_t kMostElements = 1 << 25;  // of the weight: beyond, the library wins by more than h takes
constexpr std::int64_t kManyTokens = 1024;       // fewer do not fill a device with tiles

// A device without a kernel for these is none that falls back: gemm() is its way.
bool fused_gradients(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight, const Tensor& g,
                     std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  return lora_factor_gradients.on(x.device().type) != nullptr && x.size(0) > kFewTokens &&
         weight.rank() <= kMostFusedRank &&
         run_kernel(kOp, lora_factor_gradients, x.device(), dy, x, h, weight, g, da, db, add);
}

// True if the narrow product is to be made within the large one; the kernel may still decline.
bool wants_inside(LoraWay way, const Tensor& from, const LoraWeight& weight) {
  return lora_product.on(from.device().type) != nullptr && !BatchInvariance::wanted() && size_of(from.dtype()) == 2 &&
         from.size(0) >= kManyTokens && weight.rank() % 16 == 0 &&
         narrow_inside(way, weight.core().size(1), weight.core().size(0), weight.rank());
}

bool fused_outer_products(const Tensor& dy, const Tensor& x, const Tensor& h, const Tensor& g, const LoraWeight& weight,
                          std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  return lora_outer_products.on(x.device().type) != nullptr && x.size(0) > kFewTokens &&
         weight.rank() <= kMostOuterRank &&
         run_kernel(kOp, lora_outer_products, x.device(), dy, x, h, g, weight, da, db, add);
}

// The ranks of all siblings, without padding.
std::int64_t ranks_of(const LoraWeight& weight) {
  return weight.blocks().back().rank_begin + weight.blocks().back().rank_size;
}

// All of da as one matrix [ranks, k], where they lie one behind the other; undefined where they do not, or one is not
// wanted.
Tensor in_one(const LoraWeight& weight, std::span<const Tensor> da) {
  Tensor first;
  const std::byte* end = nullptr;
  for (std::size_t i = 0; i < da.size(); ++i) {
    if (weight.blocks()[i].rank_size == 0) continue;
    if (!da[i].defined() || !da[i].is_contiguous()) return {};
    if (first.defined() && (da[i].storage() != first.storage() || da[i].raw() != end)) return {};
    if (!first.defined()) first = da[i];
    end = da[i].raw() + static_cast<std::size_t>(da[i].numel()) * size_of(da[i].dtype());
  }
  return first.as_strided({ranks_of(weight), first.size(1)}, {first.size(1), 1});
}

// g as a product of the library. Without `padding` the columns of g past the last sibling's stay as they are.
void make_g(const Tensor& dy, const LoraWeight& weight, bool padding, const Tensor& g) {
  if (padding) {
    gemm(dy, weight.scaled_b(), g);
    return;
  }
  for (const LoraWeight::Block& block : weight.blocks()) {
    if (block.rank_size == 0) continue;
    const Tensor b =
        weight.scaled_b().slice(0, block.out_begin, block.out_size).slice(1, block.rank_begin, block.rank_size);
    gemm(dy.slice(1, block.out_begin, block.out_size), b, g.slice(1, block.rank_begin, block.rank_size));
  }
}

}  // namespace

void outer_products(const Tensor& dy, const Tensor& x, const Tensor& h, const Tensor& g, const LoraWeight& weight,
                    std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  if (fused_outer_products(dy, x, h, g, weight, da, db, add)) return;
  const double beta = add ? 1.0 : 0.0;
  const Tensor stacked = in_one(weight, da);  // x is then read once
  if (stacked.defined()) gemm(g.slice(1, 0, stacked.size(0)).transpose(0, 1), x, stacked, 1.0, beta);
  for (std::size_t i = 0; i < weight.blocks().size(); ++i) {
    const LoraWeight::Block& block = weight.blocks()[i];
    if (block.rank_size == 0) continue;
    const Tensor g_i = g.slice(1, block.rank_begin, block.rank_size);
    const Tensor h_i = h.slice(1, block.rank_begin, block.rank_size);
    const Tensor dy_i = dy.slice(1, block.out_begin, block.out_size);
    if (da[i].defined() && !stacked.defined()) gemm(g_i.transpose(0, 1), x, da[i], 1.0, beta);
    if (db[i].defined()) gemm(dy_i.transpose(0, 1), h_i, db[i], block.scale, beta);
  }
}

bool narrow_inside(LoraWay way, std::int64_t k, std::int64_t n, std::int64_t rank) {
  if (k * n > kMostElements) return false;
  return way == LoraWay::forward ? rank <= kMostInsideForward && n <= kMostColumns * k : rank <= kMostInside && k <= n;
}

Tensor with_border(const Tensor& m, std::int64_t border) {
  return m.as_strided({m.size(0), m.size(1) + border}, {m.border_columns().stride(0), 1});
}

Tensor claim_border(const Tensor& m, const LoraWeight& weight) {
  if (!weight.bordered().defined()) return {};
  const Tensor spare = m.border_columns();
  if (!spare.defined() || spare.size(1) < weight.rank() || !m.storage()->claim_border()) return {};
  return spare.slice(1, 0, weight.rank());
}

LoraForward lora_forward(const Tensor& x, const LoraWeight& weight, const Tensor& bias) {
  const Tensor y = Tensor::empty({x.size(0), weight.core().size(0)}, x.dtype(), x.device());
  const Tensor border = claim_border(x, weight);
  const Tensor h = border.defined() ? border : Tensor::empty({x.size(0), weight.rank()}, x.dtype(), x.device());
  if (wants_inside(LoraWay::forward, x, weight) &&
      run_kernel(kOp, lora_product, x.device(), LoraWay::forward, x, weight, bias, h, y)) {
    return {y, h};
  }
  if (border.defined()) {
    gemm(x, weight.a().transpose(0, 1), border);
    const Tensor rows = weight.bordered().slice(0, 0, y.size(1));
    gemm(with_border(x, weight.rank()), rows.transpose(0, 1), y, 1.0, 0.0, bias);
    return {y, border};
  }
  gemm(x, weight.core().transpose(0, 1), y, 1.0, 0.0, bias);
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

Tensor lora_backward(const Tensor& dy, Tensor x, const Tensor& h, const LoraWeight& weight, const GradPlace* place,
                     std::span<const Tensor> da, std::span<const Tensor> db, bool add) {
  const Tensor border = claim_border(dy, weight);
  const Tensor g = border.defined() ? border : Tensor::empty({x.size(0), weight.rank()}, x.dtype(), x.device());
  Tensor dx;
  if (place != nullptr && wants_inside(LoraWay::backward, dy, weight)) {
    dx = place->empty();
    if (run_kernel(kOp, lora_product, dy.device(), LoraWay::backward, dy, weight, Tensor(), g, dx)) {
      outer_products(dy, x, h, g, weight, da, db, add);
      return dx;
    }
  }
  if (!fused_gradients(dy, x, h, weight, g, da, db, add)) {
    make_g(dy, weight, border.defined(), g);
    outer_products(dy, x, h, g, weight, da, db, add);
  }
  x = {};  // perhaps made again for this alone
  if (place == nullptr) return {};
  if (!dx.defined()) dx = place->empty();
  if (border.defined()) {
    gemm(with_border(dy, weight.rank()), weight.bordered().slice(1, 0, dx.size(1)), dx);
  } else {
    gemm(dy, weight.core(), dx);
    const std::int64_t rank = ranks_of(weight);
    gemm(g.slice(1, 0, rank), weight.a().slice(0, 0, rank), dx, 1.0, 1.0);
  }
  return dx;
}

LoraGradients lora_backward(const Tensor& dy, Tensor x, const Tensor& h, const LoraWeight& weight,
                            const GradPlace* place, const std::vector<bool>& needs_a,
                            const std::vector<bool>& needs_b) {
  LoraGradients result;
  const DType sums = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor all = Tensor::empty({ranks_of(weight), x.size(1)}, sums, x.device());
  for (std::size_t i = 0; i < weight.blocks().size(); ++i) {
    const LoraWeight::Block& block = weight.blocks()[i];
    const bool adapted = block.rank_size > 0;
    result.da.push_back(adapted && needs_a[i] ? all.slice(0, block.rank_begin, block.rank_size) : Tensor());
    result.db.push_back(adapted && needs_b[i] ? Tensor::empty({block.out_size, block.rank_size}, sums, x.device())
                                              : Tensor());
  }
  result.dx = lora_backward(dy, std::move(x), h, weight, place, result.da, result.db, false);
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
  // Factors that are parameters have buffers for their gradients: these are added to right there.
  const DType sums = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  std::vector<std::shared_ptr<GradSlot>> factors;
  bool parameters = true;
  for (std::size_t i = 1; i < inputs.size(); ++i) {
    factors.push_back(inputs[i].defined() ? inputs[i].slot() : nullptr);
    const GradSlot* slot = factors.back().get();
    parameters = parameters && (slot == nullptr || (slot->leaf && slot->grad.dtype() == sums));
  }
  const bool kept = !again || !recording(inputs);
  const Tensor saved_h = kept ? h : h.clone();  // it may stand in x's border
  record(kOp, inputs, outputs,
         [saved = kept ? rows : Tensor(), again, h = saved_h, weight, factors, parameters, dx_place = GradPlace(x)](
             std::span<const Tensor> grad, const std::vector<bool>& needs) {
           Tensor rows = saved.defined() ? saved : as_rows(again());
           const GradPlace* const place = needs[0] ? &dx_place : nullptr;
           const Tensor dy = as_rows(grad[0]);
           std::vector<Tensor> result(needs.size());
           if (parameters) {
             std::vector<Tensor> sums[2];  // of a, of b
             for (std::size_t i = 0; i < factors.size(); ++i) {
               sums[i % 2].push_back(factors[i] == nullptr ? Tensor() : factors[i]->grad);
               if (factors[i] != nullptr) factors[i]->received = true;
             }
             result[0] = lora_backward(dy, std::move(rows), h, weight, place, sums[0], sums[1], true);
             return result;
           }
           std::vector<bool> needs_a;
           std::vector<bool> needs_b;
           for (std::size_t i = 1; i < needs.size(); i += 2) {
             needs_a.push_back(needs[i]);
             needs_b.push_back(needs[i + 1]);
           }
           LoraGradients grads = lora_backward(dy, std::move(rows), h, weight, place, needs_a, needs_b);
           result[0] = grads.dx;
           for (std::size_t i = 0; i < grads.da.size(); ++i) {
             result[2 * i + 1] = grads.da[i];
             result[2 * i + 2] = grads.db[i];
           }
           return result;
         });
  if (weight.bordered().defined()) {  // g then stands beside dy, and dx is one product
    place_gradient(y, [shape = y.shape(), border = weight.rank(), dtype = y.dtype(), device = y.device()] {
      return Tensor::bordered(shape, border, dtype, device);
    });
  }
  return y;
}

}  // namespace wick
