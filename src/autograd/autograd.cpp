#include "wick/autograd.h"

#include <algorithm>
#include <utility>

#include "backend/backend.h"
#include "core/dispatch.h"
#include "core/fail.h"
#include "core/strided.h"

namespace wick {
namespace {

thread_local Tape* active_tape = nullptr;

void add_into(const Tensor& source, const Tensor& target) {
  if (Backend* device = accelerator(target)) return device->add_into(source, target);
  visit_floating(source.dtype(), [&](auto s) {
    visit_floating(target.dtype(), [&](auto t) {
      using From = decltype(s);
      using To = decltype(t);
      using Sum = Accumulator<To>;
      for_each_strided<const From, To>(source, target, [](const From& from, To& to) {
        to = convert<To>(static_cast<Sum>(convert<Sum>(to) + convert<Sum>(from)));
      });
    });
  });
}

void accumulate(const char* op, GradSlot& slot, Tensor grad) {
  if (!grad.defined()) return;
  grad = grad.detach();
  if (!slot.grad.defined()) {
    slot.grad = std::move(grad);
  } else {
    if (slot.grad.shape() != grad.shape()) {
      fail(ErrorCode::invalid_argument, "[{}] gradient of shape {} for {} of shape {}", op, to_string(grad.shape()),
           slot.leaf ? slot.name : "a tensor", to_string(slot.grad.shape()));
    }
    if (!slot.leaf && !slot.owned) slot.grad = slot.grad.clone();  // the buffer may be shared with another slot
    slot.owned = true;
    add_into(grad, slot.grad);
  }
  slot.received = true;
}

}  // namespace

Parameter::Parameter(std::string name, Tensor value, Tensor grad)
    : value_(std::move(value)), slot_(std::make_shared<GradSlot>()) {
  if (!value_.defined() || !is_floating(value_.dtype()) || !value_.is_contiguous()) {
    fail(ErrorCode::invalid_argument, "parameter {} must be contiguous and floating, is {}", name, describe(value_));
  }
  slot_->grad = grad.defined() ? std::move(grad) : Tensor::zeros(value_.shape(), value_.dtype(), value_.device());
  const Tensor& buffer = slot_->grad;
  if (buffer.shape() != value_.shape() || !is_floating(buffer.dtype()) || !buffer.is_contiguous()) {
    fail(ErrorCode::invalid_argument, "parameter {} is {}, its gradient buffer {}, expected its shape, contiguous",
         name, describe(value_), describe(buffer));
  }
  slot_->name = std::move(name);
  slot_->leaf = true;
  value_.set_slot(slot_);
}

void Parameter::zero_grad() const {
  slot_->grad.fill(0);
  slot_->received = false;
}

Tape::Tape() : outer_(std::exchange(active_tape, this)) {}
Tape::~Tape() { active_tape = outer_; }
Tape* Tape::active() noexcept { return active_tape; }

NoGrad::NoGrad() noexcept : suspended_(std::exchange(active_tape, nullptr)) {}
NoGrad::~NoGrad() { active_tape = suspended_; }

bool recording(std::span<const Tensor> inputs) noexcept {
  return active_tape != nullptr &&
         std::any_of(inputs.begin(), inputs.end(), [](const Tensor& t) { return t.needs_grad(); });
}
bool recording(std::initializer_list<Tensor> inputs) noexcept {
  return recording(std::span(inputs.begin(), inputs.size()));
}

void record(const char* op, std::span<const Tensor> inputs, std::span<Tensor* const> outputs, BackwardFn backward) {
  if (!recording(inputs)) return;
  Tape::Node node{op, {}, {}, std::move(backward)};
  node.inputs.reserve(inputs.size());
  for (const Tensor& input : inputs) node.inputs.push_back(input.slot());
  for (Tensor* output : outputs) {
    output->set_slot(std::make_shared<GradSlot>());
    node.outputs.push_back(output->slot());
  }
  active_tape->nodes_.push_back(std::move(node));
}
void record(const char* op, std::initializer_list<Tensor> inputs, std::initializer_list<Tensor*> outputs,
            BackwardFn backward) {
  record(op, std::span(inputs.begin(), inputs.size()), std::span(outputs.begin(), outputs.size()), std::move(backward));
}

void Tape::backward(const Tensor& loss, const Tensor& seed) {
  if (!loss.needs_grad()) {
    fail(ErrorCode::invalid_argument, "[backward] no trainable parameter leads to the loss");
  }
  if (!seed.defined() && loss.numel() != 1) {
    fail(ErrorCode::invalid_argument, "[backward] the loss has shape {}, not one element", to_string(loss.shape()));
  }
  const auto made_here = [&](const Node& node) {
    return std::find(node.outputs.begin(), node.outputs.end(), loss.slot()) != node.outputs.end();
  };
  if (!loss.slot()->leaf && std::none_of(nodes_.rbegin(), nodes_.rend(), made_here)) {
    fail(ErrorCode::invalid_argument, "[backward] the loss was not recorded here, or its recording is used up");
  }
  const Tensor seeds[] = {seed.defined() ? seed : Tensor::full(loss.shape(), 1.0, loss.dtype(), loss.device())};
  backward(std::span(&loss, 1), seeds);
}

void Tape::backward(std::span<const Tensor> outputs, std::span<const Tensor> seeds) {
  if (outputs.size() != seeds.size()) {
    fail(ErrorCode::invalid_argument, "[backward] {} seeds for {} outputs", seeds.size(), outputs.size());
  }
  const NoGrad no_grad;
  seed(outputs, seeds);
  walk_back(std::exchange(nodes_, {}));  // forgotten also when something throws
}

void Tape::seed(std::span<const Tensor> outputs, std::span<const Tensor> seeds) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].needs_grad() || !seeds[i].defined()) continue;
    if (seeds[i].shape() != outputs[i].shape()) {
      fail(ErrorCode::invalid_argument, "[backward] a seed of shape {} for an output of shape {}",
           to_string(seeds[i].shape()), to_string(outputs[i].shape()));
    }
    accumulate("backward", *outputs[i].slot(), seeds[i].to(outputs[i].dtype()));
  }
}

