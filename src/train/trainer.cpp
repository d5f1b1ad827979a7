#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <utility>

#include "backend/backend.h"
#include "core/fail.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "train/checkpoint.h"
#include "train/curve.h"
#include "train/metrics.h"
#include "train/train_step.h"
#include "train/train_task.h"
#include "wick/train.h"

namespace wick {
namespace {

// Of the process, or on an accelerator what the driver counts as taken: cached memory is not given back, so that is the
// peak.
std::size_t peak_memory_bytes(Device device) {
  if (device.type != DeviceType::cpu) {
    const Backend::Memory memory = backend(device).memory(device);
    return memory.total - memory.free;
  }
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

void require(bool condition, const char* option, double value, const char* expected) {
  if (!condition) fail(ErrorCode::invalid_argument, "{} is {}, expected {}", option, value, expected);
}

// What the course of a run depends on, by the names of the program's options.
Json course(const TrainOptions& o, const TrainTask& task, const LoraConfig& lora) {
  Json json = {{"batch-size", o.batches.batch_size},
               {"no-shuffle", !o.batches.shuffle},
               {"data-seed", o.batches.seed},
               {"seed", o.seed},
               {"grad-accumulation-steps", o.grad_accumulation_steps},
               {"learning-rate", o.schedule.learning_rate},
               {"lr-schedule", to_string(o.schedule.kind)},
               {"warmup-steps", o.schedule.warmup_steps},
               {"min-learning-rate", o.schedule.min_rate},
               {"beta1", o.adamw.beta1},
               {"beta2", o.adamw.beta2},
               {"eps", o.adamw.eps},
               {"weight-decay", o.adamw.weight_decay},
               {"max-grad-norm", o.max_grad_norm},
               {"dropout", lora.dropout},
               {"rank", lora.rank},
               {"alpha", lora.alpha},
               {"rslora", lora.use_rslora},
               {"dtype", to_string(task.dtype())}};
  json.update(task.course());
  if (o.schedule.kind != ScheduleKind::constant) json["iters"] = o.schedule.total_steps;
  return json;
}

Metrics as_metrics(const StepReport& report) {
  return {.step = report.step,
          .loss = report.loss,
          .lr = report.learning_rate,
          .grad_norm = report.grad_norm,
          .tokens_per_second = report.tokens_per_second,
          .trained_tokens = report.total_trained_tokens,
          .peak_memory_bytes = static_cast<std::int64_t>(report.peak_memory_bytes),
          .val_loss = report.val_loss,
          .val_recall_at_1 = report.val_recall_at_1};
}

}  // namespace

void validate(const TrainOptions& o) {
  const auto number = [](auto value) { return static_cast<double>(value); };
  require(o.iters >= 0, "--iters", number(o.iters), "0 or more");
  require(o.grad_accumulation_steps >= 1, "--grad-accumulation-steps", number(o.grad_accumulation_steps), "1 or more");
  require(o.batches.batch_size >= 1, "--batch-size", number(o.batches.batch_size), "1 or more");
  require(o.batches.batch_tokens >= 0, "--batch-tokens", number(o.batches.batch_tokens), "1 or more");
  require(o.schedule.learning_rate >= 0 && std::isfinite(o.schedule.learning_rate), "--learning-rate",
          o.schedule.learning_rate, "a finite number of 0 or more");
  require(o.schedule.min_rate >= 0 && std::isfinite(o.schedule.min_rate), "--min-learning-rate", o.schedule.min_rate,
          "a finite number of 0 or more");
  require(o.schedule.warmup_steps >= 0, "--warmup-steps", number(o.schedule.warmup_steps), "0 or more");
  require(o.adamw.beta1 >= 0 && o.adamw.beta1 < 1, "--beta1", o.adamw.beta1, "[0, 1)");
  require(o.adamw.beta2 >= 0 && o.adamw.beta2 < 1, "--beta2", o.adamw.beta2, "[0, 1)");
  require(o.adamw.eps > 0, "--eps", o.adamw.eps, "more than 0");
  require(o.adamw.weight_decay >= 0, "--weight-decay", o.adamw.weight_decay, "0 or more");
  require(o.max_grad_norm >= 0, "--max-grad-norm", o.max_grad_norm, "0 (off) or more");
  require(o.label_smoothing >= 0 && o.label_smoothing < 1, "--label-smoothing", o.label_smoothing, "[0, 1)");
  require(o.steps_per_report >= 0, "--steps-per-report", number(o.steps_per_report), "0 (never) or more");
  require(o.steps_per_eval >= 0, "--steps-per-eval", number(o.steps_per_eval), "0 (never) or more");
  require(o.save_every >= 0, "--save-every", number(o.save_every), "0 (only at the end) or more");
  require(o.profile_steps >= 0, "--profile-steps", number(o.profile_steps), "0 (none) or more");
  require(o.patience >= 0, "--patience", number(o.patience), "0 (off) or more");
}

struct Trainer::Impl {
  Impl(std::unique_ptr<TrainTask> task_, std::shared_ptr<const Adapter> adapter_, TrainOptions options_,
       std::filesystem::path folder_)
      : task(std::move(task_)),
        adapter(std::move(adapter_)),
        options(std::move(options_)),
        folder(std::move(folder_)),
        schedule((options.schedule.total_steps = options.schedule.total_steps > 0
                                                     ? options.schedule.total_steps
                                                     : std::max(options.iters, options.schedule.warmup_steps + 1),
                  options.schedule)) {
    validate(options);
    state.values = adapter->values();
    state.exp_avg = Tensor::zeros({adapter->parameter_count()}, DType::f32, task->device());
    state.exp_avg_sq = Tensor::zeros({adapter->parameter_count()}, DType::f32, task->device());
    state.options = course(options, *task, adapter->config());
  }

