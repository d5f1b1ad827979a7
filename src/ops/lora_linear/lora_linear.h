#pragma once

#include <span>

#include "ops/kernel_table.h"
#include "wick/autograd.h"

namespace wick {

/// y [tokens, n] = x Wᵀ + bias with what the adapters add, in one GEMM where x and the weight have a border; h [tokens,
/// rank] = x Aᵀ, then in the border of x, is saved for backward.
struct LoraForward {
  Tensor y;
  Tensor h;
};
LoraForward lora_forward(const Tensor& x, const LoraWeight& weight, const Tensor& bias);

/// The spare columns beside m for h or g, if they are there, wide enough and nobody else's; else undefined.
Tensor claim_border(const Tensor& m, const LoraWeight& weight);
/// m followed by `border` of its spare columns, as one matrix.
Tensor with_border(const Tensor& m, std::int64_t border);

/// dx (where needed), and dA, dB f32 (f64 for f64) for each block (where needed).
struct LoraGradients {
  Tensor dx;
  std::vector<Tensor> da;
  std::vector<Tensor> db;
};
/// dx goes where `place` says; null: it is not needed. x, moved in, is let go before dx is made, unless g is made
/// within dx (see narrow_inside()).
LoraGradients lora_backward(const Tensor& dy, Tensor x, const Tensor& h, const LoraWeight& weight,
                            const GradPlace* place, const std::vector<bool>& needs_a, const std::vector<bool>& needs_b);
/// The same into memory that is there: what is not needed is undefined. With `add` to what da and db hold. Returns dx.
Tensor lora_backward(const Tensor& dy, Tensor x, const Tensor& h, const LoraWeight& weight, const GradPlace* place,
                     std::span<const Tensor> da, std::span<const Tensor> db, bool add);

/// g [tokens, rank] = dy sB, and for each block i, where they are defined, dA_i [rank_i, k] = g_iᵀ x and dB_i
/// [n_i, rank_i] = scale_i dy_iᵀ h_i, both f32, or these added to what they hold. dy [tokens, n], x [tokens, k], h
/// [tokens, rank]; dense columns.
using LoraFactorGradients = Declined(const Tensor& dy, const Tensor& x, const Tensor& h, const LoraWeight& weight,
                                     const Tensor& g, std::span<const Tensor> da, std::span<const Tensor> db, bool add);

/// dA and dB as above where g is known too. x, dy and h are older than g: the kernel may read them before the one that
/// made g has ended.
using LoraOuterProducts = Declined(const Tensor& dy, const Tensor& x, const Tensor& h, const Tensor& g,
                                   const LoraWeight& weight, std::span<const Tensor> da, std::span<const Tensor> db,
                                   bool add);

/// One of the large products of a bordered weight with its narrow one inside. Forward, from x [tokens, k]: h = x Aᵀ and
/// y [tokens, n] = x Wᵀ + h (sB)ᵀ + bias, which may be undefined. Backward, from dy [tokens, n]: g = dy sB and dx
/// [tokens, k] = dy W + g A. `narrow` is h or g [tokens, rank], `wide` is y or dx; dense columns.
enum class LoraWay { forward, backward };
using LoraProduct = Declined(LoraWay way, const Tensor& from, const LoraWeight& weight, const Tensor& bias,
                             const Tensor& narrow, const Tensor& wide);

/// Where that is worth it, from the measurements of docs/benchmarks/h200.md. Backward x is needed once more after dx
/// was made, so that both exist at a time: not where x is the wider of x and dy.
bool narrow_inside(LoraWay way, std::int64_t k, std::int64_t n, std::int64_t rank);

// No kernels for the CPU: its gemm() is as good at these.
extern Kernels<LoraFactorGradients> lora_factor_gradients;
extern Kernels<LoraOuterProducts> lora_outer_products;
extern Kernels<LoraProduct> lora_product;

/// By that kernel, or as products of the library.
void outer_products(const Tensor& dy, const Tensor& x, const Tensor& h, const Tensor& g, const LoraWeight& weight,
                    std::span<const Tensor> da, std::span<const Tensor> db, bool add);

}  // namespace wick
