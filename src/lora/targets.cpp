#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <unordered_set>

#include "io/quote.h"
#include "lora/internal.h"
#include "lora/pattern.h"

namespace wick {
namespace lora {
namespace {

enum class Match { none, suffix, whole };

/// A ModuleSelector ready to match.
class Selector {
 public:
  Selector(const ModuleSelector& selector, std::string_view option, const Origin& origin) {
    if (const auto* regex = std::get_if<std::string>(&selector)) {
      if (!regex->empty()) regex_.emplace(origin, option, *regex, *regex, Pattern::Mode::full);
    } else {
      const auto& names = std::get<std::vector<std::string>>(selector);
      names_.insert(names.begin(), names.end());
    }
  }

  Match match(std::string_view name) const {
    if (regex_) return regex_->matches(name) ? Match::whole : Match::none;
    if (names_.contains(name)) return Match::whole;
    for (auto dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
      if (names_.contains(name.substr(dot + 1))) return Match::suffix;
    }
    return Match::none;
  }

 private:
  std::optional<Pattern> regex_;
  std::unordered_set<std::string_view> names_;  // the configuration's strings
};

/// Finds a layer's number in a module name, as layers_pattern says.
class LayerNumber {
 public:
  LayerNumber(const LoraConfig& config, const Origin& origin) {
    for (const auto& pattern : config.layers_pattern) {
      patterns_.emplace_back(origin, "layers_pattern", pattern,
                             fmt::format(R"((?:^|.*?\.){}\.(?P<idx>\d+)\.)", pattern), Pattern::Mode::start);
    }
    if (patterns_.empty()) {
      patterns_.emplace_back(origin, "layers_pattern", "", R"(.*?\.[^.]*\.(?P<idx>\d+)\.)", Pattern::Mode::start);
    }
  }

  std::optional<std::int64_t> operator()(std::string_view name) const {
    for (const auto& pattern : patterns_) {
      const auto digits = pattern.group(name, "idx");
      if (!digits) continue;
      std::int64_t number = 0;
      const auto [end, error] = std::from_chars(digits->data(), digits->data() + digits->size(), number);
      if (error != std::errc() || end != digits->data() + digits->size()) return std::nullopt;
      return number;
    }
    return std::nullopt;
  }

 private:
  std::vector<Pattern> patterns_;
};

template <class T>
class Exceptions {
 public:
  Exceptions(const ModulePatterns<T>& patterns, std::string_view option, const Origin& origin) {
    for (const auto& [key, value] : patterns) {
      entries_.push_back(
          {Pattern(origin, option, key, fmt::format(R"((.*\.)?({})$)", key), Pattern::Mode::start), key, value});
    }
  }

  T find(std::string_view name, T otherwise) const {
    for (const auto& entry : entries_) {
      if (entry.pattern.matches(name)) return entry.value;
    }
    return otherwise;
  }

  void add_unmatched(std::span<const LoraTarget> targets, std::string_view option,
                     std::vector<std::string>& out) const {
    for (const auto& entry : entries_) {
      const auto matches = [&](const LoraTarget& target) { return entry.pattern.matches(target.name); };
      if (std::ranges::none_of(targets, matches)) out.push_back(fmt::format("{} {}", option, quote(entry.key)));
    }
  }

