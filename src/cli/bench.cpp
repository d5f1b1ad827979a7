#include <algorithm>
#include <chrono>
#include <cmath>

#include "backend/backend.h"
#include "cli/cli.h"
#include "cli/memory_options.h"
#include "cli/profile_option.h"
#include "core/fail.h"
#include "core/rng.h"
#include "embed/embed_batches.h"
#include "io/json.h"
#include "train/train_step.h"
#include "wick/data.h"
#include "wick/embedding.h"
#include "wick/generate.h"

namespace wick::cli {
namespace {

struct Options {
  std::string shape;
  std::string device = "auto";
  std::string dtype = "bf16";
  std::uint64_t seed = 0;
  std::string profile;
  bool json = false;
  // train
  std::int64_t sequences = 4;
  std::int64_t length = 2048;
  std::int64_t accumulation = 1;
  std::int64_t rank = 8;
  std::string target_modules = "all-linear";
  std::string lora_layout = "auto";
  MemoryOptions memory;
  std::int64_t steps = 10;
  // embed
  std::int64_t sentences = 1 << 17;
  std::int64_t sentence = 32;
  std::int64_t batch_tokens = 1 << 16;
  // decode, prefill and embed
  std::int64_t prompt = 128;
  std::int64_t tokens = 128;
  std::int64_t repeats = 5;
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Spread {
  double median, low, high;
};
Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values[values.size() / 2], values.front(), values.back()};
}

std::vector<std::int32_t> random_ids(std::int64_t count, std::int64_t vocab, std::uint64_t seed, std::uint32_t stream) {
  Rng rng(seed, {RandomPurpose::shuffle, stream});
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count));
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(vocab)));
  return ids;
}

std::size_t peak_bytes(Device device) {
  if (device.type == DeviceType::cpu) return memory_stats(device).peak;
  const Backend::Memory memory = backend(device).memory(device);
  return memory.total - memory.free;
}

void synchronize(Device device) {
  if (device.type != DeviceType::cpu) backend(device).synchronize(device);
}

Decoder random_model(const Options& o) {
  return Decoder::random(ModelConfig::from_file(o.shape),
                         {.dtype = dtype_from_string(o.dtype), .device = device_from_string(o.device)}, o.seed);
}

void report(const Options& o, Json fields, const std::string& text) {
  if (o.json) {
    fields["shape"] = o.shape;
    fields["dtype"] = o.dtype;
    print(dump_json_line(fields) + "\n");
  } else {
    print(text + "\n");
  }
}

// With --profile, all that comes after start(), which may be called again.
class Profiled {
 public:
  explicit Profiled(const Options& o) : o_(o) {}
  void start(Device device) {
    if (!o_.profile.empty() && !profile_) profile_.emplace(device);
  }
  template <class Model>
  void report(const Model& model) {
    if (profile_) report_profile(o_.profile, profile_->stop(), model.device(), model.dtype(), "wick bench");
  }

 private:
  const Options& o_;
  std::optional<Profile> profile_;
};

