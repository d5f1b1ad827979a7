#include <algorithm>
#include <chrono>
#include <numeric>

#include "cli/cli.h"
#include "cli/memory_options.h"
#include "cli/profile_option.h"
#include "cli/progress.h"
#include "core/fail.h"
#include "io/json.h"
#include "wick/data.h"
#include "wick/train.h"

namespace wick::cli {
namespace {

struct Options {
  ModelOptions model;
  std::string data;
  std::string output;
  std::string resume_adapter;
  bool resume = false;
  std::int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  std::string target_modules = "q_proj,v_proj";
  bool rslora = false;
  std::string schedule = "constant";
  std::string lora_layout = "auto";
  MemoryOptions memory;
  bool no_shuffle = false;
  bool no_pack = false;
  bool mask_prompt = false;
  std::int64_t max_seq_length = 2048;
  TrainOptions train;
  std::string profile;
  bool json = false;
};

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
void refuse_contradictions(const Options& o, const std::string& folder, const LoraConfig& config,
                           const CLI::App& verb) {
  const auto differs = [&](const char* option, bool different) {
    if (different && verb.count(option) > 0) {
      fail(ErrorCode::invalid_argument, "{} differs from the configuration in {}", option, folder);
    }
  };
  differs("--rank", o.rank != config.rank);
  differs("--alpha", o.alpha != config.alpha);
  differs("--dropout", o.dropout != config.dropout);
  differs("--rslora", o.rslora != config.use_rslora);
  differs("--target-modules", sorted(parse_targets(o.target_modules)) != sorted(config.target_modules));
}

AdapterWeights starting_adapter(const Options& o, const Decoder& model, const CLI::App& verb) {
  const std::vector<ModuleInfo>& modules = model.linear_modules();
  if (o.resume && !std::filesystem::exists(std::filesystem::path(o.output) / "checkpoint.safetensors")) {
    fail(ErrorCode::io, "{}: has no checkpoint.safetensors to --resume from", o.output);
  }
  if (const std::string& folder = o.resume ? o.output : o.resume_adapter; !folder.empty()) {
    AdapterWeights weights = load_adapter(folder, modules);
    refuse_contradictions(o, folder, weights.config, verb);
    return weights;
  }
  LoraConfig config;
  config.rank = o.rank;
  config.alpha = o.alpha;
  config.dropout = o.dropout;
  config.use_rslora = o.rslora;
  config.base_model_name_or_path = o.model.model;
  config.target_modules = parse_targets(o.target_modules);
  return init_adapter(config, modules, o.train.seed);
}

std::string describe(const DatasetReport& r) {
  std::string text =
      fmt::format("{} rows ({}), {} tokens, {} trained on", r.rows, to_string(r.format), r.tokens, r.trained_tokens);
  if (r.truncated > 0) text += fmt::format("; {} cut to --max-seq-length", r.truncated);
  if (r.dropped > 0) text += fmt::format("; {} dropped without a token to train on", r.dropped);
  return text;
}

// Of the largest batch that these options can make.
std::int64_t most_tokens(const Dataset& data, const BatchOptions& o) {
  if (o.batch_tokens > 0) return o.batch_tokens;
  std::vector<std::int64_t> rows;
  for (const Example& example : data.examples()) rows.push_back(example.tokens());
  std::sort(rows.rbegin(), rows.rend());
  rows.resize(std::min(rows.size(), static_cast<std::size_t>(o.batch_size)));
  if (!o.pack) return rows.front() * static_cast<std::int64_t>(rows.size());
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

Json result_json(const TrainResult& r, const Options& o, std::int64_t parameters) {
  const auto number = [](const std::optional<double>& value) { return value ? Json(*value) : Json(); };
  return {{"steps", r.steps},
          {"final_loss", r.final_loss},
          {"first_val_loss", number(r.first_val_loss)},
          {"last_val_loss", number(r.last_val_loss)},
          {"best_val_loss", number(r.best_val_loss)},
          {"best_step", r.best_step},
          {"stopped_early", r.stopped_early},
          {"trainable_parameters", parameters},
          {"adapter_path", o.output}};
}

void run(Options o, const CLI::App& verb) {
  o.train.schedule.kind = schedule_from_string(o.schedule);
  o.train.batches.shuffle = !o.no_shuffle;
  o.train.batches.pack = !o.no_pack;
  o.train.batches.seed = o.train.seed;
  o.train.stop = &stop_requested;
  if (o.profile.empty()) o.train.profile_steps = 0;
  validate(o.train);
  LoadedModel loaded = load_model(o.model);
  Decoder& model = loaded.decoder;
  const ModelConfig& config = model.config();
  if (config.pad_token_id && *config.pad_token_id >= 0 && *config.pad_token_id < config.vocab_size) {
    o.train.batches.pad_id = *config.pad_token_id;
  }
  const std::optional<Tokenizer> tokenizer = load_tokenizer(o.model.model);
  const DataSplits data = load_data(o.data, {.vocab_size = config.vocab_size,
                                             .max_seq_length = o.max_seq_length,
                                             .tokenizer = tokenizer ? &*tokenizer : nullptr,
                                             .eos_token_ids = config.eos_token_ids,
                                             .mask_prompt = o.mask_prompt});
  const auto adapter =
      std::make_shared<const Adapter>(starting_adapter(o, model, verb), model.linear_modules(), model.device());
  model.attach(adapter, lora_layout(o.lora_layout, model.device()));
  PlanSettings plan{.dtype = model.dtype(),
                    .device = model.device().type,
                    .layout = lora_layout(o.lora_layout, model.device()),
                    .tokens = most_tokens(data.train, o.train.batches),
                    .longest = data.train.longest(),
                    .recompute = model.recompute()};
  std::vector<LoraTarget> targets;
  for (const Adapter::Entry& entry : adapter->entries()) targets.push_back(entry.target);
  const std::size_t usable = usable_bytes(model.device());
  plan.recompute = o.memory.choose(config, targets, plan, usable);
  model.set_recompute(plan.recompute);
  if (o.memory.dry_run) {
    return print_plan(plan_memory(config, targets, plan), plan, usable, besides_bytes(model.device()), o.json);
  }
  const std::int64_t all = config.parameter_count();
  print_note(fmt::format("train: {}", describe(data.train.report())));
  if (data.valid) print_note(fmt::format("valid: {}", describe(data.valid->report())));
  print_note(fmt::format(
      "model: {} {}, {:.2f} M parameters, {} in {}; adapter: {} modules, {} trainable parameters ({:.3f} %)",
      to_string(config.architecture), o.model.model, static_cast<double>(all) / 1e6, "computing", o.model.dtype,
      adapter->entries().size(), adapter->parameter_count(),
      100.0 * static_cast<double>(adapter->parameter_count()) / static_cast<double>(all)));
  install_signal_handlers();
  Trainer trainer(model, adapter, data.train, data.valid ? &*data.valid : nullptr, o.train, o.output);
  if (o.resume) trainer.resume();
  ProgressPrinter printer = ProgressPrinter::on_stderr();
  Progress progress;
  progress.total_steps = o.train.iters;
  const auto start = std::chrono::steady_clock::now();
  const TrainResult result = trainer.run([&](const StepReport& report) {
    if (report.step > 0) {
      if (progress.step == 0) progress.first_step = report.step - 1;
      progress.loss = report.loss;
      progress.tokens_per_second = report.tokens_per_second;
    }
    progress.step = report.step;
    progress.elapsed_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (report.val_loss) {
      progress.val_loss = report.val_loss;
      printer.message(fmt::format("step {}: validation loss {:.4f}", report.step, *report.val_loss));
    }
    const std::int64_t every = o.train.steps_per_report;
    printer.update(progress, every > 0 && report.step > 0 && report.step % every == 0);
  });
  printer.finish();
  if (!o.profile.empty()) report_profile(o.profile, result.profile, model.device(), model.dtype(), "wick train");
  if (o.json) {
    print(dump_json_line(result_json(result, o, adapter->parameter_count())) + "\n");
    return;
  }
  if (result.stopped_early)
    print_note(fmt::format("stopped: no better validation in {} (--patience)", o.train.patience));
  if (result.first_val_loss) {
    print(fmt::format("validation loss {:.4f} -> {:.4f} (best {:.4f} at step {})\n", *result.first_val_loss,
                      *result.last_val_loss, *result.best_val_loss, result.best_step));
  }
  print(fmt::format("adapter: {}\nloss curve: {}/loss.svg\n", o.output, o.output));
}

}  // namespace

void add_train(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("train", "fine-tune a model with LoRA");
  const auto o = std::make_shared<Options>();
  o->model.add_to(*verb, false);
  verb->add_option("--data", o->data,
                   "a .jsonl file, or a folder with train.jsonl and perhaps valid.jsonl; rows are\n"
                   "{\"text\"}, {\"prompt\", \"completion\"} or {\"input_ids\", \"labels\"}")
      ->required()
      ->type_name("PATH");
  verb->add_option("--adapter-path", o->output,
                   "folder that receives the adapter (PEFT format), metrics.jsonl, loss.svg")
      ->required()
      ->type_name("DIR");
  CLI::Option* resume_adapter =
      verb->add_option("--resume-adapter", o->resume_adapter, "start from this adapter's weights and configuration")
          ->type_name("DIR");
  verb->add_flag("--resume", o->resume, "continue the run in --adapter-path from its checkpoint, bit for bit")
      ->excludes(resume_adapter);

  const char* lora = "LoRA";
  verb->add_option("--rank", o->rank, "rank of the adapter")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(lora);
  verb->add_option("--alpha", o->alpha, "scale is alpha / rank")->capture_default_str()->group(lora);
  verb->add_option("--dropout", o->dropout, "dropout on the adapters' inputs")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->group(lora);
  verb->add_option("--target-modules", o->target_modules, "names, comma-separated; a regular expression; or all-linear")
      ->capture_default_str()
      ->group(lora);
  verb->add_flag("--rslora", o->rslora, "scale is alpha / sqrt(rank)")->group(lora);
  verb->add_option("--lora-layout", o->lora_layout,
                   "how adapted weights are stored; auto: bordered on a GPU, separate on a CPU")
      ->check(CLI::IsMember({"auto", "separate", "bordered"}))
      ->capture_default_str()
      ->group(lora);

  TrainOptions& t = o->train;
  const char* run_group = "Run";
  verb->add_option("--iters", t.iters, "optimizer steps")->capture_default_str()->group(run_group);
  verb->add_option("--batch-size", t.batches.batch_size, "rows in a batch")->capture_default_str()->group(run_group);
  verb->add_option("--batch-tokens", t.batches.batch_tokens, "pack batches to this many tokens instead")
      ->group(run_group);
  verb->add_option("--grad-accumulation-steps", t.grad_accumulation_steps, "batches in an optimizer step")
      ->capture_default_str()
      ->group(run_group);
  verb->add_option("--max-seq-length", o->max_seq_length, "longer rows are cut")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str()
      ->group(run_group);
  o->memory.add_to(*verb, run_group);
  verb->add_flag("--no-shuffle", o->no_shuffle, "take rows in the order of the file")->group(run_group);
  verb->add_flag("--no-pack", o->no_pack, "pad the rows of a batch instead of packing them")->group(run_group);
  verb->add_flag("--mask-prompt", o->mask_prompt, "train on completions only")->group(run_group);
  verb->add_option("--seed", t.seed, "of initialisation, order and dropout")->capture_default_str()->group(run_group);

  const char* optimizer = "Optimizer (AdamW)";
  verb->add_option("--learning-rate", t.schedule.learning_rate, "peak learning rate")
      ->capture_default_str()
      ->group(optimizer);
  verb->add_option("--lr-schedule", o->schedule, "constant, linear or cosine")
      ->check(CLI::IsMember({"constant", "linear", "cosine"}))
      ->capture_default_str()
      ->group(optimizer);
  verb->add_option("--warmup-steps", t.schedule.warmup_steps, "steps from 0 to the peak")
      ->capture_default_str()
      ->group(optimizer);
  verb->add_option("--min-learning-rate", t.schedule.min_rate, "where a cosine ends")
      ->capture_default_str()
      ->group(optimizer);
  verb->add_option("--weight-decay", t.adamw.weight_decay, "decoupled weight decay")
      ->capture_default_str()
      ->group(optimizer);
  verb->add_option("--beta1", t.adamw.beta1, "decay of the mean of gradients")->capture_default_str()->group(optimizer);
  verb->add_option("--beta2", t.adamw.beta2, "decay of the mean of squared gradients")
      ->capture_default_str()
      ->group(optimizer);
  verb->add_option("--eps", t.adamw.eps, "added to the denominator")->capture_default_str()->group(optimizer);
  verb->add_option("--max-grad-norm", t.max_grad_norm, "clip gradients to this norm; 0: off")
      ->capture_default_str()
      ->group(optimizer);
  verb->add_option("--label-smoothing", t.label_smoothing, "share of the target that is spread over the vocabulary")
      ->capture_default_str()
      ->group(optimizer);

  const char* reports = "Reports and checkpoints";
  verb->add_option("--steps-per-report", t.steps_per_report, "steps between lines of progress; 0: none")
      ->capture_default_str()
      ->group(reports);
  verb->add_option("--steps-per-eval", t.steps_per_eval, "steps between validations; 0: never")
      ->capture_default_str()
      ->group(reports);
  verb->add_option("--val-batches", t.val_batches, "batches of a validation; -1: all; 0: none")
      ->capture_default_str()
      ->group(reports);
  verb->add_option("--save-every", t.save_every, "steps between checkpoints; 0: at the end")
      ->capture_default_str()
      ->group(reports);
  verb->add_option("--patience", t.patience, "end after so many validations without a better one; 0: off")
      ->capture_default_str()
      ->group(reports);
  o->train.profile_steps = 3;
  CLI::Option* profile =
      add_profile_option(*verb, o->profile, "steps from the third on, launch by launch on a GPU")->group(reports);
  verb->add_option("--profile-steps", t.profile_steps, "steps to profile")
      ->check(CLI::Range(1, 1 << 20))
      ->needs(profile)
      ->capture_default_str()
      ->group(reports);
  verb->add_flag("--json", o->json, "print the result as one JSON object")->group(reports);
  verb->callback([o, verb] { run(*o, *verb); });
}

}  // namespace wick::cli
