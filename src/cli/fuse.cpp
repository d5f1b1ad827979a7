#include "wick/fuse.h"

#include <cmath>

#include "cli/cli.h"
#include "core/fail.h"
#include "core/rng.h"
#include "io/json.h"

namespace wick::cli {
namespace {

struct Options {
  std::string model;
  std::string adapter;
  std::string output;
  bool verify = false;
  bool json = false;
};

// The largest difference of the logits of 64 tokens drawn from the vocabulary, in f32.
double largest_logit_difference(const Options& o) {
  const LoadedModel adapted = load_model({.model = o.model, .adapter_path = o.adapter, .dtype = "f32"});
  const LoadedModel merged = load_model({.model = o.output, .adapter_path = "", .dtype = "f32"});
  Rng rng(0, {RandomPurpose::sampling, 0});
  std::vector<TokenId> ids(64);
  const auto vocab = static_cast<std::uint64_t>(adapted.decoder.config().vocab_size);
  for (TokenId& id : ids) id = static_cast<TokenId>(rng.below(vocab));
  const TokenBatch batch = TokenBatch::single(ids);
  const std::vector<float> a = adapted.decoder.logits(adapted.decoder.forward(batch)).to_vector<float>();
  const std::vector<float> b = merged.decoder.logits(merged.decoder.forward(batch)).to_vector<float>();
  double difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return difference;
}

void run(const Options& o) {
  const FuseReport report = fuse(o.model, o.adapter, o.output);
  Json json = {{"output", o.output},
               {"modules", report.modules},
               {"largest_change", report.largest_change},
               {"largest_rounding_error", report.largest_rounding_error}};
  if (o.verify) json["largest_logit_difference"] = largest_logit_difference(o);
  if (o.json) {
    print(dump_json_line(json) + "\n");
    return;
  }
  print(fmt::format("{}: {} weights changed by at most {:.3g}, rounded by at most {:.3g}\n", o.output, report.modules,
                    report.largest_change, report.largest_rounding_error));
  if (o.verify) {
    print(fmt::format("largest logit difference from the unmerged model on 64 tokens: {:.3g}\n",
                      json["largest_logit_difference"].get<double>()));
  }
}

}  // namespace

void add_fuse(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("fuse", "merge an adapter into its model: a new Hugging Face folder");
  const auto o = std::make_shared<Options>();
  verb->add_option("--model", o->model, "Hugging Face model folder")->required()->type_name("DIR");
  verb->add_option("--adapter-path", o->adapter, "adapter in PEFT format")->required()->type_name("DIR");
  verb->add_option("--output,--save-path", o->output, "folder to write")->required()->type_name("DIR");
  verb->add_flag("--verify", o->verify, "report the largest logit difference from the unmerged model on a sample");
  verb->add_flag("--json", o->json, "print one JSON object");
  verb->footer(help_footer("Example: wick fuse --model DIR --adapter-path OUT --output MERGED --verify"));
  verb->callback([o] { run(*o); });
}

}  // namespace wick::cli
