// Times every op on its samples of benchmark size: f32 and bf16, fused and composite, forward alone and with backward.
// Timed is the op on inputs that lie ready, results allocated anew each time; every result is complete before the next.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "op_matrix.h"
#include "wick/autograd.h"

namespace wick {
namespace {

struct Setting {
  std::string inputs;  // names what draws the same inputs: op, sample and dtype
  OpSample sample;
  DType dtype;
  bool fused;
  bool backward;
};

std::int64_t total_bytes(const std::vector<Tensor>& tensors) {
  std::int64_t bytes = 0;
  for (const Tensor& t : tensors) {
    if (t.defined()) bytes += t.numel() * static_cast<std::int64_t>(size_of(t.dtype()));
  }
  return bytes;
}

std::vector<Tensor> with_slots(const OpSample& sample, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> leaves = inputs;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    if (is_floating(leaves[i].dtype()) && sample.inputs[i].differentiable) {
      leaves[i].set_slot(std::make_shared<GradSlot>());
    }
  }
  return leaves;
}

void run(benchmark::State& state, const Setting& setting) {
  const OpSample& sample = setting.sample;
  const testing::FusedScope scope(setting.fused);
  // The same inputs serve all the calls in a row that measure one sample in one dtype: drawing them takes longer.
  static std::string drawn;
  static std::vector<Tensor> inputs;
  if (drawn != setting.inputs) {
    inputs = testing::convert_inputs(sample, testing::draw_inputs(sample, setting.dtype, 7), setting.dtype,
                                     testing::Layout::dense);
    drawn = setting.inputs;
  }
  const std::vector<Tensor> outputs = sample.run(inputs);
  std::int64_t elements = 0;
  for (const Tensor& y : outputs) elements += y.numel();
  std::int64_t bytes = total_bytes(inputs) + total_bytes(outputs);
  if (!setting.backward) {
    for (auto _ : state) benchmark::DoNotOptimize(sample.run(inputs));
  } else {
    std::vector<Tensor> seeds;
    for (const Tensor& y : outputs) seeds.push_back(Tensor::full(y.shape(), 1.0, y.dtype()));
    std::vector<Tensor> leaves;
    for (auto _ : state) {
      leaves = with_slots(sample, inputs);
      Tape tape;
      tape.backward(sample.run(leaves), seeds);
    }
    bytes += total_bytes(seeds);
    for (const Tensor& leaf : leaves) bytes += leaf.needs_grad() ? total_bytes({leaf.slot()->grad}) : 0;
  }
  // Elements of the results; bytes of all inputs and results, each counted once: the least that must be moved.
  state.SetItemsProcessed(state.iterations() * elements);
  state.SetBytesProcessed(state.iterations() * bytes);
}

void add_benchmarks() {
  for (const OpSamples& op : all_samples()) {
    for (const OpSample& sample : op.samples) {
      if (!sample.bench) continue;
      for (const DType dtype : {DType::f32, DType::bf16}) {
        if (std::ranges::find(sample.dtypes, dtype) == sample.dtypes.end()) continue;
        for (const bool fused : {true, false}) {
          for (const bool backward : {false, true}) {
            if (backward && !sample.gradients) continue;
            const std::string inputs = std::string(op.op) + "/" + sample.name + "/" + std::string(to_string(dtype));
            const std::string name =
                inputs + (fused ? "/fused" : "/composite") + (backward ? "/forward+backward" : "/forward");
            benchmark::RegisterBenchmark(name.c_str(), run, Setting{inputs, sample, dtype, fused, backward})
                ->Unit(benchmark::kMicrosecond)
                ->UseRealTime();
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace wick

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  wick::add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
