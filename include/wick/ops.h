#pragma once

#include <cstdint>
#include <functional>
#include <optional>
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

/// layer_norm(x + residual), as layers that norm their sums have it (Vaswani et al. 2017). residual has x's shape.
Tensor layer_norm_residual(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                           double eps);

/// layer_norm(words[ids] + positions[places]), what BERT's layers begin with (Devlin et al. 2019): words [vocabulary,
/// n], positions [places, n], ids and places i32 or i64 [tokens] -> [tokens, n]. Error(invalid_argument) as
/// embedding().
Tensor embedding_norm(const Tensor& words, const Tensor& ids, const Tensor& positions, const Tensor& places,
                      const Tensor& weight, const Tensor& bias, double eps);

/// exp(x - max) / sum over the last dimension. A row of only -inf gives NaN.
Tensor softmax(const Tensor& x);

/// Rotary position embedding, half-split pairs (i, i + d/2), as Hugging Face models store them. Su et al. 2021.
/// x [tokens, heads, d] (d even), cos and sin f32 (f64 for f64 x) [max_positions, d/2], positions i32 [tokens]
/// -> [tokens, heads, d]. Error(invalid_argument) naming the first position outside the table.
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions);
/// The same in x's own memory: use the result instead of x, which nobody may read afterwards, not even for backward.
/// Where a kernel runs, the result is a view of x; its gradient is turned back in place likewise.
Tensor rope_(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& positions);
/// The same as rope() with positions offset, offset + 1, ...
Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, std::int64_t offset);

/// What attention does with new tokens of a sequence that has a cache: turns q and k as rope() does and writes k and v,
/// [tokens, kv_heads, d], into rows [end - tokens, end) of keys and values, dense [capacity, kv_heads, d]. These rows
/// are the tokens' positions too. Returns q turned, [tokens, heads, d]. `end`, i32 [1], is read where the tensors are,
/// so that a recorded call follows it. cos and sin as in rope(). Never recorded on a tape. Error(invalid_argument) for
/// rows outside the cache or the tables; on a device, where nobody looks, q is NaN and nothing is written for these.
Tensor rope_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                   const Tensor& end, const Tensor& keys, const Tensor& values);

/// silu(gate) * up, silu(z) = z * sigmoid(z). One shape. Shazeer 2020. `border` as in rms_norm.
Tensor swiglu(const Tensor& gate, const Tensor& up, std::int64_t border = 0);

enum class GeluKind { exact, tanh };
/// x * Phi(x), Phi by erf or by the tanh approximation. Hendrycks & Gimpel 2016.
Tensor gelu(const Tensor& x, GeluKind kind);

/// y = x weightᵀ + bias, rounded once. x [..., k], weight [n, k], bias [n] (may be undefined) -> [..., n].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {});

/// x with each element kept with probability 1 - p and then divided by 1 - p. The mask is a pure function of seed,
/// module, pass and the element's index, so it is made again in backward instead of being kept. p in [0, 1); p = 0
/// returns x.
struct Dropout {
  double p = 0;
  std::uint64_t seed = 0;
  std::uint32_t module = 0;  ///< which dropout of the model this is
  std::uint32_t pass = 0;    ///< which forward pass
};
Tensor dropout(const Tensor& x, const Dropout& options);

/// The adapter of one of the sibling projections that share an input: a [r, k], b [n, r], both f32 (the optimizer's
/// master copies) or of the model's dtype; undefined a and b: this sibling has none. It adds `scale` (x aᵀ) bᵀ to its n
/// columns.
struct LoraBranch {
  std::int64_t out_features = 0;  ///< n
  Tensor a;
  Tensor b;
  double scale = 1;
};

enum class LoraLayout {
  separate,  ///< the frozen weight stays as it is (mapped, quantized, shared); rank-r products are accumulated beside
             ///< it
  bordered,  ///< weight and adapter stand in one matrix [n + r, k + r], so each direction is one GEMM
             ///< (docs/architecture.md)
};

/// The frozen weight of sibling projections that read one input (q, k, v; gate, up; or a single one), stacked along its
/// rows, with what the GEMMs need of their adapters in the model's dtype.
class LoraWeight {
 public:
  LoraWeight() = default;
  /// weight [sum of out_features, k]: a view is kept in the separate layout, a copy made in the bordered one.
  /// Error(invalid_argument) when branches and weight do not fit.
  LoraWeight(const Tensor& weight, std::span<const LoraBranch> branches, LoraLayout layout = LoraLayout::separate);

