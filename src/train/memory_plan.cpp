#include "train/memory_plan.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/fail.h"
#include "ops/attention/attention.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "ops/lora_linear/lora_linear.h"

namespace wick {
namespace {

constexpr std::int64_t kFloat = 4;
constexpr std::size_t kWorkspace = std::size_t{64} << 20;  // of cuBLASLt

// Counts bytes as tensors come and go.
class Ledger {
 public:
  class Block {
   public:
    Block() = default;
    Block(Ledger& ledger, std::int64_t bytes) : ledger_(&ledger), bytes_(bytes) { ledger.add(bytes); }
    Block(Block&& other) noexcept
        : ledger_(std::exchange(other.ledger_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Block& operator=(Block&& other) noexcept {
      std::swap(ledger_, other.ledger_);
      std::swap(bytes_, other.bytes_);
      other.free();
      return *this;
    }
    ~Block() { free(); }
    void free() noexcept {
      if (ledger_ != nullptr) ledger_->now_ -= bytes_;
      ledger_ = nullptr;
      bytes_ = 0;
    }

   private:
    Ledger* ledger_ = nullptr;
    std::int64_t bytes_ = 0;
  };

  Block hold(std::int64_t bytes) { return {*this, bytes}; }
  void touch(std::int64_t bytes) { (void)hold(bytes); }  // held for a moment
  std::int64_t now() const noexcept { return now_; }
  std::int64_t peak() const noexcept { return peak_; }

 private:
  void add(std::int64_t bytes) {
    now_ += bytes;
    peak_ = std::max(peak_, now_);
  }
  std::int64_t now_ = 0;
  std::int64_t peak_ = 0;
};
using Block = Ledger::Block;

// Sibling projections as one linear layer: inputs, outputs, and the adapters' rank as it is stored (0: no adapter).
struct Linear {
  std::int64_t in = 0, out = 0, rank = 0, border = 0;
};
struct Modules {
  Linear qkv, output, gate_up, down;
};

// What a layer keeps for backward.
struct Kept {
  Block x, qkv, normed, attended, middle, y, gate_up, z, small;
};

class Walk {
 public:
  Walk(const ModelConfig& c, const std::vector<Modules>& modules, const PlanSettings& s)
      : c_(c), modules_(modules), s_(s), e_(static_cast<std::int64_t>(size_of(s.dtype))) {}

  MemoryPlan run() {
    const std::size_t layers = modules_.size();
    MemoryPlan plan;
    std::vector<Kept> kept(layers);
    std::vector<Block> hidden;  // the residual stream before each layer, and after the last
    hidden.push_back(ledger_.hold(rows(c_.hidden_size)));
    Block x = ledger_.hold(rows(c_.hidden_size, modules_[0].qkv));
    for (std::size_t i = 0; i < layers; ++i) {
      const std::int64_t before = ledger_.now();
      Block after;
      kept[i] = forward(i, s_.recompute[i], std::move(x), after, x);
      if (s_.recompute[i] == Recompute::layer) kept[i] = {};
      hidden.push_back(std::move(after));
      plan.saved.push_back(static_cast<std::size_t>(std::max<std::int64_t>(ledger_.now() - before, 0)));
    }
    Block dx = loss(std::move(x));
    Block dhidden;
    for (std::size_t i = layers; i-- > 0;) {
      if (s_.recompute[i] == Recompute::layer) {
        Block again = ledger_.hold(rows(c_.hidden_size, modules_[i].qkv));
        Block after, next;
        kept[i] = forward(i, Recompute::layer, std::move(again), after, next);
        // The outputs are freed once backward has begun with their gradients.
        next.free();
        hidden[i + 1] = std::move(after);
      }
      backward(i, kept[i], hidden[i + 1], dhidden, dx);
    }
    const std::size_t saved = std::accumulate(plan.saved.begin(), plan.saved.end(), std::size_t{0});
    plan.transient =
        static_cast<std::size_t>(ledger_.peak()) - std::min(saved, static_cast<std::size_t>(ledger_.peak()));
    return plan;
  }

