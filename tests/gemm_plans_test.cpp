// The file of chosen GEMM algorithms: what one run writes the next one reads, whatever lies there.
#include "backend/gemm_plans.h"

#include <gtest/gtest.h>

#include "io_test_util.h"

namespace wick::test {
namespace {

constexpr GemmPlan kPlan = {1, 0xffffffffffffffffU, 0, 0x0123456789abcdefU, 5, 6, 7, 1ULL << 63};
constexpr GemmPlan kOther = {8, 7, 6, 5, 4, 3, 2, 1};

TEST(GemmPlans, ComeBackFromTheFile) {
  const TempDir folder;
  const std::filesystem::path file = folder / "new" / "plans.json";
  GemmPlans plans(file, "a device 13.0");
  EXPECT_EQ(plans.find("bf16 1x2x3"), std::nullopt);
  EXPECT_EQ(plans.add("bf16 1x2x3", kPlan), kPlan);
  EXPECT_EQ(plans.add("bf16 4x5x6", kOther), kOther);
  EXPECT_EQ(plans.find("bf16 1x2x3"), kPlan);
  const GemmPlans later(file, "a device 13.0");
  EXPECT_EQ(later.find("bf16 1x2x3"), kPlan);
  EXPECT_EQ(later.find("bf16 4x5x6"), kOther);
  EXPECT_EQ(later.find("f32 1x2x3"), std::nullopt);
}

TEST(GemmPlans, OfAnotherDeviceOrVersionDoNotCount) {
  const TempDir folder;
  const std::filesystem::path file = folder / "plans.json";
  GemmPlans(file, "13.0").add("x", kPlan);
  GemmPlans newer(file, "13.1");
  EXPECT_EQ(newer.find("x"), std::nullopt);
  EXPECT_EQ(newer.add("y", kOther), kOther);
  EXPECT_EQ(GemmPlans(file, "13.1").find("y"), kOther);
  EXPECT_EQ(GemmPlans(file, "13.1").find("x"), std::nullopt);
}

TEST(GemmPlans, OfTwoProcessesAreMergedAndTheFirstStays) {
  const TempDir folder;
  const std::filesystem::path file = folder / "plans.json";
  GemmPlans one(file, "d");
  GemmPlans two(file, "d");
  EXPECT_EQ(one.add("shared", kPlan), kPlan);
  EXPECT_EQ(two.add("shared", kOther), kPlan);
  EXPECT_EQ(two.add("of two", kOther), kOther);
  EXPECT_EQ(one.add("of one", kPlan), kPlan);
  const GemmPlans later(file, "d");
  EXPECT_EQ(later.find("shared"), kPlan);
  EXPECT_EQ(later.find("of two"), kOther);
  EXPECT_EQ(later.find("of one"), kPlan);
}

TEST(GemmPlans, BrokenFilesCountAsEmptyAndAreReplaced) {
  const TempDir folder;
  const std::filesystem::path file = folder / "plans.json";
  const char* const contents[] = {
      "",
      "{",
      "[]",
      "null",
      "{\"format\": 3, \"owner\": \"d\", \"plans\": {}}",
      "{\"format\": \"wick-gemm-plans-0\", \"owner\": \"d\", \"plans\": {}}",
      "{\"format\": \"wick-gemm-plans-1\", \"owner\": \"d\", \"plans\": 7}",
      "{\"format\": \"wick-gemm-plans-1\", \"owner\": \"d\", \"plans\": {\"x\": 7}}",
      "{\"format\": \"wick-gemm-plans-1\", \"owner\": \"d\", \"plans\": {\"x\": \"12\"}}",
  };
  for (const std::string content : contents) {
    SCOPED_TRACE(content);
    write_file(file, content);
    GemmPlans plans(file, "d");
    EXPECT_EQ(plans.find("x"), std::nullopt);
    EXPECT_EQ(plans.add("x", kPlan), kPlan);
    EXPECT_EQ(GemmPlans(file, "d").find("x"), kPlan);
  }
  // One entry that is none of ours takes nothing from the others.
  GemmPlans(file, "d").add("y", kOther);
  std::string edited = read_file(file);
  edited.replace(edited.find("\"x\": \"") + 6, 1, "g");
  write_file(file, edited);
  EXPECT_EQ(GemmPlans(file, "d").find("x"), std::nullopt);
  EXPECT_EQ(GemmPlans(file, "d").find("y"), kOther);
}

TEST(GemmPlans, AreNotChosenWhereTheyCannotBeKept) {
  const TempDir folder;
  write_file(folder / "file", "no folder");
  GemmPlans plans(folder / "file" / "plans.json", "d");
  EXPECT_EQ(plans.add("x", kPlan), std::nullopt);
  EXPECT_EQ(plans.find("x"), std::nullopt);
}

TEST(GemmPlans, FileByEnvironment) {
  const std::string device = "NVIDIA H200 MIG 1g.18gb";
  EXPECT_EQ(gemm_plans_file("off", "/cache", device, "13.1.0"), std::nullopt);
  EXPECT_EQ(gemm_plans_file("/else/where.json", "", device, "13.1.0"), "/else/where.json");
  for (const char* const setting : {"", "on"}) {
    EXPECT_EQ(gemm_plans_file(setting, "", device, "13.1.0"), std::nullopt);
    EXPECT_EQ(gemm_plans_file(setting, "/cache", device, "13.1.0"),
              "/cache/wick/gemm-NVIDIA-H200-MIG-1g.18gb-13.1.0.json");
  }
}

}  // namespace
}  // namespace wick::test
