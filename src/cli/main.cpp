#include <algorithm>
#include <exception>
#include <filesystem>
#include <functional>
#include <new>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/cli.h"
#include "wick/error.h"
#include "wick/ops.h"
#include "wick/version.h"

namespace {

int exit_code(wick::ErrorCode code) {
  using wick::ErrorCode;
  switch (code) {
    case ErrorCode::invalid_argument:
      return wick::cli::usage;
    case ErrorCode::format:
    case ErrorCode::io:
    case ErrorCode::unsupported:
      return wick::cli::bad_input;
    case ErrorCode::out_of_memory:
      return wick::cli::out_of_memory;
    case ErrorCode::diverged:
      return wick::cli::diverged;
    case ErrorCode::interrupted:
      return wick::cli::interrupted;
    case ErrorCode::device:
      return wick::cli::failure;
  }
  return wick::cli::failure;
}

std::vector<const CLI::App*> verbs_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* verb) { return !verb->get_name().empty(); });  // the others are groups
}

// How many letters to change, leave out or put in, to make one word of the other.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t k = 0; k < b.size(); ++k) {
      const std::size_t change = diagonal + (a[i] == b[k] ? 0 : 1);
      diagonal = row[k + 1];
      row[k + 1] = std::min({change, row[k] + 1, diagonal + 1});
    }
  }
  return row.back();
}

// ", did you mean --model?" where one of the names is near.
std::string suggestion(std::string_view word, const std::vector<std::string>& names) {
  const auto nearest =
      std::ranges::min_element(names, {}, [&](const std::string& name) { return distance(word, name); });
  const bool near = nearest != names.end() && distance(word, *nearest) <= (word.size() < 8 ? 2 : 3);
  return near ? ", did you mean " + *nearest + "?" : "";
}

std::string unknown_word(const std::string& word, const CLI::App& at) {
  std::vector<std::string> names;
  if (word.starts_with('-')) {
    const std::function<void(const CLI::App*)> collect = [&](const CLI::App* app) {
      for (const CLI::Option* option : app->get_options()) {
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
      }
      for (const CLI::App* group : app->get_subcommands([](const CLI::App* sub) { return sub->get_name().empty(); })) {
        collect(group);
      }
    };
    collect(&at);
    return "unknown option " + word + suggestion(word.substr(0, word.find('=')), names);
  }
  for (const CLI::App* verb : verbs_of(at)) names.push_back(verb->get_name());
  return (names.empty() ? "unknown argument " : "unknown verb ") + word + suggestion(word, names);
}

// What is wrong with the command line, and which help shows it right.
std::string describe(const CLI::ParseError& error, const CLI::App& app) {
  const CLI::App* at = &app;
  std::string path;  // of the verb, and of the verb within: "bench train"
  for (bool deeper = true; deeper;) {
    deeper = false;
    for (const CLI::App* verb : verbs_of(*at)) {
      if (!verb->parsed()) continue;
      at = verb;
      path += (path.empty() ? "" : " ") + verb->get_name();
      deeper = true;
      break;
    }
  }
  // What is unknown comes before what is missing: it is often the same thing, misspelt.
  const std::vector<std::string> unknown = app.remaining(true);
  std::string message = error.what();
  if (!unknown.empty()) {
    message = unknown_word(unknown.front(), *at);
  } else if (!verbs_of(*at).empty() && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    message = "a verb is required";
  }
  return path.empty() ? message + " (see wick --help)" : path + ": " + message + " (see wick " + path + " --help)";
}

// The words of the command line, the last one first, as CLI11 wants them. It takes "--name=" for "--name" and so the
// next word for the value: here the value is an empty one.
std::vector<std::string> reversed_words(int argc, char** argv) {
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word.starts_with("--") && word.find('=') == word.size() - 1) {
      words.emplace_back(word.substr(0, word.size() - 1));
      words.emplace_back();
    } else {
      words.emplace_back(word);
    }
  }
  std::ranges::reverse(words);
  return words;
}

int fail_with(const std::string& message, int code) {
  wick::cli::print_note("error: " + wick::cli::one_line(message));
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("wick: fine-tune transformer models with LoRA, and run them.", "wick");
  app.set_version_flag("--version", std::string("wick ") + wick::kVersion);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag_callback(
      "--no-fused", [] { wick::set_fused(false); }, "run every op as its composite (as WICK_FUSED=0)");
  app.footer(wick::cli::help_footer(""));
  wick::cli::add_train(app);
  wick::cli::add_generate(app);
  wick::cli::add_score(app);
  wick::cli::add_embed(app);
  wick::cli::add_search(app);
  wick::cli::add_fuse(app);
  wick::cli::add_tokenize(app);
  wick::cli::add_info(app);
  wick::cli::add_devices(app);
  wick::cli::add_bench(app);
  wick::set_fallback_listener([](const std::string& message) { wick::cli::print_note("note: " + message); });
  try {
    app.parse(reversed_words(argc, argv));
    return wick::cli::ok;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return fail_with(describe(error, app), wick::cli::usage);
  } catch (const wick::Error& error) {
    return fail_with(error.what(), exit_code(error.code()));
  } catch (const std::bad_alloc&) {
    return fail_with("out of memory", wick::cli::out_of_memory);
  } catch (const std::filesystem::filesystem_error& error) {
    return fail_with(error.what(), wick::cli::bad_input);
  } catch (const std::exception& error) {
    return fail_with(error.what(), wick::cli::failure);
  }
}
