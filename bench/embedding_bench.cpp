// Times sentence embeddings on the CPU, tokenizing included: many texts at a time, and one by one. What each figure
// covers is in bench/README.md; bench/peers/sentence_transformers_bench.py measures the same with
// sentence-transformers.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/fail.h"
#include "io/json.h"
#include "wick/embedding.h"

namespace wick {
namespace {

struct Options {
  std::filesystem::path model, texts;
  DType dtype = DType::f32;
  int repetitions = 3;
  std::size_t single = 100;  // texts that are embedded one by one
  bool json = false;
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

// `values`: a figure of each repetition; `cpu`: seconds of all cores a text.
void report(const Options& o, const char* work, const std::string& tokens, std::vector<double> values, double cpu,
            const char* unit) {
  std::ranges::sort(values);
  const double median = values[values.size() / 2];
  if (o.json) {
    const Json record = {{"by", fmt::format("wick, {}", to_string(o.dtype))},
                         {"work", work},
                         {"case", {{"tokens", tokens}}},
                         {"value", median},
                         {"low", values.front()},
                         {"high", values.back()},
                         {"unit", unit},
                         {"cpu_ms", cpu * 1e3}};
    fmt::print("{}\n", dump_json_line(record));
  } else {
    fmt::print("{:<14} {:>9} tokens  {:>9.2f} {:<11} ({:.2f} to {:.2f})  {:.3f} ms of CPU time a text\n", work, tokens,
               median, unit, values.front(), values.back(), cpu * 1e3);
  }
  std::fflush(stdout);
}

void bench(const Options& o) {
  const EmbeddingModel model = EmbeddingModel::load(o.model, {.dtype = o.dtype});
  const auto texts = read_json_file(o.texts).get<std::map<std::string, std::vector<std::string>>>();
  for (const auto& [tokens, all] : texts) {
    (void)model.embed(std::span(all).first(all.size() / 4));
    std::vector<double> rates;
    const double cpu = cpu_seconds();
    for (int i = 0; i < o.repetitions; ++i) {
      const double start = seconds();
      (void)model.embed(all);
      rates.push_back(static_cast<double>(all.size()) / (seconds() - start));
    }
    const double count = static_cast<double>(all.size()) * o.repetitions;
    report(o, "embeddings", tokens, rates, (cpu_seconds() - cpu) / count, "sentences/s");
  }
  for (const auto& [tokens, all] : texts) {
    const std::span few(all.data(), std::min(o.single, all.size()));
    for (const std::string& text : few.first(std::min<std::size_t>(10, few.size()))) (void)model.embed({&text, 1});
    std::vector<double> times;
    const double cpu = cpu_seconds();
    for (const std::string& text : few) {
      const double start = seconds();
      (void)model.embed({&text, 1});
      times.push_back((seconds() - start) * 1e3);
    }
    report(o, "one embedding", tokens, times, (cpu_seconds() - cpu) / static_cast<double>(few.size()), "ms");
  }
}

int run(std::span<char*> arguments) {
  Options o;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string_view name = arguments[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == arguments.size()) fail(ErrorCode::invalid_argument, "{} without a value", name);
      return arguments[++i];
    };
    if (name == "--model") {
      o.model = value();
    } else if (name == "--texts") {
      o.texts = value();
    } else if (name == "--dtype") {
      o.dtype = dtype_from_string(value());
    } else if (name == "--repetitions") {
      o.repetitions = std::max(1, std::stoi(value()));
    } else if (name == "--single") {
      o.single = static_cast<std::size_t>(std::max(1, std::stoi(value())));
    } else if (name == "--json") {
      o.json = true;
    } else {
      fail(ErrorCode::invalid_argument, "what is {}?", name);
    }
  }
  if (o.model.empty() || o.texts.empty()) {
    fmt::print(stderr,
               "usage: {} --model DIR --texts FILE [--dtype f32|bf16] [--repetitions N] [--single N] [--json]\n",
               arguments[0]);
    return 2;
  }
  bench(o);
  return 0;
}

}  // namespace
}  // namespace wick

int main(int argc, char** argv) {
  try {
    return wick::run({argv, static_cast<std::size_t>(argc)});
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", argv[0], error.what());
    return 1;
  }
}