  /// Writes the masters' present values into the border. Shapes and scales must be those given at construction.
  void refresh(std::span<const LoraBranch> branches);
  /// What refresh() does, piece by piece: target = scale * source, computed in the source's dtype and rounded once.
  struct Copy {
    Tensor source, target;
    double scale = 1;
  };
  std::vector<Copy> copies(std::span<const LoraBranch> branches) const;

  LoraLayout layout() const noexcept { return layout_; }
  std::int64_t rank() const noexcept {
    return rank_;
  }  ///< summed over siblings; padded to 16 when bordered; 0: no adapter
  const Tensor& core() const noexcept { return core_; }          ///< W [n, k]
  const Tensor& a() const noexcept { return a_; }                ///< stacked A [rank, k]
  const Tensor& scaled_b() const noexcept { return scaled_b_; }  ///< block-diagonal s B [n, rank]
  const Tensor& bordered() const noexcept { return bordered_; }  ///< [[W, sB], [A, 0]], undefined when separate

  /// The rows of the output and the columns of h that belong to sibling i.
  struct Block {
    std::int64_t out_begin, out_size, rank_begin, rank_size;
    double scale;
  };
  const std::vector<Block>& blocks() const noexcept { return blocks_; }

 private:
  LoraLayout layout_ = LoraLayout::separate;
  std::int64_t rank_ = 0;
  Tensor core_, a_, scaled_b_, bordered_;
  std::vector<Block> blocks_;
};

/// y = x Wᵀ + bias, plus scale_i (x A_iᵀ) B_iᵀ in the columns of each sibling i that has an adapter (Hu et al. 2021).
/// x [tokens, k], bias [n] (may be undefined) -> [tokens, n]. `branches` are those that `weight` was made from:
/// gradients go to x and to their a and b, never to W. With a bordered weight and an x that has the spare columns (see
/// Tensor::bordered), h = x Aᵀ is written beside x and the forward is one GEMM over k + r; the backward likewise when
/// dy has them. Dropout is applied to the input of each adapter, by its own mask (module + i), never to the frozen
/// path. `again`, where given, makes x a second time: x is then not kept for backward but made again there, which costs
/// its op's forward and saves its memory.
Tensor lora_linear(const Tensor& x, const LoraWeight& weight, const Tensor& bias, std::span<const LoraBranch> branches,
                   const Dropout& dropout = {}, const std::function<Tensor()>& again = {});

/// What stands around a linear layer in a transformer block.
struct LinearFusion {
  Tensor norm = {};     ///< [k]: the layer reads rms_norm(x, norm, eps); undefined: x itself
  double eps = 0;       ///< of the norm
  bool swiglu = false;  ///< the weight is gate above up, and silu(gate) * up, [tokens, n / 2], is handed on
  std::optional<GeluKind> gelu = {};  ///< of the layer's result; not with swiglu
  Tensor residual = {};               ///< of the result's shape and dtype, added to it; undefined: none
  Tensor after = {};        ///< [n]: the weight of a layer_norm() of it all, which is handed on; undefined: none
  Tensor after_bias = {};   ///< [n], of that norm, or undefined
  double after_eps = 0;     ///< of that norm
  std::int64_t border = 0;  ///< spare columns of the result (see Tensor::bordered)
  bool at_rest = false;     ///< nothing queued on the device that may still run writes the weight or the norm
};
/// lora_linear() with what stands around it, for inference: one kernel, or two with a bordered adapter, for the few
/// tokens of decoding; one for a GELU, or a residual and a norm, behind a weight without an adapter, where there is a
/// kernel for its shape; op by op otherwise. Results differ only in what is not rounded in between. Never recorded on a
/// tape, no dropout. x [tokens, k] -> [tokens, n], or [tokens, n / 2] with swiglu.
Tensor fused_linear(const Tensor& x, const LoraWeight& weight, const Tensor& bias, std::span<const LoraBranch> branches,
                    const LinearFusion& fusion);