 private:
  std::int64_t rows(std::int64_t columns) const { return s_.tokens * columns * e_; }
  // Of a matrix with the border that `reader` wants beside it.
  std::int64_t rows(std::int64_t columns, const Linear& reader) const {
    return rows(Tensor::bordered_row(columns, reader.border, s_.dtype, s_.device));
  }
  std::int64_t floats(std::int64_t columns) const { return s_.tokens * columns * kFloat; }
  bool recomputes(std::size_t i) const { return s_.recompute[i] != Recompute::nothing; }

  // h of a linear layer: in x's border where there is one and x is kept, else memory of its own.
  std::int64_t h_bytes(const Linear& linear, bool in_border) const { return in_border ? 0 : rows(linear.rank); }

  // `x` is the layer's normed input; `hidden` and `next` receive what it hands on.
  Kept forward(std::size_t i, Recompute level, Block x, Block& hidden, Block& next) {
    const Modules& m = modules_[i];
    const bool again = level != Recompute::nothing;
    const std::int64_t q = c_.num_attention_heads * c_.head_dim;
    const std::int64_t kv = c_.num_key_value_heads * c_.head_dim;
    Kept k;
    std::int64_t small = h_bytes(m.qkv, m.qkv.border > 0 && !again) + h_bytes(m.output, false);
    k.qkv = ledger_.hold(rows(m.qkv.out));
    if (!again && m.qkv.rank > 0) k.x = std::move(x);
    x.free();
    if (c_.qk_norm) k.normed = ledger_.hold(rows(q + kv));
    k.attended = ledger_.hold(rows(q));
    small += floats(c_.num_attention_heads);  // log-sum-exp
    small += floats(2);                       // of two norms
    Block branch = ledger_.hold(rows(c_.hidden_size));
    k.middle = ledger_.hold(rows(c_.hidden_size));
    Block y = ledger_.hold(rows(c_.hidden_size, m.gate_up));
    branch.free();
    k.gate_up = ledger_.hold(rows(m.gate_up.out));
    if (level != Recompute::gate_up) small += h_bytes(m.gate_up, m.gate_up.border > 0 && !again);
    if (!again && m.gate_up.rank > 0) k.y = std::move(y);
    if (level != Recompute::gate_up) y.free();
    Block z = ledger_.hold(rows(c_.intermediate_size, m.down));
    y.free();
    if (level == Recompute::gate_up) k.gate_up.free();
    small += h_bytes(m.down, m.down.border > 0 && !again);
    k.small = ledger_.hold(small);
    branch = ledger_.hold(rows(c_.hidden_size));
    if (!again && m.down.rank > 0) k.z = std::move(z);
    z.free();
    hidden = ledger_.hold(rows(c_.hidden_size));
    const bool last = i + 1 == modules_.size();
    next = ledger_.hold(last ? rows(c_.hidden_size) : rows(c_.hidden_size, modules_[i + 1].qkv));
    return k;
  }

  // Gives the gradient of the final norm's output.
  Block loss(Block x) {
    const std::int64_t vocab = c_.vocab_size;
    Block dx = ledger_.hold(rows(c_.hidden_size));
    const std::int64_t chunk = logit_rows(s_.device, s_.tokens, vocab);
    std::int64_t beside = 0;  // gradients of the logits, and rows of x and dx
    if (s_.device == DeviceType::cpu) {
      beside = (s_.dtype == DType::f32 ? 0 : chunk * vocab * e_) + 2 * chunk * c_.hidden_size * e_;
    }
    ledger_.touch(chunk * vocab * kFloat + beside);
    x.free();
    return dx;
  }

