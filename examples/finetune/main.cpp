// Fine-tunes a model on a file of {"text": ...} rows with LoRA, then lets it write.
//   finetune MODEL_FOLDER DATA.jsonl OUTPUT_FOLDER
#include <iostream>
#include <memory>
#include <string>

#include "wick/wick.h"

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::cerr << "usage: finetune MODEL_FOLDER DATA.jsonl OUTPUT_FOLDER\n";
    return 2;
  }
  const std::string folder = argv[1];
  wick::Decoder model = wick::Decoder::load(folder);
  const wick::Tokenizer tokenizer = wick::Tokenizer::from_file(folder + "/tokenizer.json");
  const wick::Dataset data = wick::Dataset::from_file(argv[2], {.vocab_size = model.config().vocab_size,
                                                                .max_seq_length = 128,
                                                                .tokenizer = &tokenizer,
                                                                .eos_token_ids = model.config().eos_token_ids});

  // A fresh adapter on the attention's projections; the model itself stays as it is.
  wick::LoraConfig lora;
  lora.rank = 8;
  lora.alpha = 16;
  lora.target_modules = std::vector<std::string>{"q_proj", "k_proj", "v_proj", "o_proj"};
  const auto adapter = std::make_shared<const wick::Adapter>(
      wick::init_adapter(lora, model.linear_modules(), /*seed=*/1), model.linear_modules());
  model.attach(adapter);

  wick::TrainOptions options;
  options.iters = 20;
  options.schedule.learning_rate = 2e-3;
  wick::Trainer trainer(model, adapter, data, /*valid=*/nullptr, options, argv[3]);
  double first_loss = 0;
  const wick::TrainResult result = trainer.run([&](const wick::StepReport& report) {
    if (report.step == 1) first_loss = report.loss;
  });
  std::cout << "loss " << first_loss << " -> " << result.final_loss << " in " << result.steps << " steps\n";

  const std::string prompt = "Alice was";
  const wick::GenerateOptions greedy{.max_tokens = 30};
  std::cout << prompt << wick::generate(model, &tokenizer, tokenizer.encode_ids(prompt), greedy).text << "\n";
} catch (const wick::Error& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
