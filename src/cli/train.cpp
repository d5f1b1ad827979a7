#include <algorithm>
#include <chrono>
#include <numeric>

#include "cli/cli.h"
#include "cli/profile_option.h"
#include "cli/progress.h"
#include "cli/train_options.h"
#include "core/fail.h"
#include "io/json.h"
#include "wick/data.h"
#include "wick/train.h"

namespace wick::cli {
namespace {

std::string describe(const DatasetReport& r) {
  std::string text =
      fmt::format("{} rows ({}), {} tokens, {} trained on", r.rows, to_string(r.format), r.tokens, r.trained_tokens);
  if (r.truncated > 0) text += fmt::format("; {} cut to --max-seq-length", r.truncated);
  if (r.dropped > 0) text += fmt::format("; {} dropped without a token to train on", r.dropped);
  return text;
}

std::string describe(const PairReport& r) {
  std::string text = fmt::format("{} rows, {} different texts, {} tokens", r.rows, r.texts, r.tokens);
  if (r.truncated > 0) text += fmt::format("; {} texts cut", r.truncated);
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

Json result_json(const TrainResult& r, const TrainVerb& o, std::int64_t parameters) {
  const auto number = [](const std::optional<double>& value) { return value ? Json(*value) : Json(); };
  Json json = {{"steps", r.steps},
               {"final_loss", r.final_loss},
               {"first_val_loss", number(r.first_val_loss)},
               {"last_val_loss", number(r.last_val_loss)},
               {"best_val_loss", number(r.best_val_loss)},
               {"best_step", r.best_step},
               {"stopped_early", r.stopped_early},
               {"trainable_parameters", parameters},
               {"adapter_path", o.output}};
  if (o.task == "contrastive") {
    json["first_val_recall_at_1"] = number(r.first_val_recall_at_1);
    json["last_val_recall_at_1"] = number(r.last_val_recall_at_1);
  }
  return json;
}

void show(const TrainResult& result, const TrainVerb& o) {
  if (result.stopped_early)
    print_note(fmt::format("stopped: no better validation in {} (--patience)", o.train.patience));
  if (result.first_val_loss) {
    print(fmt::format("validation loss {:.4f} -> {:.4f} (best {:.4f} at step {})\n", *result.first_val_loss,
                      *result.last_val_loss, *result.best_val_loss, result.best_step));
  }
  if (result.first_val_recall_at_1) {
    print(fmt::format("validation recall@1 {:.4f} -> {:.4f}\n", *result.first_val_recall_at_1,
                      *result.last_val_recall_at_1));
  }
  print(fmt::format("adapter: {}\nloss curve: {}/loss.svg\n", o.output, o.output));
}

// Runs to the end with its progress on standard error, and tells the result.
void drive(Trainer& trainer, const TrainVerb& o, std::int64_t parameters, Device device, DType dtype) {
  install_signal_handlers();
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
      const std::string recall =
          report.val_recall_at_1 ? fmt::format(", recall@1 {:.4f}", *report.val_recall_at_1) : std::string();
      printer.message(fmt::format("step {}: validation loss {:.4f}{}", report.step, *report.val_loss, recall));
    }
    const std::int64_t every = o.train.steps_per_report;
    printer.update(progress, every > 0 && report.step > 0 && report.step % every == 0);
  });
  printer.finish();
  if (!o.profile.empty()) report_profile(o.profile, result.profile, device, dtype, "wick train");
  if (o.json) {
    print(dump_json_line(result_json(result, o, parameters)) + "\n");
  } else {
    show(result, o);
  }
}

void train_lm(TrainVerb& o) {
  LoadedModel loaded = load_model(o.model);
  Decoder& model = loaded.decoder;
  const ModelConfig& config = model.config();
  if (config.pad_token_id && *config.pad_token_id >= 0 && *config.pad_token_id < config.vocab_size) {
    o.train.batches.pad_id = *config.pad_token_id;
  }
  const TriedTokenizer tokenizer = try_tokenizer(o.model.model);
  const DataSplits data = load_data(o.data, {.vocab_size = config.vocab_size,
                                             .max_seq_length = o.max_seq_length,
                                             .tokenizer = tokenizer.tokenizer ? &*tokenizer.tokenizer : nullptr,
                                             .no_tokenizer = tokenizer.problem,
                                             .eos_token_ids = config.eos_token_ids,
                                             .mask_prompt = o.mask_prompt});
  const auto adapter = std::make_shared<const Adapter>(o.starting_adapter(model.linear_modules()),
                                                       model.linear_modules(), model.device());
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
      "model: {} {}, {:.2f} M parameters, computing in {}; adapter: {} modules, {} trainable parameters ({:.3f} %)",
      to_string(config.architecture), o.model.model, static_cast<double>(all) / 1e6,
      computing_in(model.dtype(), model.device()), adapter->entries().size(), adapter->parameter_count(),
      100.0 * static_cast<double>(adapter->parameter_count()) / static_cast<double>(all)));
  Trainer trainer(model, adapter, data.train, data.valid ? &*data.valid : nullptr, o.train, o.output);
  drive(trainer, o, adapter->parameter_count(), model.device(), model.dtype());
}

void train_contrastive(const TrainVerb& o) {
  EmbeddingModel model = EmbeddingModel::load(o.model.model, o.model.load_options());
  const Device device = model.device();
  const PairSplits data = load_pairs(o.data, model, o.pairs);
  const std::vector<ModuleInfo>& modules = model.linear_modules();
  const auto adapter = std::make_shared<const Adapter>(o.starting_adapter(modules), modules, device);
  model.attach(adapter, lora_layout(o.lora_layout, device));
  Trainer trainer(model, adapter, data.train, data.valid ? &*data.valid : nullptr, o.contrastive, o.train, o.output);
  print_note(fmt::format("train: {}", describe(data.train.report())));
  if (data.valid) print_note(fmt::format("valid: {}", describe(data.valid->report())));
  print_note(fmt::format("model: {}, computing in {}; adapter: {} modules, {} trainable parameters", o.model.model,
                         computing_in(model.dtype(), device), adapter->entries().size(), adapter->parameter_count()));
  drive(trainer, o, adapter->parameter_count(), device, model.dtype());
}

void run(TrainVerb o) {
  o.settle();
  if (o.task == "contrastive") {
    train_contrastive(o);
  } else {
    train_lm(o);
  }
}

}  // namespace

void add_train(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("train", "fine-tune a model with LoRA");
  const auto o = std::make_shared<TrainVerb>();
  o->add_to(*verb);
  verb->callback([o] { run(*o); });
}

}  // namespace wick::cli