  // Memory of `dx_bytes` for the gradient of a linear layer's x, which is let go before if it was made again, unless it
  // is needed once more; those of its factors are added where they are gathered.
  Block linear_gradients(const Linear& linear, Block& dy, Block& x, bool again, std::int64_t dx_bytes) {
    const Block g = ledger_.hold(linear.border > 0 ? 0 : rows(linear.rank));
    const bool after = s_.device == DeviceType::cuda && e_ == 2 && linear.rank > 0 && dx_bytes > 0 &&
                       narrow_inside(LoraWay::backward, linear.in, linear.out, linear.rank);
    if (again && !after) x.free();
    Block dx = ledger_.hold(dx_bytes);
    dy.free();
    x.free();
    return dx;
  }

  // dhidden and dx: the gradients of what the layer handed on, then of what it received.
  void backward(std::size_t i, Kept& k, Block& hidden, Block& dhidden, Block& dx) {
    const Modules& m = modules_[i];
    const bool again = recomputes(i);
    const std::int64_t q = c_.num_attention_heads * c_.head_dim;
    const std::int64_t kv = c_.num_key_value_heads * c_.head_dim;
    Block dmiddle = ledger_.hold(rows(c_.hidden_size, m.down));  // the branch's gradient is the residual's
    dx.free();
    dhidden.free();
    hidden.free();
    Block none;
    if (s_.recompute[i] == Recompute::gate_up) {
      k.y = ledger_.hold(rows(c_.hidden_size, m.gate_up));
      k.gate_up = ledger_.hold(rows(m.gate_up.out));
      k.z = ledger_.hold(rows(c_.intermediate_size, m.down));
    } else if (again && m.down.rank > 0) {
      k.z = ledger_.hold(rows(c_.intermediate_size, m.down));
    }
    // Adapters write dz where dup will be; not into a part that is made again, nor do plain layers.
    const std::int64_t dgate_up_bytes = rows(m.gate_up.out, m.gate_up);
    const bool there = m.down.rank > 0 && s_.recompute[i] != Recompute::gate_up;
    Block dz = linear_gradients(m.down, none, k.z, again && s_.recompute[i] != Recompute::gate_up,
                                there ? dgate_up_bytes : rows(m.down.in));
    Block dgate_up = there ? std::move(dz) : ledger_.hold(dgate_up_bytes);
    k.gate_up.free();
    dz.free();
    if (again && s_.recompute[i] != Recompute::gate_up && m.gate_up.rank > 0) {
      k.y = ledger_.hold(rows(c_.hidden_size, m.gate_up));
    }
    Block dy = linear_gradients(m.gate_up, dgate_up, k.y, again, rows(m.gate_up.in));
    dhidden = ledger_.hold(rows(c_.hidden_size, m.output));
    dy.free();
    dmiddle.free();
    k.middle.free();
    Block dattended = linear_gradients(m.output, none, none, false, rows(m.output.in));
    Block dqkv = ledger_.hold(rows(m.qkv.out, m.qkv));
    Block dnormed = ledger_.hold(c_.qk_norm ? rows(q + kv) : 0);
    ledger_.touch(attention_scratch(s_.device, {.dtype = s_.dtype,
                                                .heads = c_.num_attention_heads,
                                                .kv_heads = c_.num_key_value_heads,
                                                .head_dim = c_.head_dim,
                                                .tokens = s_.tokens,
                                                .longest = s_.longest}));
    k.normed.free();
    k.attended.free();
    dattended.free();
    dnormed.free();
    k.qkv.free();
    if (again && m.qkv.rank > 0) k.x = ledger_.hold(rows(c_.hidden_size, m.qkv));
    dx = linear_gradients(m.qkv, dqkv, k.x, again, i > 0 ? rows(m.qkv.in) : 0);
    k.small.free();
  }

