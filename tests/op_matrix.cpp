#include "op_matrix.h"

#include <cmath>
#include <cstdlib>
#include <limits>

namespace wick::testing {

Device test_device() {
  const char* name = std::getenv("WICK_TEST_DEVICE");
  return name == nullptr ? Device::cpu() : device_from_string(name);
}

namespace {

bool floating(const SampleInput& input) {
  return input.kind != SampleInput::Kind::indices && input.kind != SampleInput::Kind::fixed;
}

Tensor strided_copy(const Tensor& t) {
  if (t.rank() == 0 || t.numel() == 0) return t;
  Tensor view;
  if (t.rank() == 2 && t.size(0) % 2 == 1) {
    view = Tensor::full({t.size(1), t.size(0)}, 99.0, t.dtype(), t.device()).transpose(0, 1);
  } else if (t.rank() >= 2) {
    Shape shape = t.shape();  // rows that lie further apart than they are long
    shape[-1] += 3;
    view = Tensor::full(shape, 99.0, t.dtype(), t.device()).slice(-1, 2, t.size(-1));
  } else {
    view = Tensor::full({t.size(0), 2}, 99.0, t.dtype(), t.device()).select(1, 1);
  }
  view.copy_from(t);
  return view;
}

}  // namespace

std::vector<Tensor> draw_inputs(const OpSample& sample, DType dtype, unsigned seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> gauss;
  std::uniform_real_distribution<double> unit;
  std::vector<Tensor> inputs;
  for (const SampleInput& input : sample.inputs) {
    if (input.kind == SampleInput::Kind::fixed) {
      inputs.push_back(Tensor::from(input.values, input.shape));
    } else if (input.kind == SampleInput::Kind::indices) {
      const Tensor t = Tensor::empty(input.shape, DType::i32);
      std::uniform_int_distribution<std::int32_t> below(0, static_cast<std::int32_t>(input.limit - 1));
      for (std::int64_t i = 0; i < t.numel(); ++i) t.data<std::int32_t>()[i] = below(generator);
      inputs.push_back(t);
    } else {
      const Tensor t = Tensor::empty(input.shape, DType::f64);
      for (std::int64_t i = 0; i < t.numel(); ++i) {
        double value = gauss(generator);
        if (input.kind == SampleInput::Kind::positive) value = 0.5 + unit(generator);
        if (input.kind == SampleInput::Kind::table) value = 2 * unit(generator) - 1;
        t.data<double>()[i] = value * input.scale;
      }
      const bool is_table = input.kind == SampleInput::Kind::table;
      inputs.push_back(t.to(is_table && dtype != DType::f64 ? DType::f32 : dtype).to(DType::f64));
    }
  }
  return inputs;
}

std::vector<Tensor> convert_inputs(const OpSample& sample, const std::vector<Tensor>& inputs, DType dtype,
                                   Layout layout, Device device) {
  std::vector<Tensor> converted;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const SampleInput& spec = sample.inputs[i];
    Tensor t = inputs[i];
    if (floating(spec)) {
      t = t.to(spec.kind == SampleInput::Kind::table && dtype != DType::f64 ? DType::f32 : dtype);
    }
    t = t.to(device);
    converted.push_back(layout == Layout::strided ? strided_copy(t) : t);
  }
  return converted;
}

double relative_error(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) return std::numeric_limits<double>::infinity();
  const std::vector<double> x = a.to(DType::f64).to_vector<double>();
  const std::vector<double> y = b.to(DType::f64).to_vector<double>();
  double difference = 0;
  double size = 1e-30;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i]) && std::isfinite(y[i])) return std::numeric_limits<double>::infinity();
    if (!std::isfinite(y[i])) continue;
    difference = std::max(difference, std::abs(x[i] - y[i]));
    size = std::max(size, std::abs(y[i]));
  }
  return difference / size;
}

RunResult run_sample(const OpSample& sample, const std::vector<Tensor>& inputs, const std::vector<Tensor>& seeds) {
  std::vector<Tensor> leaves = inputs;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    if (floating(sample.inputs[i]) && sample.inputs[i].differentiable) leaves[i].set_slot(std::make_shared<GradSlot>());
  }
  Tape tape;
  RunResult result;
  result.outputs = sample.run(leaves);
  std::vector<Tensor> cast_seeds;
  for (std::size_t i = 0; i < seeds.size(); ++i)
    cast_seeds.push_back(seeds[i].to(result.outputs[i].dtype()).to(result.outputs[i].device()));
  if (sample.gradients) tape.backward(result.outputs, cast_seeds);
  for (const Tensor& leaf : leaves) result.grads.push_back(leaf.needs_grad() ? leaf.slot()->grad : Tensor());
  return result;
}

}  // namespace wick::testing
