#include "backend/gemm_plans.h"

#include <cctype>
#include <charconv>
#include <cstdlib>
#include <utility>

#include "core/fail.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace wick {
namespace {

constexpr const char* kFormat = "wick-gemm-plans-1";
constexpr std::size_t kDigits = 16;

std::string to_hex(const GemmPlan& plan) {
  std::string text;
  for (const std::uint64_t word : plan) text += fmt::format("{:016x}", word);
  return text;
}

std::optional<GemmPlan> from_hex(const std::string& text) {
  GemmPlan plan = {};
  if (text.size() != plan.size() * kDigits) return {};
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const char* const begin = text.data() + i * kDigits;
    const auto [end, error] = std::from_chars(begin, begin + kDigits, plan[i], 16);
    if (error != std::errc() || end != begin + kDigits) return {};
  }
  return plan;
}

}  // namespace

GemmPlans::GemmPlans(std::filesystem::path file, std::string owner) : file_(std::move(file)), owner_(std::move(owner)) {
  merge_file();
}

// What the file says comes before what is known here.
void GemmPlans::merge_file() {
  try {
    const std::string where = file_.string();
    const Json json = read_json_file(file_);
    if (get<std::string>(json, "format", where) != kFormat || get<std::string>(json, "owner", where) != owner_) return;
    const Json plans = get<Json>(json, "plans", where);
    for (const auto& [product, text] : plans.items()) {
      if (!text.is_string()) continue;
      if (const std::optional<GemmPlan> plan = from_hex(text.get<std::string>())) plans_[product] = *plan;
    }
  } catch (const Error&) {  // no file, or a broken one
  }
}

std::optional<GemmPlan> GemmPlans::find(const std::string& product) const {
  const auto found = plans_.find(product);
  return found == plans_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<GemmPlan> GemmPlans::add(const std::string& product, const GemmPlan& plan) {
  merge_file();
  if (const std::optional<GemmPlan> first = find(product)) return first;
  plans_[product] = plan;
  Json plans = Json::object();
  for (const auto& [name, value] : plans_) plans[name] = to_hex(value);
  try {
    std::error_code ignored;  // write_file_atomically() says what is wrong
    std::filesystem::create_directories(file_.parent_path(), ignored);
    write_file_atomically(file_, dump_json({{"format", kFormat}, {"owner", owner_}, {"plans", plans}}) + "\n");
  } catch (const Error&) {
    plans_.erase(product);
    return {};
  }
  return plan;
}

std::optional<std::filesystem::path> gemm_plans_file(std::string_view setting, const std::filesystem::path& cache,
                                                     std::string_view device, std::string_view version) {
  if (setting == "off") return {};
  if (!setting.empty() && setting != "on") return std::filesystem::path(setting);
  if (cache.empty()) return {};
  std::string name = fmt::format("gemm-{}-{}", device, version);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '.') c = '-';
  }
  return cache / "wick" / (name + ".json");
}

std::filesystem::path cache_folder() {
  const auto folder = [](const char* name) {
    const char* value = std::getenv(name);
    const std::filesystem::path path(value == nullptr ? "" : value);
    return path.is_absolute() ? path : std::filesystem::path();  // the specification ignores relative ones
  };
  if (const std::filesystem::path cache = folder("XDG_CACHE_HOME"); !cache.empty()) return cache;
  const std::filesystem::path home = folder("HOME");
  return home.empty() ? home : home / ".cache";
}

}  // namespace wick