  std::filesystem::path checkpoint_file() const { return folder / "checkpoint.safetensors"; }

  StepReport step();
  bool validate_now(StepReport& report);
  void save();
  bool out_of_patience() const { return options.patience > 0 && state.evaluations_without_gain >= options.patience; }
  bool stop_wanted() const { return options.stop != nullptr && options.stop->load(); }

  std::unique_ptr<TrainTask> task;
  std::shared_ptr<const Adapter> adapter;
  TrainOptions options;
  std::filesystem::path folder;
  Schedule schedule;
  Checkpoint state;
  std::unique_ptr<TrainStep> train_step;  // from the first step on: resume() replaces the state before
};

Trainer::Trainer(Decoder& model, std::shared_ptr<const Adapter> adapter, const Dataset& train, const Dataset* valid,
                 const TrainOptions& options, std::filesystem::path folder)
    : impl_(std::make_unique<Impl>(make_lm_task(model, train, valid, options), std::move(adapter), options,
                                   std::move(folder))) {}
Trainer::Trainer(EmbeddingModel& model, std::shared_ptr<const Adapter> adapter, const PairDataset& train,
                 const PairDataset* valid, const ContrastiveOptions& contrastive, const TrainOptions& options,
                 std::filesystem::path folder)
    : impl_(std::make_unique<Impl>(make_contrastive_task(model, train, valid, contrastive, options), std::move(adapter),
                                   options, std::move(folder))) {}
Trainer::~Trainer() = default;

void Trainer::resume() {
  Impl& s = *impl_;
  Checkpoint loaded = load_checkpoint(s.checkpoint_file(), s.adapter->parameter_count());
  const Json& now = s.state.options;
  const auto same_schedule = [&] { return loaded.options.value("lr-schedule", Json()) == now["lr-schedule"]; };
  for (const auto& [key, value] : now.items()) {
    if (key == "iters" && loaded.options.is_object() && !same_schedule())
      continue;  // the schedule itself is named below
    const Json before = loaded.options.is_object() && loaded.options.contains(key) ? loaded.options[key] : Json();
    if (before == value) continue;
    if (key == "data") fail(ErrorCode::invalid_argument, "--resume: the training data is not that of the run's start");
    const std::string_view option = key == "data-seed" ? "seed" : std::string_view(key);
    fail(ErrorCode::invalid_argument, "--resume: --{} was {}, now it is {}", option, before.dump(), value.dump());
  }
  s.task->seek(loaded.cursor);
  s.adapter->values().copy_from(loaded.values);
  loaded.values = s.adapter->values();
  loaded.exp_avg = loaded.exp_avg.to(s.task->device());
  loaded.exp_avg_sq = loaded.exp_avg_sq.to(s.task->device());
  s.state = std::move(loaded);
  if (s.state.step == 0) {  // run() begins with the first validation again
    s.state.first_val_loss = s.state.last_val_loss = s.state.best_val_loss = std::nullopt;
    s.state.first_val_recall_at_1 = s.state.last_val_recall_at_1 = std::nullopt;
    s.state.evaluations_without_gain = 0;
  }
  s.task->refresh_adapter();
}

// One optimizer step: the mean over the terms of all its batches, however they are cut.
StepReport Trainer::Impl::step() {
  std::vector<Batch> batches;
  std::int64_t tokens = 0;
  std::int64_t terms = 0;
  for (std::int64_t i = 0; i < options.grad_accumulation_steps; ++i) {
    batches.push_back(task->next());
    tokens += batches.back().trained_tokens;
    terms += task->terms(batches.back());
  }
  if (train_step == nullptr) {
    train_step = make_train_step(*task, *adapter, state.exp_avg, state.exp_avg_sq,
                                 {.adamw = options.adamw,
                                  .max_grad_norm = options.max_grad_norm,
                                  .dropout = adapter->config().dropout,
                                  .seed = options.seed,
                                  .pad_id = options.batches.pad_id,
                                  .token_budget = options.batches.batch_tokens,
                                  .record = options.profile_steps == 0});
  }
  train_step->begin(terms);
  const auto pass = [&](std::size_t i) {
    return static_cast<std::uint32_t>(state.step * options.grad_accumulation_steps + static_cast<std::int64_t>(i));
  };
  const std::size_t last = batches.size() - 1;
  for (std::size_t i = 0; i < last; ++i) train_step->accumulate(batches[i], pass(i));
  StepReport report;
  report.learning_rate = schedule.learning_rate(state.step);
  const TrainStep::Result result = train_step->update(batches[last], pass(last), report.learning_rate, state.step + 1);
  report.loss = result.loss / static_cast<double>(terms);
  report.grad_norm = result.grad_norm;
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    fail(ErrorCode::diverged,
         "step {}: loss {}, gradient norm {}; a lower --learning-rate or --max-grad-norm 1 may help", state.step + 1,
         report.loss, report.grad_norm);
  }
  state.step += 1;
  report.step = state.step;
  state.cursor = task->cursor();
  state.total_trained_tokens += tokens;
  report.trained_tokens = tokens;
  report.total_trained_tokens = state.total_trained_tokens;
  return report;
}

// True when patience is at its end.
bool Trainer::Impl::validate_now(StepReport& report) {
  const TrainTask::Validation found = task->validate();
  const double loss = found.loss;
  if (!std::isfinite(loss)) fail(ErrorCode::diverged, "step {}: validation loss {}", state.step, loss);
  report.val_loss = loss;
  report.val_recall_at_1 = found.recall_at_1;
  if (!state.first_val_loss) {
    state.first_val_loss = loss;
    state.first_val_recall_at_1 = found.recall_at_1;
  }
  state.last_val_loss = loss;
  state.last_val_recall_at_1 = found.recall_at_1;
  if (!state.best_val_loss || loss < *state.best_val_loss) {
    state.best_val_loss = loss;
    state.best_step = state.step;
    state.evaluations_without_gain = 0;
    save_adapter(folder / "best", adapter->weights());  // from step 0 on: an earlier run's must not stand here
    return false;
  }
  state.evaluations_without_gain += 1;
  return out_of_patience();
}

void Trainer::Impl::save() {
  save_adapter(folder, adapter->weights());
  save_checkpoint(checkpoint_file(), state);
}

TrainResult Trainer::run(const Listener& listener) {
  Impl& s = *impl_;
  std::error_code error;
  std::filesystem::create_directories(s.folder, error);
  if (error) fail(ErrorCode::io, "{}: cannot be created: {}", s.folder.string(), error.message());
  if (s.state.step == 0) {  // what an earlier run left must not pass for this one's
    std::filesystem::remove(s.checkpoint_file());
    std::filesystem::remove_all(s.folder / "best");
  }
  const std::filesystem::path log = s.folder / "metrics.jsonl";
  MetricsWriter metrics = s.state.step > 0 ? MetricsWriter::resume(log, s.state.step) : MetricsWriter::create(log);
  if (s.task->has_validation() && s.state.step == 0) {
    StepReport before;
    s.validate_now(before);
    Metrics row;
    row.peak_memory_bytes = static_cast<std::int64_t>(peak_memory_bytes(s.task->device()));
    row.val_loss = before.val_loss;
    row.val_recall_at_1 = before.val_recall_at_1;
    metrics.write(row);
    if (listener) listener(before);
  }
  TrainResult result;
  result.stopped_early = s.out_of_patience();  // what resume() found was at its end
  using Clock = std::chrono::steady_clock;
  Clock::time_point window_start = Clock::now();
  std::int64_t window_tokens = 0;
  std::optional<Profile> profile;
  const std::int64_t profile_from = s.state.step + TrainOptions::kProfileWarmUp;
  const std::int64_t profile_to = std::min(profile_from + s.options.profile_steps, s.options.iters);
  while (s.state.step < s.options.iters && !result.stopped_early) {
    if (s.stop_wanted()) {
      s.save();
      fail(ErrorCode::interrupted, "stopped after step {}; --resume continues from {}", s.state.step,
           s.checkpoint_file().string());
    }
    if (profile_to > profile_from && s.state.step == profile_from) profile.emplace(s.task->device());
    StepReport report = s.step();
    if (profile && s.state.step == profile_to) {
      result.profile = profile->stop();
      profile.reset();
    }
    window_tokens += report.trained_tokens;
    const double seconds = std::chrono::duration<double>(Clock::now() - window_start).count();
    report.tokens_per_second = static_cast<double>(window_tokens) / std::max(seconds, 1e-9);
    report.peak_memory_bytes = peak_memory_bytes(s.task->device());
    const bool last = s.state.step == s.options.iters;
    if (s.task->has_validation() && (s.state.step % s.options.steps_per_eval == 0 || last)) {
      result.stopped_early = s.validate_now(report);
      window_start = Clock::now();
      window_tokens = 0;
    } else if (s.options.steps_per_report > 0 && s.state.step % s.options.steps_per_report == 0) {
      window_start = Clock::now();
      window_tokens = 0;
    }
    metrics.write(as_metrics(report));
    if (listener) listener(report);
    if (!last && s.options.save_every > 0 && s.state.step % s.options.save_every == 0) s.save();
  }
  if (profile) result.profile = profile->stop();  // out of patience
  s.save();
  const std::vector<Metrics> records = read_metrics(log);
  write_file_atomically(s.folder / "loss.svg", loss_curve_svg(records, fmt::format("loss, {}", s.task->loss_unit())));
  result.steps = s.state.step;
  if (!records.empty()) result.final_loss = records.back().loss.value_or(0);
  result.first_val_loss = s.state.first_val_loss;
  result.last_val_loss = s.state.last_val_loss;
  result.first_val_recall_at_1 = s.state.first_val_recall_at_1;
  result.last_val_recall_at_1 = s.state.last_val_recall_at_1;
  result.best_val_loss = s.state.best_val_loss;
  result.best_step = s.state.best_step;
  return result;
}

}  // namespace wick