// Whole optimizer steps on random tokens, every sequence of the same length; all of them evaluated, the first three not
// counted.
void train(const Options& o) {
  const ModelConfig c = ModelConfig::from_file(o.shape);
  LoraConfig lora;
  lora.rank = o.rank;
  lora.alpha = 2 * static_cast<double>(o.rank);
  lora.target_modules = ModuleSelector(o.target_modules);
  const std::vector<LoraTarget> targets = resolve_targets(lora, linear_modules(c));
  // A plan for a GPU needs none.
  const bool named = o.memory.dry_run && o.device.starts_with("cuda");
  const Device device = named ? Device{DeviceType::cuda, 0} : device_from_string(o.device);
  const Recompute by_itself = device.type == DeviceType::cpu ? Recompute::nothing : Recompute::activations;
  PlanSettings plan{.dtype = dtype_from_string(o.dtype),
                    .device = device.type,
                    .layout = lora_layout(o.lora_layout, device),
                    .tokens = o.sequences * o.length,
                    .longest = o.length,
                    .recompute = std::vector<Recompute>(static_cast<std::size_t>(c.num_hidden_layers), by_itself)};
  if (o.memory.dry_run) {
    plan.recompute = o.memory.choose(c, targets, plan, 0);
    std::size_t besides = 0;
    try {
      if (named) besides = besides_bytes(device_from_string(o.device));
    } catch (const Error&) {  // it is not here, or taken
    }
    return print_plan(plan_memory(c, targets, plan), plan, 0, besides, o.json);
  }
  Decoder model = random_model(o);
  const auto adapter = std::make_shared<const Adapter>(init_adapter(lora, model.linear_modules(), o.seed),
                                                       model.linear_modules(), device);
  model.attach(adapter, lora_layout(o.lora_layout, device));
  model.set_recompute(o.memory.choose(c, targets, plan, usable_bytes(device)));
  std::vector<Example> examples;
  for (std::int64_t i = 0; i < o.sequences * o.accumulation; ++i) {
    Example example;
    example.ids = random_ids(o.length, c.vocab_size, o.seed, static_cast<std::uint32_t>(i));
    example.labels = example.ids;
    examples.push_back(std::move(example));
  }
  const Dataset data = Dataset::from_examples(std::move(examples));
  TrainOptions options;
  options.batches.batch_size = o.sequences;
  const std::unique_ptr<TrainTask> task = make_lm_task(model, data, nullptr, options);
  const Tensor exp_avg = Tensor::zeros({adapter->parameter_count()}, DType::f32, device);
  const Tensor exp_avg_sq = Tensor::zeros({adapter->parameter_count()}, DType::f32, device);
  const auto step = make_train_step(*task, *adapter, exp_avg, exp_avg_sq,
                                    {.token_budget = o.sequences * o.length, .record = o.profile.empty()});
  constexpr std::int64_t kWarmUp = 3;
  std::vector<double> times;
  double loss = 0;
  Profiled profiled(o);
  for (std::int64_t i = 0; i < kWarmUp + o.steps; ++i) {
    std::vector<Batch> batches;
    std::int64_t terms = 0;
    for (std::int64_t k = 0; k < o.accumulation; ++k) {
      batches.push_back(task->next());
      terms += batches.back().trained_tokens;
    }
    if (i == kWarmUp) profiled.start(device);
    synchronize(device);
    const Clock::time_point start = Clock::now();
    step->begin(terms);
    const auto pass = static_cast<std::uint32_t>(i);
    for (std::size_t k = 0; k + 1 < batches.size(); ++k) step->accumulate(batches[k], pass);
    loss = step->update(batches.back(), pass, 1e-4, i + 1).loss / static_cast<double>(terms);
    if (i >= kWarmUp) times.push_back(seconds_since(start));
    if (!std::isfinite(loss)) fail(ErrorCode::diverged, "step {}: loss {}", i + 1, loss);
  }
  const Spread s = spread(times);
  const auto tokens = static_cast<double>(o.sequences * o.length * o.accumulation);
  const double gib = static_cast<double>(peak_bytes(device)) / (1 << 30);
  report(o,
         {{"work", "train"},
          {"sequences", o.sequences},
          {"length", o.length},
          {"batches", o.accumulation},
          {"rank", o.rank},
          {"tokens_per_second", tokens / s.median},
          {"step_ms", s.median * 1e3},
          {"step_ms_low", s.low * 1e3},
          {"step_ms_high", s.high * 1e3},
          {"peak_gib", gib},
          {"loss", loss}},
         fmt::format("train {}: {:.0f} tokens/s, {:.2f} ms a step ({:.2f} to {:.2f}), peak {:.2f} GiB, loss {:.4f}",
                     o.shape, tokens / s.median, s.median * 1e3, s.low * 1e3, s.high * 1e3, gib, loss));
  profiled.report(model);
}

// Greedy decoding of one sequence. The prompt is not counted.
void decode(const Options& o) {
  const Decoder model = random_model(o);
  const std::vector<std::int32_t> prompt = random_ids(o.prompt, model.config().vocab_size, o.seed, 0);
  GenerateOptions options;
  options.max_tokens = o.tokens + 1;  // the first one comes with the prompt
  options.ignore_eos = true;
  std::vector<double> times;
  std::vector<double>
      steps;  // from token to token in the second half: by then steps are replays where they are recorded
  Profiled profiled(o);
  for (std::int64_t i = 0; i < 1 + o.repeats; ++i) {
    const bool last = i == o.repeats;
    std::vector<Clock::time_point> arrivals;
    const GenerateResult result = generate(model, nullptr, prompt, options, [&](std::string_view, std::int32_t) {
      if (last) profiled.start(model.device());
      arrivals.push_back(Clock::now());
      return true;
    });
    if (i == 0) continue;
    times.push_back(result.decode_seconds / static_cast<double>(o.tokens));
    for (std::size_t t = arrivals.size() / 2; t < arrivals.size(); ++t) {
      if (t > 0) steps.push_back(std::chrono::duration<double>(arrivals[t] - arrivals[t - 1]).count());
    }
  }
  const Spread s = spread(times);
  const double step = spread(steps).median;
  report(o,
         {{"work", "decode"},
          {"prompt", o.prompt},
          {"tokens", o.tokens},
          {"token_ms", s.median * 1e3},
          {"token_ms_low", s.low * 1e3},
          {"token_ms_high", s.high * 1e3},
          {"step_ms", step * 1e3}},
         fmt::format("decode {}: {:.3f} ms a token ({:.3f} to {:.3f}), {:.0f} tokens/s, {:.3f} ms from token to token",
                     o.shape, s.median * 1e3, s.low * 1e3, s.high * 1e3, 1 / s.median, step * 1e3));
  profiled.report(model);
}

