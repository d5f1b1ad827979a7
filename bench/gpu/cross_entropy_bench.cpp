// The head's cross-entropy with the gradient of the hidden states: the whole op, and inside it the product that makes
// logits, the loss kernel and the product that makes dx, for chunks of several sizes.
//
//   cross_entropy_bench [--json] [--repeats N] [--model PART-OF-NAME] [--chunks 0,512,1024] [--policies]
//
// Chunk 0 is the size that the op chooses. The whole op is a recorded graph; its parts are launched anew each time,
// with events around each launch, so that they add some microseconds each. Operations are those of the two products;
// the kernel's bytes are each logit once and each gradient once. --policies: with each mark for the logits in L2.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/row_plan.h"
#include "gpu/record.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"
#include "wick/profile.h"

namespace wick::bench {
namespace {

struct Model {
  const char* name;
  std::int64_t tokens, width, vocab;
};
constexpr std::array<Model, 3> kModels = {
    {{"Qwen2.5-0.5B", 8192, 896, 151936}, {"Llama-3.2-1B", 8192, 2048, 128256}, {"Llama-3.1-8B", 4096, 4096, 128256}}};

struct Options {
  bool json = false;
  int repeats = 21;
  std::string model;
  std::vector<std::int64_t> chunks = {0, 512, 1024, 2048, 4096};
  bool policies = false;
};

// When the logits that the kernel has read leave L2, and what that is called; nothing: as the op chooses.
struct Policy {
  std::optional<cuda::Evict> reads;
  const char* name = "";
};
constexpr std::array<Policy, 4> kPolicies = {
    {{}, {cuda::Evict::usual, "as usual"}, {cuda::Evict::first, "first"}, {cuda::Evict::last, "last"}}};

void measure(const Report& report, const Model& model, const std::vector<std::int64_t>& chunks, const Policy& policy,
             Device device) {
  const auto [name, tokens, width, vocab] = model;
  const Tensor x = random({tokens, width}, DType::bf16, device);
  const Tensor weight = random({vocab, width}, DType::bf16, device, 0.05);
  const Tensor labels = random_ids(tokens, vocab, device);
  const Tensor loss = Tensor::empty({}, DType::f32, device);
  const Tensor dx = Tensor::empty({tokens, width}, DType::bf16, device);
  const auto logits = static_cast<double>(tokens * vocab);
  const double product = 2 * logits * static_cast<double>(width);
  for (const std::int64_t chunk : chunks) {
    for (const bool gradient : {true, false}) {
      const auto run = [&] {
        std::optional<cuda::RowTrial> trial;
        if (policy.reads) trial.emplace(cuda::L2Marks{.reads = *policy.reads});
        require(linear_cross_entropy_kernels.on(DeviceType::cuda)(x, weight, labels, 0.0, chunk, loss, Tensor(),
                                                                  gradient ? dx : Tensor(), Tensor()));
      };
      const Spread whole = time_in_turn(device, {{.run = run}}, report.repeats(), 1)[0];
      std::vector<double> forward, kernel, backward;
      for (int repeat = 0; repeat < report.repeats(); ++repeat) {
        for (std::vector<double>* part : {&forward, &kernel, &backward}) part->push_back(0);
        bool again = false;  // the products of a chunk come in turn
        Profile profile(device);
        run();
        for (const KernelRecord& record : profile.stop()) {
          if (record.name == "cross-entropy") kernel.back() += record.duration_us;
          if (!record.name.starts_with("gemm")) continue;
          (again ? backward : forward).back() += record.duration_us;
          again = gradient && !again;
        }
      }
      const std::string made = gradient ? "with dx" : "loss alone";
      Json parameters = {{"model", name}};
      if (chunk != 0) parameters["chunk"] = chunk;
      if (policy.reads) parameters["logits leave L2"] = policy.name;
      report.row("linear cross-entropy, " + made, parameters, whole, 0, gradient ? 2 * product : product);
      parameters["part of"] = made;
      report.row("logits = x W", parameters, spread(std::move(forward)), 0, product);
      report.row("cross-entropy", parameters, spread(std::move(kernel)), logits * (gradient ? 6 : 4));
      if (gradient) report.row("dx = dlogits W", parameters, spread(std::move(backward)), 0, product);
    }
  }
}

int usage() {
  std::fprintf(stderr,
               "usage: cross_entropy_bench [--json] [--repeats N] [--model PART-OF-NAME] [--chunks N,N,...] "
               "[--policies]\n");
  return 2;
}

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const char* const value = i + 1 < argc ? argv[i + 1] : "";
    if (argument == "--json" || argument == "--policies") {
      (argument == "--json" ? options.json : options.policies) = true;
      continue;
    }
    if (argument == "--repeats" && std::atoi(value) > 0) {
      options.repeats = std::atoi(value);
    } else if (argument == "--model" && *value != 0) {
      options.model = value;
    } else if (argument == "--chunks" && *value != 0) {
      options.chunks.clear();
      for (const char* at = value; at != nullptr; at = std::strchr(at, ',')) {
        if (*at == ',') ++at;
        options.chunks.push_back(std::max(0LL, std::atoll(at)));
      }
    } else {
      return usage();
    }
    ++i;
  }
  const Device device = gpu();
  const Report report(device, options.json, options.repeats);
  for (const Model& model : kModels) {
    if (std::strstr(model.name, options.model.c_str()) == nullptr) continue;
    for (const Policy& policy : kPolicies) {
      if (options.policies || !policy.reads) measure(report, model, options.chunks, policy, device);
    }
  }
  return 0;
}

}  // namespace
}  // namespace wick::bench

int main(int argc, char** argv) {
  return wick::bench::guarded([&] { return wick::bench::run(argc, argv); });
}
