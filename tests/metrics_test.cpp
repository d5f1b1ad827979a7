#include "train/metrics.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "io_test_util.h"

namespace wick {
namespace {

using test::expect_error;
using test::read_file;
using test::TempDir;
using test::write_file;

Metrics at_step(std::int64_t step) {
  return {.step = step,
          .loss = 2.5 - 0.1 * static_cast<double>(step),
          .lr = 1e-5,
          .grad_norm = 0.75,
          .tokens_per_second = 1234.5,
          .trained_tokens = 100 * step,
          .peak_memory_bytes = 1 << 20};
}

TEST(Metrics, ALineHoldsWhatIsThere) {
  EXPECT_EQ(metrics_line(at_step(1)),
            R"({"grad_norm": 0.75, "loss": 2.4, "lr": 1e-05, "peak_memory_bytes": 1048576, "step": 1, )"
            R"("tokens_per_second": 1234.5, "trained_tokens": 100})");
  Metrics metrics;
  metrics.val_loss = 3.25;
  metrics.loss = std::numeric_limits<double>::quiet_NaN();
  metrics.grad_norm = std::numeric_limits<double>::infinity();
  EXPECT_EQ(metrics_line(metrics), R"({"peak_memory_bytes": 0, "step": 0, "trained_tokens": 0, "val_loss": 3.25})");
}

TEST(Metrics, RecordsReachTheFileOneByOne) {
  const TempDir dir;
  const auto path = dir / "metrics.jsonl";
  write_file(path, "from another run\n");
  MetricsWriter writer = MetricsWriter::create(path);
  EXPECT_EQ(read_file(path), "");
  std::vector<Metrics> written;
  for (std::int64_t step = 1; step <= 3; ++step) {
    written.push_back(at_step(step));
    if (step == 2) written.back().val_loss = 2.6;
    writer.write(written.back());
    EXPECT_EQ(read_metrics(path), written);
  }
  EXPECT_TRUE(read_file(path).ends_with("}\n"));
}

TEST(Metrics, ResumeDropsWhatLiesBehindTheCheckpoint) {
  const TempDir dir;
  const auto path = dir / "metrics.jsonl";
  MetricsWriter straight = MetricsWriter::create(path);
  for (std::int64_t step = 1; step <= 6; ++step) straight.write(at_step(step));
  const std::string whole = read_file(path);

  MetricsWriter resumed = MetricsWriter::resume(path, 4);
  EXPECT_EQ(read_metrics(path).size(), 4U);
  EXPECT_TRUE(whole.starts_with(read_file(path)));
  resumed.write(at_step(5));
  resumed.write(at_step(6));
  EXPECT_EQ(read_file(path), whole);
}

TEST(Metrics, ResumeRepairsALineThatWasCutOff) {
  const TempDir dir;
  const auto path = dir / "metrics.jsonl";
  const std::string first = metrics_line(at_step(1)) + "\n";
  const std::string second = metrics_line(at_step(2));
  for (std::size_t cut = 0; cut < second.size(); cut += 7) {
    write_file(path, first + second.substr(0, cut));
    EXPECT_EQ(read_metrics(path).size(), 1U) << cut;
    MetricsWriter::resume(path, 2).write(at_step(2));
    EXPECT_EQ(read_file(path), first + second + "\n") << cut;
  }
  // Whole but for its newline.
  write_file(path, first + second);
  MetricsWriter::resume(path, 2).write(at_step(3));
  EXPECT_EQ(read_metrics(path).size(), 3U);
}

TEST(Metrics, ResumeWithoutAFileStartsOne) {
  const TempDir dir;
  MetricsWriter::resume(dir / "metrics.jsonl", 10).write(at_step(11));
  EXPECT_EQ(read_metrics(dir / "metrics.jsonl"), std::vector<Metrics>{at_step(11)});
}

TEST(Metrics, BrokenFilesAreNamed) {
  const TempDir dir;
  const auto path = dir / "metrics.jsonl";
  const std::string good = metrics_line(at_step(1)) + "\n";
  write_file(path, good + "{\"step\": 2, \"lo\n" + good);
  expect_error(ErrorCode::format, "metrics.jsonl:2: not valid JSON", [&] { read_metrics(path); });
  expect_error(ErrorCode::format, "metrics.jsonl:2: not valid JSON", [&] { MetricsWriter::resume(path, 9); });
  EXPECT_EQ(read_file(path), good + "{\"step\": 2, \"lo\n" + good);
  write_file(path, "{\"loss\": 2}\n");
  expect_error(ErrorCode::format, "metrics.jsonl:1: \"step\" is missing", [&] { read_metrics(path); });
  write_file(path, "{\"step\": 1, \"loss\": \"2\"}\n");
  expect_error(ErrorCode::format, "metrics.jsonl:1: \"loss\" is \"2\", expected a number", [&] { read_metrics(path); });
  expect_error(ErrorCode::io, "none.jsonl", [&] { read_metrics(dir / "none.jsonl"); });
  expect_error(ErrorCode::io, "no-folder", [&] { MetricsWriter::create(dir / "no-folder" / "metrics.jsonl"); });
}

}  // namespace
}  // namespace wick
