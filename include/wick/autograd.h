#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "wick/tensor.h"

namespace wick {

/// Where the gradient of one tensor is gathered. Leaves (trainable parameters) keep theirs; the others live only while
/// the backward pass needs them.
struct GradSlot {
  Tensor grad;       ///< undefined until something arrives
  std::string name;  ///< of a leaf, for messages
  bool leaf = false;
  bool received = false;          ///< of a leaf: a gradient arrived since zero_grad()
  bool owned = false;             ///< of another: the buffer is not shared, so further gradients are added in place
  std::function<Tensor()> place;  ///< of another: makes the memory that its gradient had best lie in (GradPlace)
};

/// A trainable tensor: f32 (f64 in gradient checks), contiguous, with a gradient buffer of the same shape that
/// accumulates over backward passes until zero_grad().
class Parameter {
 public:
  Parameter() = default;
  /// `grad`, where given, is the buffer to accumulate into (a slice of an optimizer's flat buffer).
  Parameter(std::string name, Tensor value, Tensor grad = {});

  const std::string& name() const { return slot_->name; }
  const Tensor& value() const noexcept { return value_; }  ///< carries the slot: ops on it record
  const Tensor& grad() const { return slot_->grad; }
  bool received_gradient() const { return slot_->received; }
  void zero_grad() const;
  void forget_gradient() const { slot_->received = false; }  ///< zero_grad() where the buffer was cleared already

 private:
  Tensor value_;
  std::shared_ptr<GradSlot> slot_;
};

/// Given the gradients of a node's outputs (undefined where none arrived), returns those of its inputs; entries whose
/// `needs` is false may be left undefined.
/// It may move a gradient out, so that its memory is free before the node is done.
using BackwardFn = std::function<std::vector<Tensor>(std::span<Tensor> grad_outputs, const std::vector<bool>& needs)>;

/// Records what leads from parameters to a loss while it is the innermost one alive on its thread, and walks it back.
/// Only ops with an input that needs a gradient are recorded; without a live Tape nothing is.
class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Accumulates d loss / d parameter into every parameter that `loss` depends on, then forgets the recording. `loss`
  /// has one element unless `seed`, a gradient of loss's own shape, is given. Error(invalid_argument) if nothing leads
  /// to it, or it was not recorded by this tape since the last backward pass.
  void backward(const Tensor& loss, const Tensor& seed = {});
  /// The same from several outputs at once, each with a seed of its shape; an undefined seed skips its output.
  void backward(std::span<const Tensor> outputs, std::span<const Tensor> seeds);

  std::size_t size() const noexcept { return nodes_.size(); }

  /// The tape that would record now, or null.
  static Tape* active() noexcept;

 private:
  friend void record(const char*, std::span<const Tensor>, std::span<Tensor* const>, BackwardFn);
  friend class Checkpoint;
  struct Node {
    const char* op;
    std::vector<std::shared_ptr<GradSlot>> inputs;
    std::vector<std::shared_ptr<GradSlot>> outputs;
    BackwardFn backward;
  };
  static void seed(std::span<const Tensor> outputs, std::span<const Tensor> seeds);
  static void walk_back(std::vector<Node> nodes);
  std::vector<Node> nodes_;
  Tape* outer_;
};

/// While alive, nothing is recorded on this thread.
class NoGrad {
 public:
  NoGrad() noexcept;
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  Tape* suspended_;
};

/// A part of the forward pass of which only the inputs are kept: backward runs it again to have what it saves (Chen et
/// al. 2016). Loss and gradients are those of the part itself, to the byte, since the same ops run on the same inputs.
struct Checkpointed {
  std::vector<Tensor> outputs;
  /// Output i as backward makes it again, without a slot: for whoever needs it there before the part's own turn comes.
  /// Usable once that backward pass has begun, until that turn.
  std::function<Tensor(std::size_t)> again;
};
/// Runs `function` on `inputs`, to be run again in backward: it must be a pure function of them and of trainable
/// parameters. Where `again` has an entry for an input, it makes that one a second time, which is then not kept either.
/// Without a live Tape `function` simply runs.
Checkpointed checkpoint(std::function<std::vector<Tensor>(std::span<const Tensor>)> function,
                        std::span<const Tensor> inputs, std::vector<std::function<Tensor()>> again = {});

/// True if an op on these inputs has to be recorded: a tape is active and one of them needs a gradient.
bool recording(std::span<const Tensor> inputs) noexcept;
bool recording(std::initializer_list<Tensor> inputs) noexcept;

/// Puts a node on the active tape and gives `outputs` their slots. Does nothing unless recording(inputs).
void record(const char* op, std::span<const Tensor> inputs, std::span<Tensor* const> outputs, BackwardFn backward);
void record(const char* op, std::initializer_list<Tensor> inputs, std::initializer_list<Tensor*> outputs,
            BackwardFn backward);

/// Where a node's backward writes the gradient of its input x; taken when the node is recorded. What x was cut from may
/// want the gradients of its pieces side by side in one buffer, so that nobody has to join them, or with spare columns.
class GradPlace {
 public:
  GradPlace() = default;
  explicit GradPlace(const Tensor& x);
  /// Uninitialised, of x's shape, dtype and device, perhaps with strides of its own. Only the first reader of x that
  /// asks gets the place wished for, the others get dense memory: gradients are added up.
  Tensor empty() const;

 private:
  std::shared_ptr<GradSlot> slot_;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
};

/// Wishes that the gradient of y, which was just recorded, be written to what `make` gives: called at most once, in the
/// backward pass. Whoever asks for it then compares: gradients need not come from there.
void place_gradient(const Tensor& y, std::function<Tensor()> make);

/// Error(invalid_argument) naming the first parameter that got no gradient since zero_grad().
void require_gradients(std::span<const Parameter> parameters);

}  // namespace wick