 private:
  struct Entry {
    Pattern pattern;
    std::string key;
    T value;
  };
  std::vector<Entry> entries_;
};

std::string describe(const ModuleSelector& selector) {
  if (const auto* regex = std::get_if<std::string>(&selector)) return quote(*regex);
  const auto& names = std::get<std::vector<std::string>>(selector);
  std::string out = "[";
  for (std::size_t i = 0; i < names.size() && i < 5; ++i) out += (i == 0 ? "" : ", ") + quote(names[i], 60);
  return out + (names.size() > 5 ? fmt::format(", and {} more]", names.size() - 5) : "]");
}

[[noreturn]] void refuse_no_match(const LoraConfig& config, std::span<const ModuleInfo> modules, std::size_t excluded,
                                  const Origin& origin) {
  // The different last parts of the names say most in least space: q_proj, k_proj, ...
  std::vector<std::string_view> kinds;
  for (const auto& module : modules) {
    const std::string_view name = module.name;
    const auto kind = name.substr(name.rfind('.') + 1);
    if (module.kind != ModuleKind::other && std::ranges::find(kinds, kind) == kinds.end()) kinds.push_back(kind);
    if (kinds.size() == 10) break;
  }
  std::string existing;
  for (const auto kind : kinds) existing += (existing.empty() ? "" : ", ") + quote(kind, 40);
  origin.refuse(
      "target_modules {} selects none of the model's {} modules{}{}", describe(config.target_modules), modules.size(),
      excluded > 0 ? fmt::format(" (exclude_modules takes {} out)", excluded) : "",
      modules.empty() ? "" : fmt::format("; it has {}, for instance {}", existing, quote(modules.front().name)));
}

void check_layers(const LoraConfig& config, const std::set<std::int64_t>& present, const Origin& origin) {
  for (const std::int64_t layer : config.layers_to_transform) {
    if (present.contains(layer)) continue;
    if (present.empty()) {
      origin.refuse(
          "layers_to_transform has {}, but no module that target_modules {} selects is in a numbered layer{}", layer,
          describe(config.target_modules),
          config.layers_pattern.empty() ? "" : " under layers_pattern " + quote(config.layers_pattern.front()));
    }
    origin.refuse("layers_to_transform has {}, but the layers that target_modules {} selects are {} to {}", layer,
                  describe(config.target_modules), *present.begin(), *present.rbegin());
  }
}

}  // namespace

bool is_all_linear(const ModuleSelector& target_modules) {
  const auto* text = std::get_if<std::string>(&target_modules);
  constexpr std::string_view kShorthand = "all-linear";  // PEFT takes it in any case
  return text != nullptr && std::ranges::equal(*text, kShorthand, [](char a, char b) {
           return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b;
         });
}

std::vector<LoraTarget> resolve(const LoraConfig& config, std::span<const ModuleInfo> modules, const Origin& origin) {
  validate(config, origin);
  const bool all_linear = is_all_linear(config.target_modules);
  const ModuleSelector nothing;
  const Selector selected(all_linear ? nothing : config.target_modules, "target_modules", origin);
  const Selector excluded(config.exclude_modules, "exclude_modules", origin);
  const LayerNumber layer_number(config, origin);
  const Exceptions ranks(config.rank_pattern, "rank_pattern", origin);
  const Exceptions alphas(config.alpha_pattern, "alpha_pattern", origin);
  const std::set<std::int64_t> layers(config.layers_to_transform.begin(), config.layers_to_transform.end());

  std::vector<LoraTarget> targets;
  std::set<std::int64_t> present;
  std::size_t taken_out = 0;
  for (const auto& module : modules) {
    if (module.kind == ModuleKind::unused) continue;
    const Match match =
        all_linear ? (module.kind == ModuleKind::linear ? Match::whole : Match::none) : selected.match(module.name);
    if (match == Match::none) continue;
    if (excluded.match(module.name) != Match::none) {
      ++taken_out;
      continue;
    }
    // A module given by its whole name is selected whatever its layer.
    if (match == Match::suffix && !layers.empty()) {
      const auto layer = layer_number(module.name);
      if (layer) present.insert(*layer);
      if (!layer || !layers.contains(*layer)) continue;
    }
    if (module.kind == ModuleKind::other) {
      fail(ErrorCode::unsupported, "{}: target_modules {} selects {}, which is no linear layer: not supported",
           origin.where, describe(config.target_modules), quote(module.name));
    }
    const std::int64_t rank = ranks.find(module.name, config.rank);
    const double alpha = alphas.find(module.name, config.alpha);
    const double width = static_cast<double>(rank);
    targets.push_back({module.name, module.in_features, module.out_features, rank, alpha,
                       alpha / (config.use_rslora ? std::sqrt(width) : width)});
  }
  if (targets.empty() && present.empty()) refuse_no_match(config, modules, taken_out, origin);
  // A layer may also be there through a module's whole name, which PEFT does not ask for its number.
  for (const auto& target : targets) {
    if (layers.empty()) break;
    if (const auto layer = layer_number(target.name)) present.insert(*layer);
  }
  check_layers(config, present, origin);
  return targets;
}

}  // namespace lora

std::vector<LoraTarget> resolve_targets(const LoraConfig& config, std::span<const ModuleInfo> modules) {
  return lora::resolve(config, modules, lora::caller());
}

std::vector<std::string> unmatched_entries(const LoraConfig& config, std::span<const ModuleInfo> modules) {
  const auto origin = lora::caller();
  const auto targets = resolve_targets(config, modules);
  std::vector<std::string> out;
  const auto add = [&](const ModuleSelector& selector, std::string_view option) {
    const auto check = [&](const std::string& entry, const lora::Selector& matcher) {
      const auto matches = [&](const ModuleInfo& module) { return matcher.match(module.name) != lora::Match::none; };
      if (std::ranges::none_of(modules, matches)) out.push_back(fmt::format("{} {}", option, quote(entry)));
    };
    if (const auto* regex = std::get_if<std::string>(&selector)) {
      if (!regex->empty()) check(*regex, lora::Selector(selector, option, origin));
      return;
    }
    for (const auto& name : std::get<std::vector<std::string>>(selector)) {
      const ModuleSelector single = std::vector<std::string>{name};
      check(name, lora::Selector(single, option, origin));
    }
  };
  if (!lora::is_all_linear(config.target_modules)) add(config.target_modules, "target_modules");
  add(config.exclude_modules, "exclude_modules");
  lora::Exceptions(config.rank_pattern, "rank_pattern", origin).add_unmatched(targets, "rank_pattern", out);
  lora::Exceptions(config.alpha_pattern, "alpha_pattern", origin).add_unmatched(targets, "alpha_pattern", out);
  return out;
}

}  // namespace wick
