// Profiles: the table and the timeline from made-up records, and what is recorded on the CPU.
#include "wick/profile.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "backend/gemm.h"
#include "core/work.h"
#include "expect_error.h"
#include "io/json.h"
#include "io_test_util.h"
#include "wick/ops.h"

namespace wick {
namespace {

using test::TempDir;

constexpr Ceilings kCeilings{.bytes_per_second = 1e12, .flops_per_second = 1e14};

// A product at half of the ceiling, a copy at a quarter of it, and 20 us in which nothing ran.
std::vector<KernelRecord> two_products_and_a_copy() {
  return {{"gemm 2x3x4", 0, 20, 1e3, 1e9}, {"copy", 30, 40, 1e7, 0}, {"gemm 2x3x4", 80, 20, 1e3, 1e9}};
}

std::vector<std::string> words_of(const std::string& text, const std::string& first) {
  std::size_t line = 0;
  while (line < text.size() && text.compare(line, first.size(), first) != 0) line = text.find('\n', line) + 1;
  std::vector<std::string> words;
  std::string word;
  for (const char c : text.substr(line + first.size(), text.find('\n', line) - line - first.size()) + " ") {
    if (c != ' ') {
      word += c;
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  return words;
}
using Words = std::vector<std::string>;

TEST(ProfileTable, SumsByName) {
  const std::string table = profile_table(two_products_and_a_copy(), kCeilings);
  EXPECT_EQ(words_of(table, "gemm 2x3x4"), (Words{"2", "0.040", "20.00", "40.0", "%", "0.050", "50.0", "50.0", "%"}));
  EXPECT_EQ(words_of(table, "copy"), (Words{"1", "0.040", "40.00", "40.0", "%", "250", "-", "25.0", "%"})) << table;
  EXPECT_EQ(words_of(table, "all kernels"), (Words{"3", "0.080", "26.67", "80.0", "%", "125", "25.0", "37.5", "%"}))
      << table;
  EXPECT_EQ(words_of(table, "between kernels"), (Words{"0.020", "20.0", "%"}));
  EXPECT_EQ(words_of(table, "first to last"), (Words{"0.100"}));
  EXPECT_LT(table.find("gemm 2x3x4"), table.find("all kernels"));
}

TEST(ProfileTable, MostTimeFirst) {
  const std::vector<KernelRecord> records = {{"short", 0, 1, 0, 0}, {"long", 1, 5, 0, 0}};
  const std::string table = profile_table(records, kCeilings);
  EXPECT_LT(table.find("long"), table.find("short"));
  EXPECT_EQ(words_of(table, "short"), (Words{"1", "0.001", "1.00", "16.7", "%", "-", "-", "-"}));
}

TEST(ProfileTable, SmallOnesShareARow) {
  const std::vector<KernelRecord> records = {
      {"long", 0, 9998, 0, 0}, {"first", 9998, 1, 0, 0}, {"second", 9999, 1, 1e3, 0}};
  const std::string table = profile_table(records, kCeilings);
  EXPECT_EQ(words_of(table, "2 with under 0.1 % each"),
            (Words{"2", "0.002", "1.00", "0.0", "%", "0.500", "-", "0.1", "%"}))
      << table;
  EXPECT_EQ(table.find("first "), table.find("first to last"));
}

TEST(ProfileTable, TimeBelongsToTheInnermost) {
  const std::vector<KernelRecord> records = {{"op", 0, 100, 0, 0},
                                             {"gemm", 10, 30, 0, 0},
                                             {"pack", 20, 10, 0, 0},
                                             {"gemm", 50, 50, 0, 0},
                                             {"op", 100, 10, 0, 0}};
  const std::string table = profile_table(records, kCeilings);
  EXPECT_EQ(words_of(table, "op").at(1), "0.030") << table;
  EXPECT_EQ(words_of(table, "gemm").at(1), "0.070");
  EXPECT_EQ(words_of(table, "pack").at(1), "0.010");
  EXPECT_EQ(words_of(table, "all kernels").at(1), "0.110");
  EXPECT_EQ(words_of(table, "between kernels").front(), "0.000");
}

TEST(ProfileTable, OfNothing) {
  const std::string table = profile_table({}, kCeilings);
  EXPECT_EQ(words_of(table, "all kernels"), (Words{"0", "0.000", "0.00", "-", "-", "-", "-"}));
}

TEST(ChromeTrace, HasWhatViewersAskFor) {
  const TempDir folder;
  std::vector<KernelRecord> records = two_products_and_a_copy();
  records[1].name = "a \"quoted\"\\name";
  write_chrome_trace(folder / "trace.json", records, kCeilings, "made up");
  const Json trace = read_json_file(folder / "trace.json");
  const Json& events = trace.at("traceEvents");
  std::vector<Json> slices;
  for (const Json& event : events) {
    EXPECT_TRUE(event.at("pid").is_number_integer());
    EXPECT_TRUE(event.at("tid").is_number_integer());
    EXPECT_TRUE(event.at("ts").is_number());
    if (event.at("ph") == "X") slices.push_back(event);
  }
  ASSERT_EQ(slices.size(), records.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    EXPECT_EQ(slices[i].at("name"), records[i].name);
    EXPECT_EQ(slices[i].at("ts"), records[i].start_us);
    EXPECT_EQ(slices[i].at("dur"), records[i].duration_us);
  }
  EXPECT_EQ(slices[0].at("args").at("flops"), 1e9);
  EXPECT_EQ(slices[1].at("args").at("GB/s"), 250.0);
  EXPECT_EQ(events.at(0).at("args").at("name"), "made up");
}

TEST(ChromeTrace, OfNothing) {
  const TempDir folder;
  write_chrome_trace(folder / "trace.json", {}, {}, "made up");
  EXPECT_EQ(read_json_file(folder / "trace.json").at("traceEvents").size(), 2U);
}

TEST(ProfileOnTheCpu, RecordsOpsAndProducts) {
  const Tensor a = Tensor::full({8, 16}, 1.0, DType::f32);
  const Tensor b = Tensor::full({16, 4}, 1.0, DType::f32);
  const Tensor c = Tensor::zeros({8, 4}, DType::f32);
  const Tensor weight = Tensor::full({16}, 1.0, DType::f32);
  gemm(a, b, c);
  Profile profile(Device::cpu());
  gemm(a, b, c);
  rms_norm(a, weight, 1e-6);
  const std::vector<KernelRecord> records = profile.stop();
  gemm(a, b, c);
  ASSERT_EQ(records.size(), 2U);
  EXPECT_EQ(records[0].name, "gemm 8x4x16");
  EXPECT_EQ(records[0].start_us, 0);
  EXPECT_GT(records[0].duration_us, 0);
  EXPECT_EQ(records[0].flops, 2.0 * 8 * 4 * 16);
  EXPECT_EQ(records[0].bytes, 4.0 * (8 * 16 + 16 * 4 + 8 * 4));
  EXPECT_EQ(records[1].name, "rms_norm");
  EXPECT_GE(records[1].start_us, records[0].duration_us);
}

TEST(ProfileOnTheCpu, OneAtATime) {
  {
    Profile profile(Device::cpu());
    test::expect_error(ErrorCode::invalid_argument, "profile", [] { const Profile second(Device::cpu()); });
    (void)profile.stop();
    test::expect_error(ErrorCode::invalid_argument, "profile", [&] { (void)profile.stop(); });
  }
  { const Profile unstopped(Device::cpu()); }
  EXPECT_EQ(work_listener(), nullptr);
}

TEST(ProfileOnTheCpu, CeilingsArePositive) {
  const Ceilings ceilings = measure_ceilings(Device::cpu(), DType::f32);
  EXPECT_GT(ceilings.bytes_per_second, 1e8);
  EXPECT_GT(ceilings.flops_per_second, 1e8);
}

}  // namespace
}  // namespace wick