/// Rows of a table: table [n, d], ids i32 or i64 [m] -> [m, d]. Error(invalid_argument) naming the first id outside [0,
/// n).
Tensor embedding(const Tensor& table, const Tensor& ids);

/// Sequences packed into one batch: offsets i32 [sequences + 1], from 0 to the number of tokens, not decreasing.
struct AttentionOptions {
  double scale = 0;  ///< of q·k; 0 means 1/sqrt(head_dim)
  bool causal = true;
  std::int64_t window = 0;    ///< a query sees keys less than this far back (causal only); 0 means all
  Tensor query_offsets = {};  ///< undefined: one sequence of all tokens
  Tensor key_offsets = {};    ///< undefined: query_offsets
  /// Tokens of the longest sequence, or more, where offsets are on a device and the host knows it; 0: unknown. Some
  /// kernels need it. Error(invalid_argument) where offsets on the host say otherwise.
  std::int64_t longest = 0;
  /// [heads, 2 reach + 1], f32 (f64 for f64 q): what is added to the scaled scores of a head, by the distance of key
  /// and query, key - query: from -reach to reach, and beyond as at its end (relative position bias, Raffel et al.
  /// 2020). Frozen: it gets no gradient. Undefined: nothing is added.
  Tensor bias = {};
};
/// Scaled dot-product attention, grouped-query: q [tokens, heads, d], k and v [key_tokens, kv_heads, d], heads a
/// multiple of kv_heads -> [tokens, heads, d]. Each sequence sees only itself. With fewer queries than keys in a
/// sequence the queries are its last ones (a KV cache). A query that sees no key gives zeros. Any row strides; d dense.
/// Never holds a whole score matrix. Vaswani et al. 2017, Dao et al. 2022, Ainslie et al. 2023, Beltagy et al. 2020
/// (window).
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options);
/// The two ops of new tokens of one sequence that has a cache, q [tokens, heads, d], k and v [tokens, kv_heads, d]:
/// attention(rope_append(q, k, v, cos, sin, end, keys, values), keys, values, options), where `end` is the last of
/// options.key_offsets, i32 [2], which must be there. One kernel for the one token of decoding. at_rest: nothing that
/// may still be at work on the device writes offsets, tables, or keys and values before the new ones, so that they may
/// be read before the kernels ahead have ended (see LinearFusion::at_rest).
Tensor attention_append(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                        const Tensor& keys, const Tensor& values, const AttentionOptions& options,
                        bool at_rest = false);

/// How the hidden states of a sequence become one vector.
enum class Pooling {
  mean,       ///< of all tokens, special ones included
  mean_sqrt,  ///< their sum over the square root of their number
  cls,        ///< the first token's
  max,        ///< each column's largest; its gradient goes to the first token that has it
  last        ///< the last token's
};
/// One vector for each of the packed sequences: hidden [tokens, n], offsets i32 [sequences + 1] as in attention() ->
/// [sequences, n]. A sequence without tokens gives zeros. What else is packed does not change a byte of a sequence's
/// vector.
Tensor pool(const Tensor& hidden, const Tensor& offsets, Pooling mode);

/// x / max(|x|, 1e-12) over the last dimension, |x| the Euclidean norm: vectors of length 1, zeros left as they are.
/// x [..., n] -> [..., n].
Tensor l2_normalize(const Tensor& x);

struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;  ///< labels with this value add nothing
  double label_smoothing = 0;        ///< in [0, 1): (1 - s) * nll + s * mean over the vocabulary
  std::int64_t chunk = 0;            ///< tokens a chunk; 0: chosen for the device and the vocabulary
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

/// gradient_norm() and adamw_step() in one, for a step that is recorded once and replayed: what changes from step to
/// step lies where the buffers lie, and nothing waits for a device. schedule f64 [3]: the learning rate (`options` has
/// none) and the bias corrections 1 - beta1^step and 1 - beta2^step. norm f64 [1] receives the gradient's norm; above
/// `max_grad_norm` (0: off) the gradient is scaled down to it, and where it is not finite nothing else is written.
void clipped_adamw_step(const Tensor& parameters, const Tensor& gradients, const Tensor& exp_avg,
                        const Tensor& exp_avg_sq, const AdamWOptions& options, double max_grad_norm,
                        const Tensor& schedule, const Tensor& norm);

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