// The hidden states of a whole prompt into an empty cache, and the logits of its last token.
void prefill(const Options& o) {
  const Decoder model = random_model(o);
  const Device device = model.device();
  const ModelConfig& c = model.config();
  const NoGrad no_grad;
  const TokenBatch batch = TokenBatch::single(random_ids(o.prompt, c.vocab_size, o.seed, 0)).to(device);
  std::vector<double> times;
  Profiled profiled(o);
  for (std::int64_t i = 0; i < 2 + o.repeats; ++i) {
    KvCache cache(c, o.prompt, model.dtype(), device);
    if (i == 2) profiled.start(device);
    synchronize(device);
    const Clock::time_point start = Clock::now();
    const Tensor hidden = model.forward(batch, &cache);
    const Tensor logits = model.logits(hidden.slice(0, hidden.size(0) - 1, 1));
    synchronize(device);
    if (i >= 2) times.push_back(seconds_since(start));
    if (!std::isfinite(logits.select(1, 0).to(Device::cpu()).item()))
      fail(ErrorCode::diverged, "logits are not finite");
  }
  const Spread s = spread(times);
  // Of the linear layers; the head sees one token.
  double weights = 0;
  for (const ModuleInfo& module : model.linear_modules()) {
    if (module.kind != ModuleKind::output_head) {
      weights += static_cast<double>(module.in_features) * static_cast<double>(module.out_features);
    }
  }
  const double tflops = 2 * weights * static_cast<double>(o.prompt) / s.median / 1e12;
  report(o,
         {{"work", "prefill"},
          {"prompt", o.prompt},
          {"ms", s.median * 1e3},
          {"ms_low", s.low * 1e3},
          {"ms_high", s.high * 1e3},
          {"linear_tflops", tflops}},
         fmt::format("prefill {}: {} tokens in {:.2f} ms ({:.2f} to {:.2f}), {:.0f} TFLOP/s in linear layers", o.shape,
                     o.prompt, s.median * 1e3, s.low * 1e3, s.high * 1e3, tflops));
  profiled.report(model);
}