void Tape::walk_back(std::vector<Node> nodes) {
  std::vector<Tensor> grad_outputs;
  std::vector<bool> needs;
  while (!nodes.empty()) {
    // The node, and with it every tensor that its closure saved, dies at the end of its turn.
    const Node node = std::move(nodes.back());
    nodes.pop_back();
    grad_outputs.clear();
    bool reached = false;
    for (const auto& output : node.outputs) {
      reached = reached || output->grad.defined();
      grad_outputs.push_back(std::move(output->grad));
      output->grad = {};
      output->owned = false;
    }
    if (!reached) continue;
    needs.assign(node.inputs.size(), false);
    for (std::size_t i = 0; i < needs.size(); ++i) needs[i] = node.inputs[i] != nullptr;
    std::vector<Tensor> grads = node.backward(grad_outputs, needs);
    if (grads.size() != node.inputs.size()) {
      fail(ErrorCode::invalid_argument, "[{}] backward returned {} gradients for {} inputs", node.op, grads.size(),
           node.inputs.size());
    }
    grad_outputs.clear();
    for (std::size_t i = 0; i < grads.size(); ++i) {
      if (node.inputs[i] != nullptr) accumulate(node.op, *node.inputs[i], std::move(grads[i]));
    }
  }
}

GradPlace::GradPlace(const Tensor& x) : slot_(x.slot()), shape_(x.shape()), dtype_(x.dtype()), device_(x.device()) {}

Tensor GradPlace::empty() const {
  if (slot_ != nullptr && slot_->place) return std::exchange(slot_->place, nullptr)();
  return Tensor::empty(shape_, dtype_, device_);
}

void place_gradient(const Tensor& y, std::function<Tensor()> make) {
  if (y.needs_grad() && !y.slot()->leaf) y.slot()->place = std::move(make);
}

void require_gradients(std::span<const Parameter> parameters) {
  for (const Parameter& parameter : parameters) {
    if (!parameter.received_gradient()) {
      fail(ErrorCode::invalid_argument, "trainable parameter {} received no gradient", parameter.name());
    }
  }
}

}  // namespace wick