  const ModelConfig& c_;
  const std::vector<Modules>& modules_;
  const PlanSettings& s_;
  std::int64_t e_;
  Ledger ledger_;
};

std::vector<Modules> modules_of(const ModelConfig& c, std::span<const LoraTarget> targets, LoraLayout layout) {
  std::unordered_map<std::string, std::int64_t> ranks;
  for (const LoraTarget& target : targets) ranks[target.name] = target.rank;
  const std::int64_t q = c.num_attention_heads * c.head_dim;
  const std::int64_t kv = c.num_key_value_heads * c.head_dim;
  std::vector<Modules> all;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const auto linear = [&](std::int64_t in, std::int64_t out, std::initializer_list<const char*> names) {
      std::int64_t rank = 0;
      for (const char* name : names) {
        const auto found = ranks.find(fmt::format("model.layers.{}.{}", i, name));
        if (found != ranks.end()) rank += found->second;
      }
      if (layout != LoraLayout::bordered) return Linear{in, out, rank, 0};
      rank = (rank + 15) / 16 * 16;
      return Linear{in, out, rank, rank};
    };
    all.push_back({linear(c.hidden_size, q + 2 * kv, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}),
                   linear(q, c.hidden_size, {"self_attn.o_proj"}),
                   linear(c.hidden_size, 2 * c.intermediate_size, {"mlp.gate_proj", "mlp.up_proj"}),
                   linear(c.intermediate_size, c.hidden_size, {"mlp.down_proj"})});
  }
  return all;
}

}  // namespace

std::size_t MemoryPlan::step() const noexcept {
  return std::accumulate(saved.begin(), saved.end(), std::size_t{0}) + transient;
}

std::size_t MemoryPlan::total() const noexcept { return weights + borders + adapter + optimizer + step() + workspace; }

MemoryPlan plan_memory(const ModelConfig& config, std::span<const LoraTarget> targets, const PlanSettings& settings) {
  if (settings.recompute.size() != static_cast<std::size_t>(config.num_hidden_layers) ||
      config.num_hidden_layers == 0) {
    fail(ErrorCode::invalid_argument, "a plan of recomputation for {} layers, the model has {}",
         settings.recompute.size(), config.num_hidden_layers);
  }
  const std::vector<Modules> modules = modules_of(config, targets, settings.layout);
  MemoryPlan plan = Walk(config, modules, settings).run();
  const auto element = static_cast<std::int64_t>(size_of(settings.dtype));
  plan.weights = static_cast<std::size_t>(config.parameter_count() * element);
  for (const Modules& m : modules) {
    for (const Linear& linear : {m.qkv, m.output, m.gate_up, m.down}) {
      const std::int64_t row = Tensor::bordered_row(linear.in, linear.border, settings.dtype, settings.device);
      const std::int64_t factors = linear.border > 0 ? (linear.out + linear.rank) * row - linear.out * linear.in
                                                     : linear.rank * (linear.in + linear.out);
      plan.borders += static_cast<std::size_t>(factors * element);
    }
  }
  std::int64_t parameters = 0;
  for (const LoraTarget& target : targets) parameters += target.rank * (target.in_features + target.out_features);
  plan.adapter = static_cast<std::size_t>(2 * parameters * kFloat);
  plan.optimizer = static_cast<std::size_t>(2 * parameters * kFloat);
  plan.workspace = settings.device == DeviceType::cpu ? 0 : kWorkspace;
  return plan;
}

std::vector<Recompute> choose_recompute(const ModelConfig& config, std::span<const LoraTarget> targets,
                                        PlanSettings settings, std::size_t budget) {
  std::size_t least = plan_memory(config, targets, settings).total();
  if (least <= budget) return settings.recompute;
  for (const Recompute level : {Recompute::gate_up, Recompute::layer}) {
    for (Recompute& layer : settings.recompute) {
      layer = std::max(layer, level);
      const std::size_t total = plan_memory(config, targets, settings).total();
      if (total <= budget) return settings.recompute;
      least = std::min(least, total);
    }
  }
  const auto gib = [](std::size_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  fail(ErrorCode::out_of_memory,
       "training needs {:.2f} GiB even with every layer made again in backward, {:.2f} GiB may be used", gib(least),
       gib(budget));
}

}  // namespace wick