// Vectors of sentences that are all of one length, from their tokens' ids to f32 on the host: an encoder, the mean over
// tokens, and length 1.
void embed(const Options& o) {
  const EncoderConfig c = EncoderConfig::from_file(o.shape);
  const Encoder encoder =
      Encoder::random(c, {.dtype = dtype_from_string(o.dtype), .device = device_from_string(o.device)}, o.seed);
  const std::vector<std::int32_t> ids = random_ids(o.sentences * o.sentence, c.vocab_size, o.seed, 0);
  std::vector<std::vector<std::int32_t>> texts;
  for (auto at = ids.begin(); at != ids.end(); at += o.sentence) texts.emplace_back(at, at + o.sentence);
  const auto vectors = [&](const TokenBatch& given) {
    const TokenBatch batch = given.to(encoder.device());
    return l2_normalize(pool(cast(encoder.forward(batch), DType::f32), batch.offsets, Pooling::mean));
  };
  std::vector<double> times;
  Profiled profiled(o);
  for (std::int64_t i = 0; i < 1 + o.repeats; ++i) {
    if (i == o.repeats) profiled.start(encoder.device());
    const Clock::time_point start = Clock::now();
    const Tensor found = embed_batches(texts, c.hidden_size, o.batch_tokens, encoder.device(), vectors);
    if (i > 0) times.push_back(seconds_since(start));
    double length = 0;
    for (std::int64_t k = 0; k < c.hidden_size; ++k) length += std::pow(found.data<float>()[k], 2);
    if (!(std::abs(length - 1) < 0.05)) fail(ErrorCode::diverged, "a vector of length {}", std::sqrt(length));
  }
  const Spread s = spread(times);
  const auto sentences = static_cast<double>(o.sentences);
  const double tokens = sentences * static_cast<double>(o.sentence);
  const double weights = static_cast<double>(c.num_hidden_layers * c.hidden_size) *
                         static_cast<double>(4 * c.hidden_size + 2 * c.intermediate_size);
  const double tflops = 2 * weights * tokens / s.median / 1e12;
  report(o,
         {{"work", "embed"},
          {"sentences", o.sentences},
          {"length", o.sentence},
          {"batch_tokens", o.batch_tokens},
          {"sentences_per_second", sentences / s.median},
          {"sentences_per_second_low", sentences / s.high},
          {"sentences_per_second_high", sentences / s.low},
          {"tokens_per_second", tokens / s.median},
          {"tflops", tflops}},
         fmt::format("embed {}: {:.0f} sentences/s of {} tokens ({:.0f} to {:.0f}), {:.2f} million tokens/s, {:.0f} "
                     "TFLOP/s in linear layers",
                     o.shape, sentences / s.median, o.sentence, sentences / s.high, sentences / s.low,
                     tokens / s.median / 1e6, tflops));
  profiled.report(encoder);
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* verb = app.add_subcommand(
      "bench", "measure training, decoding, reading a prompt or sentence embeddings, for a model of any shape");
  verb->require_subcommand(1);
  verb->footer(help_footer("Example: wick bench train --shape bench/shapes/qwen2.5-0.5b.json"));
  const auto o = std::make_shared<Options>();
  const auto work = [&](const char* name, const char* help, const char* example, void (*run)(const Options&)) {
    CLI::App* sub = verb->add_subcommand(name, help);
    sub->footer(help_footer(fmt::format("Example: wick bench {} --shape bench/shapes/{}", name, example)));
    sub->add_option("--shape", o->shape, "config.json of a model; its weights are random")
        ->required()
        ->type_name("FILE");
    sub->add_option("--device", o->device, "cpu, cuda (cuda:1, ...), or auto: a GPU where there is one")
        ->capture_default_str();
    sub->add_option("--dtype", o->dtype, "dtype of the computation")
        ->check(CLI::IsMember({"f32", "bf16"}))
        ->capture_default_str();
    sub->add_option("--seed", o->seed, "of weights and tokens")->check(unsigned_number())->capture_default_str();
    add_profile_option(*sub, o->profile, "what is measured, training launch by launch on a GPU");
    sub->add_flag("--json", o->json, "print one JSON object");
    sub->callback([o, run] { run(*o); });
    return sub;
  };
  CLI::App* t = work("train", "LoRA training steps", "qwen2.5-0.5b.json --sequences 4 --length 2048", train);
  t->add_option("--sequences", o->sequences, "sequences in a batch")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  t->add_option("--length", o->length, "tokens in each")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  t->add_option("--grad-accumulation-steps", o->accumulation, "batches in an optimizer step")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  t->add_option("--rank", o->rank, "rank of the adapter")->check(CLI::Range(1, 65536))->capture_default_str();
  t->add_option("--target-modules", o->target_modules, "a regular expression, or all-linear")->capture_default_str();
  t->add_option("--lora-layout", o->lora_layout, "how adapted weights are stored")
      ->check(CLI::IsMember({"auto", "separate", "bordered"}))
      ->capture_default_str();
  o->memory.add_to(*t, "Memory");
  t->add_option("--steps", o->steps, "steps that count")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  CLI::App* d = work("decode", "greedy decoding of one sequence", "llama-3.2-1b.json --tokens 128", decode);
  CLI::App* p = work("prefill", "reading a prompt", "llama-3.2-1b.json --prompt 2048", prefill);
  CLI::App* e = work("embed", "sentence embeddings by an encoder", "minilm.json", embed);
  e->add_option("--sentences", o->sentences, "sentences in a run")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  e->add_option("--length", o->sentence, "tokens in each")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  e->add_option("--batch-tokens", o->batch_tokens, "tokens in a batch, at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  for (CLI::App* sub : {d, p}) {
    sub->add_option("--prompt", o->prompt, "tokens of the prompt")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
  }
  for (CLI::App* sub : {d, p, e}) {
    sub->add_option("--repeats", o->repeats, "runs that count")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  }
  d->add_option("--tokens", o->tokens, "new tokens")->check(CLI::Range(1, 1 << 20))->capture_default_str();
}

}  // namespace wick::cli
