#include "wick/fuse.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "backend/gemm.h"
#include "core/fail.h"
#include "io/atomic_file.h"
#include "wick/lora.h"
#include "wick/model.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

namespace fs = std::filesystem;

double largest(const Tensor& f32) {
  double value = 0;
  for (std::int64_t i = 0; i < f32.numel(); ++i)
    value = std::max(value, std::abs(static_cast<double>(f32.data<float>()[i])));
  return value;
}

// W + scale * B A in f32, rounded to W's dtype.
Tensor merged(const SafetensorsEntry& entry, const LoraFactors& factors, double scale, FuseReport& report) {
  const Tensor weight = load_tensor(entry);
  if (weight.shape() != Shape{factors.b.size(0), factors.a.size(1)} || !is_floating(weight.dtype())) {
    fail(ErrorCode::format, "tensor {} is {}, the adapter needs [{}, {}]", entry.name, describe(weight),
         factors.b.size(0), factors.a.size(1));
  }
  const Tensor change = Tensor::empty(weight.shape(), DType::f32);
  gemm(factors.b, factors.a, change, scale);
  report.largest_change = std::max(report.largest_change, largest(change));
  const Tensor sum = weight.to(DType::f32).clone();
  for (std::int64_t i = 0; i < sum.numel(); ++i) sum.data<float>()[i] += change.data<float>()[i];
  const Tensor stored = sum.to(weight.dtype());
  const Tensor back = stored.to(DType::f32);
  for (std::int64_t i = 0; i < sum.numel(); ++i) {
    const double error = static_cast<double>(back.data<float>()[i]) - static_cast<double>(sum.data<float>()[i]);
    report.largest_rounding_error = std::max(report.largest_rounding_error, std::abs(error));
  }
  ++report.modules;
  return stored;
}

// Everything of a model folder that is not weights: configuration, tokenizer, licence, ...
void copy_other_files(const fs::path& from, const fs::path& to) {
  for (const fs::directory_entry& file : fs::directory_iterator(from)) {
    const std::string extension = file.path().extension().string();
    const bool weights =
        extension == ".safetensors" || extension == ".bin" || extension == ".pth" || extension == ".gguf";
    if (!file.is_regular_file() || weights) continue;
    fs::copy_file(file.path(), to / file.path().filename());
  }
}

}  // namespace

FuseReport fuse(const fs::path& model, const fs::path& adapter, const fs::path& output) {
  for (const fs::path& input : {model, adapter}) {
    if (fs::exists(output) && fs::exists(input) && fs::equivalent(output, input)) {
      fail(ErrorCode::invalid_argument, "the output folder {} is one of the inputs", output.string());
    }
  }
  if (fs::exists(output) &&
      !(fs::is_directory(output) && (fs::is_empty(output) || fs::exists(output / "config.json")))) {
    fail(ErrorCode::invalid_argument, "{} exists and is no model folder: not replaced", output.string());
  }
  const std::vector<ModuleInfo> modules = linear_modules(ModelConfig::from_folder(model));
  const AdapterWeights weights = load_adapter(adapter, modules);
  std::map<std::string, const LoraTarget*> by_weight;
  const std::vector<LoraTarget> targets = resolve_targets(weights.config, modules);
  for (const LoraTarget& target : targets) {
    if (target.name == "lm_head") fail(ErrorCode::unsupported, "an adapter on lm_head is not supported");
    by_weight[target.name + ".weight"] = &target;
  }
  const ShardedSafetensors source = ShardedSafetensors::open(model);
  AtomicDirectory directory(output);
  FuseReport report;
  for (const SafetensorsFile& file : source.files()) {
    std::vector<SafetensorsEntry> entries = file.entries();
    for (SafetensorsEntry& entry : entries) {
      const auto target = by_weight.find(entry.name);
      if (target == by_weight.end()) continue;
      const LoraTarget& t = *target->second;
      entry = make_entry(entry.name, merged(entry, weights.modules.at(t.name), t.scale, report));
    }
    write_safetensors(directory.staging() / file.path().filename(), entries, file.metadata());
  }
  if (report.modules != static_cast<std::int64_t>(targets.size())) {
    fail(ErrorCode::format, "{}: {} of the {} adapted weights are in the files", source.source().string(),
         report.modules, targets.size());
  }
  copy_other_files(model, directory.staging());
  directory.commit();
  return report;
}

}  // namespace wick
