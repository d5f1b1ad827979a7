#include "cli/memory_options.h"

#include <algorithm>
#include <charconv>

#include "backend/backend.h"
#include "cli/cli.h"
#include "core/fail.h"
#include "io/json.h"

namespace wick::cli {
namespace {

double gib(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

void MemoryOptions::add_to(CLI::App& verb, const std::string& group) {
  verb.add_option(
          "--grad-checkpoint", grad_checkpoint,
          "what backward makes again to save memory: none (norms and activations on a GPU, nothing on a CPU),\n"
          "mlp (also the product of gate and up), all (whole layers), that many whole layers, or auto: the least\n"
          "that fits the GPU, or --max-memory. The result is the same. Default: auto; without a value: all")
      ->expected(0, 1)
      ->type_name("WHAT")
      ->group(group);
  verb.add_option("--max-memory", max_gib, "GiB that the plan may take, for --grad-checkpoint auto")
      ->check(positive())
      ->type_name("GIB")
      ->group(group);
  verb.add_flag("--dry-run", dry_run, "print the memory that training would take, and end")->group(group);
}

std::vector<Recompute> MemoryOptions::choose(const ModelConfig& config, std::span<const LoraTarget> targets,
                                             const PlanSettings& settings, std::size_t free_bytes) const {
  std::vector<Recompute> layers = settings.recompute;
  if (grad_checkpoint == "none") return layers;
  if (grad_checkpoint == "auto") {
    std::size_t budget = free_bytes;
    if (max_gib > 0) {
      const auto most = static_cast<std::size_t>(max_gib * static_cast<double>(1 << 30));
      budget = budget == 0 ? most : std::min(budget, most);
    }
    return budget == 0 ? layers : choose_recompute(config, targets, settings, budget);
  }
  if (grad_checkpoint == "mlp") {
    layers.assign(layers.size(), Recompute::gate_up);
    return layers;
  }
  if (grad_checkpoint == "all" || grad_checkpoint.empty()) {
    layers.assign(layers.size(), Recompute::layer);
    return layers;
  }
  std::size_t count = 0;
  const char* end = grad_checkpoint.data() + grad_checkpoint.size();
  const auto [at, status] = std::from_chars(grad_checkpoint.data(), end, count);
  if (status != std::errc() || at != end || count > layers.size()) {
    fail(ErrorCode::invalid_argument,
         "--grad-checkpoint is {}, expected none, mlp, all, auto or a number up to {} (layers)",
         one_line(grad_checkpoint), layers.size());
  }
  // The first ones: when backward comes to them, the memory of the others is free again.
  std::fill_n(layers.begin(), count, Recompute::layer);
  return layers;
}

std::size_t usable_bytes(Device device) {
  if (device.type == DeviceType::cpu) return 0;
  backend(device).trim(device);
  return memory_stats(device).current + backend(device).memory(device).free;
}

std::size_t besides_bytes(Device device) {
  if (device.type == DeviceType::cpu) return 0;
  const Backend::Memory memory = backend(device).memory(device);
  const std::size_t tensors = memory_stats(device).current;
  return memory.total - std::min(memory.total, memory.free + tensors);
}

void print_plan(const MemoryPlan& plan, const PlanSettings& settings, std::size_t free_bytes, std::size_t besides,
                bool json) {
  std::size_t saved = 0;
  for (const std::size_t bytes : plan.saved) saved += bytes;
  const auto layers_at = [&](Recompute level) {
    return std::count(settings.recompute.begin(), settings.recompute.end(), level);
  };
  if (json) {
    Json fields = {{"tokens", settings.tokens},
                   {"weights", plan.weights},
                   {"borders", plan.borders},
                   {"adapter", plan.adapter},
                   {"optimizer", plan.optimizer},
                   {"saved", plan.saved},
                   {"transient", plan.transient},
                   {"workspace", plan.workspace},
                   {"total", plan.total()},
                   {"gate_up_again", layers_at(Recompute::gate_up)},
                   {"layers_again", layers_at(Recompute::layer)}};
    if (free_bytes > 0) fields["usable"] = free_bytes;
    if (besides > 0) fields["besides"] = besides;
    print(dump_json_line(fields) + "\n");
  } else {
    std::string text = fmt::format("memory of a training step of {} tokens, GiB\n", settings.tokens);
    const auto line = [&](const std::string& what, std::size_t bytes) {
      text += fmt::format("  {:<44}{:>9.3f}\n", what, gib(bytes));
    };
    line("weights", plan.weights);
    line("adapter in the weights' dtype", plan.borders);
    line("adapter, values and gradients", plan.adapter);
    line("optimizer", plan.optimizer);
    const auto [least, most] = std::minmax_element(plan.saved.begin(), plan.saved.end());
    line(fmt::format("saved for backward ({} layers, {:.3f} to {:.3f} each)", plan.saved.size(), gib(*least),
                     gib(*most)),
         saved);
    line("transient, at the peak", plan.transient);
    if (plan.workspace > 0) line("workspace of the GEMM library", plan.workspace);
    line("total", plan.total());
    if (free_bytes > 0) line("free on the device, with what is loaded", free_bytes);
    if (besides > 0) {
      line("CUDA, its libraries and others, now", besides);
      line("total, as the driver counts", plan.total() + besides);
    }
    text += fmt::format("made again in backward: whole layers {}, gate_up {}, norms and activations {}, nothing {}\n",
                        layers_at(Recompute::layer), layers_at(Recompute::gate_up), layers_at(Recompute::activations),
                        layers_at(Recompute::nothing));
    print(text);
  }
  if (free_bytes > 0 && plan.total() > free_bytes) {
    fail(ErrorCode::out_of_memory, "the plan takes {:.2f} GiB, {:.2f} GiB are free; --grad-checkpoint auto may fit it",
         gib(plan.total()), gib(free_bytes));
  }
}

}  // namespace wick::cli
