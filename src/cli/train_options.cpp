#include "cli/train_options.h"

#include <algorithm>

#include "cli/profile_option.h"
#include "core/fail.h"

namespace wick::cli {
namespace {

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

ModuleSelector parse_targets(const std::string& text) {
  const bool pattern = text == "all-linear" || text.find_first_of("*.+|()[]^$\\?") != std::string::npos;
  return pattern ? ModuleSelector(text) : ModuleSelector(split_list(text));
}

ModuleSelector sorted(ModuleSelector selector) {
  if (auto* names = std::get_if<std::vector<std::string>>(&selector)) std::sort(names->begin(), names->end());
  return selector;
}

// An adapter that is continued brings its own configuration: an option may repeat it, but not contradict it.
void refuse_contradictions(const TrainVerb& o, const std::string& folder, const LoraConfig& config) {
  const auto differs = [&](const char* option, bool different) {
    if (different && o.given(option)) {
      fail(ErrorCode::invalid_argument, "{} differs from the configuration in {}", option, folder);
    }
  };
  differs("--rank", o.rank != config.rank);
  differs("--alpha", o.alpha != config.alpha);
  differs("--dropout", o.dropout != config.dropout);
  differs("--rslora", o.rslora != config.use_rslora);
  differs("--target-modules", sorted(parse_targets(o.target_modules)) != sorted(config.target_modules));
}

// PEFT would adapt the linear layers that nothing depends on as well, where the targets select them.
std::vector<std::string> selected_unused(const LoraConfig& config, std::span<const ModuleInfo> modules) {
  std::vector<ModuleInfo> all(modules.begin(), modules.end());
  for (ModuleInfo& module : all) {
    if (module.kind == ModuleKind::unused) module.kind = ModuleKind::linear;
  }
  const std::vector<LoraTarget> targets = resolve_targets(config, all);
  std::vector<std::string> names;
  for (const ModuleInfo& module : modules) {
    if (module.kind == ModuleKind::unused &&
        std::ranges::find(targets, module.name, &LoraTarget::name) != targets.end())
      names.push_back(module.name);
  }
  return names;
}

}  // namespace

void TrainVerb::settle() {
  const bool pairs_task = task == "contrastive";
  const auto refuse = [&](std::initializer_list<const char*> options) {
    for (const char* option : options) {
      if (given(option)) fail(ErrorCode::invalid_argument, "{} has no meaning with --task {}", option, task);
    }
  };
  if (pairs_task) {
    refuse({"--mask-prompt", "--no-pack", "--batch-tokens", "--label-smoothing", "--grad-checkpoint", "--max-memory",
            "--dry-run"});
    if (!given("--batch-size")) train.batches.batch_size = 32;
    if (!given("--target-modules")) target_modules = "all-linear";
    if (given("--max-seq-length")) pairs.max_tokens = max_seq_length;
  } else {
    refuse({"--temperature", "--symmetric", "--query-prompt", "--passage-prompt"});
  }
  train.schedule.kind = schedule_from_string(schedule);
  train.batches.shuffle = !no_shuffle;
  train.batches.pack = !no_pack;
  train.batches.seed = train.seed;
  train.stop = &stop_requested;
  if (profile.empty()) train.profile_steps = 0;
  validate(train);
}

AdapterWeights TrainVerb::starting_adapter(std::span<const ModuleInfo> modules) const {
  if (resume && !std::filesystem::exists(std::filesystem::path(output) / "checkpoint.safetensors")) {
    fail(ErrorCode::io, "{}: has no checkpoint.safetensors to --resume from", output);
  }
  if (const std::string& folder = resume ? output : resume_adapter; !folder.empty()) {
    AdapterWeights weights = load_adapter(folder, modules);
    refuse_contradictions(*this, folder, weights.config);
    return weights;
  }
  LoraConfig config;
  config.rank = rank;
  config.alpha = alpha;
  config.dropout = dropout;
  config.use_rslora = rslora;
  config.base_model_name_or_path = model.model;
  config.target_modules = parse_targets(target_modules);
  if (task == "contrastive") config.task_type = "FEATURE_EXTRACTION";
  if (const auto unused = selected_unused(config, modules); !unused.empty()) config.exclude_modules = unused;
  return init_adapter(config, modules, train.seed);
}

void TrainVerb::add_to(CLI::App& app) {
  verb = &app;
  app.footer(
      help_footer("Example: wick train --model DIR --data FILE.jsonl --adapter-path OUT --target-modules all-linear "
                  "--iters 600"));
  model.add_to(app, false);
  app.add_option("--task", task, "lm: next tokens; contrastive: an embedding model, by pairs of texts")
      ->check(CLI::IsMember({"lm", "contrastive"}))
      ->capture_default_str();
  app.add_option("--data", data,
                 "a .jsonl file, or a folder with train.jsonl and perhaps valid.jsonl; rows are\n"
                 "{\"text\"}, {\"prompt\", \"completion\"} or {\"input_ids\", \"labels\"}; for contrastive training\n"
                 "{\"anchor\", \"positive\"}, perhaps with \"negative\", \"query\" for \"anchor\",\n"
                 "or {\"sentence1\", \"sentence2\"}")
      ->required()
      ->type_name("PATH");
  app.add_option("--adapter-path", output, "folder that receives the adapter (PEFT format), metrics.jsonl, loss.svg")
      ->required()
      ->type_name("DIR");
  CLI::Option* from_adapter =
      app.add_option("--resume-adapter", resume_adapter, "start from this adapter's weights and configuration")
          ->type_name("DIR");
  app.add_flag("--resume", resume, "continue the run in --adapter-path from its checkpoint, bit for bit")
      ->excludes(from_adapter);

  const char* lora = "LoRA";
  app.add_option("--rank", rank, "rank of the adapter")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(lora);
  app.add_option("--alpha", alpha, "scale is alpha / rank")->capture_default_str()->group(lora);
  app.add_option("--dropout", dropout, "dropout on the adapters' inputs")
      ->check(probability())
      ->capture_default_str()
      ->group(lora);
  app.add_option("--target-modules", target_modules,
                 "names, comma-separated; a regular expression; or all-linear, which is the contrastive default")
      ->capture_default_str()
      ->group(lora);
  app.add_flag("--rslora", rslora, "scale is alpha / sqrt(rank)")->group(lora);
  app.add_option("--lora-layout", lora_layout,
                 "how adapted weights are stored; auto: bordered on a GPU, separate on a CPU")
      ->check(CLI::IsMember({"auto", "separate", "bordered"}))
      ->capture_default_str()
      ->group(lora);

  TrainOptions& t = train;
  const char* run_group = "Run";
  app.add_option("--iters", t.iters, "optimizer steps")->capture_default_str()->group(run_group);
  app.add_option("--batch-size", t.batches.batch_size, "rows in a batch; contrastive: 32 unless given")
      ->capture_default_str()
      ->group(run_group);
  app.add_option("--batch-tokens", t.batches.batch_tokens, "pack batches to this many tokens instead")
      ->check(CLI::Range(1, 1 << 30))
      ->group(run_group);
  app.add_option("--grad-accumulation-steps", t.grad_accumulation_steps, "batches in an optimizer step")
      ->capture_default_str()
      ->group(run_group);
  app.add_option("--max-seq-length", max_seq_length, "longer rows, or texts of pairs, are cut")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str()
      ->group(run_group);
  memory.add_to(app, run_group);
  app.add_flag("--no-shuffle", no_shuffle, "take rows in the order of the file")->group(run_group);
  app.add_flag("--no-pack", no_pack, "pad the rows of a batch instead of packing them")->group(run_group);
  app.add_flag("--mask-prompt", mask_prompt, "train on completions only")->group(run_group);
  app.add_option("--seed", t.seed, "of initialisation, order and dropout")
      ->check(unsigned_number())
      ->capture_default_str()
      ->group(run_group);

  const char* pair_group = "Contrastive";
  app.add_option("--temperature", contrastive.temperature, "cosines are divided by it")
      ->check(positive())
      ->capture_default_str()
      ->group(pair_group);
  app.add_flag("--symmetric", contrastive.symmetric, "also find the anchor of each positive; the mean of both losses")
      ->group(pair_group);
  app.add_option("--query-prompt", pairs.anchor_prompt, "what to put before each anchor, such as \"query: \"")
      ->type_name("TEXT")
      ->group(pair_group);
  app.add_option("--passage-prompt", pairs.passage_prompt, "what to put before each positive and negative")
      ->type_name("TEXT")
      ->group(pair_group);

  const char* optimizer = "Optimizer (AdamW)";
  app.add_option("--learning-rate", t.schedule.learning_rate, "peak learning rate")
      ->capture_default_str()
      ->group(optimizer);
  app.add_option("--lr-schedule", schedule, "of the learning rate, after the warm-up")
      ->check(CLI::IsMember({"constant", "linear", "cosine"}))
      ->capture_default_str()
      ->group(optimizer);
  app.add_option("--warmup-steps", t.schedule.warmup_steps, "steps from 0 to the peak")
      ->capture_default_str()
      ->group(optimizer);
  app.add_option("--min-learning-rate", t.schedule.min_rate, "where a cosine ends")
      ->capture_default_str()
      ->group(optimizer);
  app.add_option("--weight-decay", t.adamw.weight_decay, "decoupled weight decay")
      ->capture_default_str()
      ->group(optimizer);
  app.add_option("--beta1", t.adamw.beta1, "decay of the mean of gradients")->capture_default_str()->group(optimizer);
  app.add_option("--beta2", t.adamw.beta2, "decay of the mean of squared gradients")
      ->capture_default_str()
      ->group(optimizer);
  app.add_option("--eps", t.adamw.eps, "added to the denominator")->capture_default_str()->group(optimizer);
  app.add_option("--max-grad-norm", t.max_grad_norm, "clip gradients to this norm; 0: off")
      ->capture_default_str()
      ->group(optimizer);
  app.add_option("--label-smoothing", t.label_smoothing, "share of the target that is spread over the vocabulary")
      ->capture_default_str()
      ->group(optimizer);

  const char* reports = "Reports and checkpoints";
  app.add_option("--steps-per-report", t.steps_per_report, "steps between lines of progress; 0: none")
      ->capture_default_str()
      ->group(reports);
  app.add_option("--steps-per-eval", t.steps_per_eval, "steps between validations; 0: never")
      ->capture_default_str()
      ->group(reports);
  app.add_option("--val-batches", t.val_batches, "batches of a validation; -1: all; 0: none")
      ->capture_default_str()
      ->group(reports);
  app.add_option("--save-every", t.save_every, "steps between checkpoints; 0: at the end")
      ->capture_default_str()
      ->group(reports);
  app.add_option("--patience", t.patience, "end after so many validations without a better one; 0: off")
      ->capture_default_str()
      ->group(reports);
  t.profile_steps = 3;
  CLI::Option* profile_option =
      add_profile_option(app, profile, "steps from the third on, launch by launch on a GPU")->group(reports);
  app.add_option("--profile-steps", t.profile_steps, "steps to profile")
      ->check(CLI::Range(1, 1 << 20))
      ->needs(profile_option)
      ->capture_default_str()
      ->group(reports);
  app.add_flag("--json", json, "print the result as one JSON object")->group(reports);
}

}  // namespace wick::cli
