#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "wick/autograd.h"
#include "wick/tensor.h"

/// Every op. All of them check their arguments before they touch memory (Error(invalid_argument), "[op] ..."), run on
/// the device of their inputs, accumulate in float32 (float64 for f64) whatever the storage type, and record their
/// gradient on the active Tape. Floating inputs of one call share one dtype unless said otherwise; results have that
/// dtype.
namespace wick {

// ---------------------------------------------------------------------------------------------------------------------
// Primitive ops: what composites are made of. Elementwise ones broadcast as NumPy does.

Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
Tensor add(const Tensor& x, double value);
Tensor mul(const Tensor& x, double value);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor tanh(const Tensor& x);
Tensor erf(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor cast(const Tensor& x, DType dtype);  ///< the gradient is cast back

Tensor sum(const Tensor& x, int dim, bool keep_dim = false);
Tensor sum(const Tensor& x);  ///< all elements, shape []
Tensor mean(const Tensor& x, int dim, bool keep_dim = false);
Tensor max(const Tensor& x, int dim, bool keep_dim = false);  ///< no gradient: for stabilising exponentials

/// [..., m, k] x [..., k, n] -> [..., m, n]; leading dimensions broadcast. Any strides.
Tensor matmul(const Tensor& a, const Tensor& b);

Tensor reshape(const Tensor& x, const Shape& shape);  ///< a view where one exists, else a copy; one extent may be -1
Tensor permute(const Tensor& x, std::span<const int> order);
Tensor permute(const Tensor& x, std::initializer_list<int> order);
Tensor transpose(const Tensor& x, int a, int b);
Tensor slice(const Tensor& x, int dim, std::int64_t start, std::int64_t length);
Tensor expand(const Tensor& x, const Shape& shape);
Tensor concat(std::span<const Tensor> parts, int dim);
/// Consecutive slices along `dim`; one node on the tape, whose backward fills one buffer.
std::vector<Tensor> split(const Tensor& x, int dim, std::span<const std::int64_t> sizes);

/// y[i] = x[indices[i]] over the first dimension: x [n, ...], indices i32 or i64 [m] -> [m, ...].
/// Error(invalid_argument) naming the first index outside [0, n).
Tensor gather_rows(const Tensor& x, const Tensor& indices);
/// y[i] = x[i, indices[i]]: x [n, c], indices i32 or i64 [n] -> [n]. Same errors.
Tensor gather_columns(const Tensor& x, const Tensor& indices);
/// x where mask (i32, broadcast) is not 0, else `value`.
Tensor where(const Tensor& mask, const Tensor& x, double value);

// ---------------------------------------------------------------------------------------------------------------------
// Fused ops. Each has a composite of the above that is its specification, its fallback and its test oracle.

/// y = x / sqrt(mean(x²) + eps) * weight over the last dimension. x [..., n], weight [n] -> [..., n].
/// Zhang & Sennrich 2019. `border` spare columns follow each row of y (see Tensor::bordered).
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, std::int64_t border = 0);

/// sum = x + residual, y = rms_norm(sum): returns {sum, y}. Shapes as rms_norm; residual has x's shape.
std::pair<Tensor, Tensor> rms_norm_residual(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps,
                                            std::int64_t border = 0);

/// y = (x - mean) / sqrt(var + eps) * weight + bias over the last dimension, biased variance. Ba et al. 2016.
/// x [..., n], weight [n], bias [n] (may be undefined) -> [..., n].
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);

/// exp(x - max) / sum over the last dimension. A row of only -inf gives NaN.
Tensor softmax(const Tensor& x);

/// Rotary position embedding, half-split pairs (i, i + d/2), as Hugging Face models store them. Su et al. 2021.
/// x [tokens, heads, d] (d even), cos and sin f32 (f64 for f64 x) [max_positions, d/2], positions i32 [tokens]
/// -> [tokens, heads, d]. Error(invalid_argument) naming the first position outside the table.
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions);
/// The same with positions offset, offset + 1, ...
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::int64_t offset);

