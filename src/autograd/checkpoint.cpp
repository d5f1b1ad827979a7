#include <utility>

#include "core/fail.h"
#include "wick/autograd.h"

namespace wick {

// What backward needs of a checkpointed part, and, between its second run and its turn, what that run recorded.
class Checkpoint {
 public:
  using Function = std::function<std::vector<Tensor>(std::span<const Tensor>)>;
  using Again = std::function<Tensor()>;

  Checkpoint(Function function, std::span<const Tensor> inputs, std::vector<Again> again)
      : function_(std::move(function)), again_(std::move(again)) {
    again_.resize(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      kept_.push_back(again_[i] ? Tensor() : inputs[i].detach());
      needs_.push_back(inputs[i].needs_grad());
    }
  }

  // The first run records too, and drops it: ops must not choose another way because nobody records.
  std::vector<Tensor> run_first(std::span<const Tensor> inputs) const {
    const Tape tape;
    std::vector<Tensor> leaves(inputs.begin(), inputs.end());
    return function_(as_leaves(std::move(leaves)));
  }

  void put_on_tape(const std::shared_ptr<Checkpoint>& self, std::span<const Tensor> inputs,
                   std::vector<Tensor>& outputs) const {
    Tape::Node node{"checkpoint", {}, {}, {}};
    for (const Tensor& input : inputs) node.inputs.push_back(input.slot());
    bool reached = false;
    for (Tensor& output : outputs) {
      reached = reached || output.needs_grad();
      output.set_slot(output.needs_grad() ? std::make_shared<GradSlot>() : nullptr);
      node.outputs.push_back(output.needs_grad() ? output.slot() : std::make_shared<GradSlot>());
    }
    if (!reached) return;
    node.backward = [self](std::span<Tensor> dy, const std::vector<bool>&) { return self->run_back(dy); };
    Tape::active()->nodes_.push_back(std::move(node));
  }

  Tensor output_again(std::size_t i) {
    run_again();
    return outputs_.at(i).detach();
  }

 private:
  std::vector<Tensor> as_leaves(std::vector<Tensor> tensors) const {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      tensors[i] = tensors[i].detach();
      if (needs_[i]) tensors[i].set_slot(std::make_shared<GradSlot>());
    }
    return tensors;
  }

  void run_again() {
    if (!outputs_.empty()) return;
    std::vector<Tensor> inputs = std::move(kept_);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (again_[i]) inputs[i] = std::exchange(again_[i], nullptr)();
    }
    const std::vector<Tensor> leaves = as_leaves(std::move(inputs));
    Tape tape;
    outputs_ = function_(leaves);
    nodes_ = std::exchange(tape.nodes_, {});
    for (const Tensor& leaf : leaves) slots_.push_back(leaf.slot());
  }

  std::vector<Tensor> run_back(std::span<Tensor> dy) {
    run_again();
    Tape::seed(outputs_, dy);
    // Nobody needs them any more; what the nodes saved goes as they run.
    outputs_.clear();
    for (Tensor& gradient : dy) gradient = {};
    Tape::walk_back(std::exchange(nodes_, {}));
    std::vector<Tensor> grads;
    for (const auto& slot : slots_) grads.push_back(slot == nullptr ? Tensor() : std::move(slot->grad));
    return grads;
  }

  Function function_;
  std::vector<Again> again_;
  std::vector<Tensor> kept_;
  std::vector<bool> needs_;
  std::vector<Tensor> outputs_;
  std::vector<std::shared_ptr<GradSlot>> slots_;  // of the second run's inputs
  std::vector<Tape::Node> nodes_;
};

Checkpointed checkpoint(std::function<std::vector<Tensor>(std::span<const Tensor>)> function,
                        std::span<const Tensor> inputs, std::vector<std::function<Tensor()>> again) {
  if (Tape::active() == nullptr) return {function(inputs), {}};
  const auto part = std::make_shared<Checkpoint>(std::move(function), inputs, std::move(again));
  std::vector<Tensor> outputs = part->run_first(inputs);
  part->put_on_tape(part, inputs, outputs);
  return {std::move(outputs), [part](std::size_t i) { return part->output_again(i); }};
}

}  // namespace wick
