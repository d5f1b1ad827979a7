#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace wick {

/// The algorithm of a library for one matrix product, as the library may write it down and read it again.
using GemmPlan = std::array<std::uint64_t, 8>;

/// The algorithms that timing chose, by a text that names the product, in a JSON file that later runs read: the same
/// products then take the same algorithms, and give the same bytes. The first entry for a product stays. A file that
/// cannot be read, is not of this format or belongs to another device or library version (`owner`) counts as empty, and
/// is replaced with the next entry.
class GemmPlans {
 public:
  GemmPlans(std::filesystem::path file, std::string owner);

  std::optional<GemmPlan> find(const std::string& product) const;
  /// Adds a plan and replaces the file, atomically, together with what other processes have added to it since; returns
  /// the plan that counts: theirs, if they had this product first. Nothing when the file cannot be written: the choice
  /// would be gone with this run, and another run's might differ.
  std::optional<GemmPlan> add(const std::string& product, const GemmPlan& plan);

  const std::filesystem::path& file() const noexcept { return file_; }

 private:
  void merge_file();

  std::filesystem::path file_;
  std::string owner_;
  std::map<std::string, GemmPlan> plans_;
};

/// Where the plans of a device are kept: `setting` is "off" (nowhere), a path, or "" or "on" for
/// gemm-DEVICE-VERSION.json in `cache`/wick; nowhere when `cache` is then empty. `device` and `version` may hold any
/// characters.
std::optional<std::filesystem::path> gemm_plans_file(std::string_view setting, const std::filesystem::path& cache,
                                                     std::string_view device, std::string_view version);

/// $XDG_CACHE_HOME, else $HOME/.cache (XDG Base Directory Specification); empty without either.
std::filesystem::path cache_folder();

}  // namespace wick