/// silu(gate) * up, silu(z) = z * sigmoid(z). One shape. Shazeer 2020. `border` as in rms_norm.
Tensor swiglu(const Tensor& gate, const Tensor& up, std::int64_t border = 0);

enum class GeluKind { exact, tanh };
/// x * Phi(x), Phi by erf or by the tanh approximation. Hendrycks & Gimpel 2016.
Tensor gelu(const Tensor& x, GeluKind kind);

/// y = x weightᵀ + bias. x [..., k], weight [n, k], bias [n] (may be undefined) -> [..., n].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

/// Rows of a table: table [n, d], ids i32 or i64 [m] -> [m, d]. Error(invalid_argument) naming the first id outside [0,
/// n).
Tensor embedding(const Tensor& table, const Tensor& ids);

/// Sequences packed into one batch: offsets i32 [sequences + 1], from 0 to the number of tokens, not decreasing.
struct AttentionOptions {
  double scale = 0;  ///< of q·k; 0 means 1/sqrt(head_dim)
  bool causal = true;
  std::int64_t window = 0;  ///< a query sees keys less than this far back (causal only); 0 means all
  Tensor query_offsets;     ///< undefined: one sequence of all tokens
  Tensor key_offsets;       ///< undefined: query_offsets
};
/// Scaled dot-product attention, grouped-query: q [tokens, heads, d], k and v [key_tokens, kv_heads, d], heads a
/// multiple of kv_heads -> [tokens, heads, d]. Each sequence sees only itself. With fewer queries than keys in a
/// sequence the queries are its last ones (a KV cache). A query that sees no key gives zeros. Any row strides; d dense.
/// Never holds a whole score matrix. Vaswani et al. 2017, Dao et al. 2022, Ainslie et al. 2023, Beltagy et al. 2020
/// (window).
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options);

struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;  ///< labels with this value add nothing
  double label_smoothing = 0;        ///< in [0, 1): (1 - s) * nll + s * mean over the vocabulary
  std::int64_t chunk = 0;            ///< tokens a chunk; 0: about 16 MiB of logits, and at least 128 tokens
};
/// The sum over tokens of cross-entropy(x weightᵀ, labels): hidden states x [tokens, k], head weight [vocab, k], labels
/// i32 or i64 [tokens] -> shape [], f32 (f64 for f64). The [tokens, vocab] logits never exist whole. Divide by the
/// number of trained tokens for a mean. Error(invalid_argument) naming the first label outside [0, vocab).
Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& labels,
                            const CrossEntropyOptions& options = {});

/// log softmax(x weightᵀ)[targets] of each token, without whole logits: x [tokens, k], weight [vocab, k], targets i32
/// or i64 [tokens] in [0, vocab) -> [tokens], f32 (f64 for f64). Never recorded.
Tensor token_log_probs(const Tensor& x, const Tensor& weight, const Tensor& targets);

// ---------------------------------------------------------------------------------------------------------------------
// Optimizer ops over one flat buffer: f32, in place, never recorded.

struct AdamWOptions {
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;  ///< decoupled: parameter *= 1 - learning_rate * weight_decay
};
/// One AdamW step (Loshchilov & Hutter 2019) on flat f32 buffers of one length, bias-corrected for step number `step`
/// >= 1, with the gradient multiplied by `grad_scale` (clipping).
void adamw_step(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg, const Tensor& exp_avg_sq,
                const AdamWOptions& options, std::int64_t step, double grad_scale = 1.0);

/// The Euclidean norm of a flat f32 buffer, summed in a fixed order in float64.
double gradient_norm(const Tensor& gradients);

// ---------------------------------------------------------------------------------------------------------------------
// Fused kernels on and off.

/// False when WICK_FUSED=0 was set at start or set_fused(false) was called: every op then runs its composite.
bool fused_enabled() noexcept;
void set_fused(bool enabled) noexcept;

/// Called once per op, device and reason when a composite runs although a kernel was wanted. Null (the default):
/// nobody.
using FallbackListener = void (*)(const std::string& message);
void set_fallback_listener(FallbackListener listener) noexcept;

}  // namespace wick
