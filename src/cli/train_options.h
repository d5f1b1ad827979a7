#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string>

#include "cli/cli.h"
#include "cli/memory_options.h"
#include "wick/train.h"

namespace wick::cli {

/// What `wick train` can be told. The verb says which options were given.
struct TrainVerb {
  std::string task = "lm";
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

  // of contrastive training
  ContrastiveOptions contrastive;
  PairOptions pairs;

  const CLI::App* verb = nullptr;

  void add_to(CLI::App& app);
  /// Error(invalid_argument) for an option of another task; defaults that depend on the task.
  void settle();
  bool given(const char* option) const { return verb->count(option) > 0; }
  /// The adapter that --resume or --resume-adapter name, or a fresh one.
  AdapterWeights starting_adapter(std::span<const ModuleInfo> modules) const;
};

}  // namespace wick::cli
