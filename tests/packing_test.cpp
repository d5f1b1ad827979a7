#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "core/rng.h"
#include "io_test_util.h"
#include "wick/data.h"

namespace wick {
namespace {

using test::expect_error;
using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kPad = 9999;

// A row as a batch shows it: ids, and labels shifted to the positions that predict them.
using Row = std::pair<Ids, Ids>;

Row shifted(const Example& example) {
  Ids labels(example.labels.begin() + 1, example.labels.end());
  labels.push_back(kIgnoreLabel);
  return {example.ids, labels};
}

// The rows of a batch without their padding. The first id of a row names it (random_data), and gives its length.
std::vector<Row> rows_of(const Batch& batch, const Dataset& data) {
  const Ids ids = batch.tokens.ids.to_vector<std::int32_t>();
  const Ids positions = batch.tokens.positions.to_vector<std::int32_t>();
  const Ids offsets = batch.tokens.offsets.to_vector<std::int32_t>();
  const Ids labels = batch.labels.to_vector<std::int32_t>();
  EXPECT_EQ(positions.size(), ids.size());
  EXPECT_EQ(labels.size(), ids.size());
  EXPECT_EQ(offsets.front(), 0);
  EXPECT_EQ(static_cast<std::size_t>(offsets.back()), ids.size());
  EXPECT_EQ(static_cast<std::int64_t>(offsets.size()) - 1, batch.rows);
  EXPECT_EQ(std::count_if(labels.begin(), labels.end(), [](std::int32_t label) { return label != kIgnoreLabel; }),
            batch.trained_tokens);
  std::vector<Row> rows;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const std::int32_t begin = offsets[i];
    const std::int32_t end = offsets[i + 1];
    for (std::int32_t t = begin; t < end; ++t) EXPECT_EQ(positions[static_cast<std::size_t>(t)], t - begin);
    const auto length = static_cast<std::int32_t>(
        data.examples()[static_cast<std::size_t>(ids[static_cast<std::size_t>(begin)])].tokens());
    for (std::int32_t t = begin + length; t < end; ++t) {
      EXPECT_EQ(ids[static_cast<std::size_t>(t)], kPad);
      EXPECT_EQ(labels[static_cast<std::size_t>(t)], kIgnoreLabel);
    }
    rows.emplace_back(Ids(ids.begin() + begin, ids.begin() + begin + length),
                      Ids(labels.begin() + begin, labels.begin() + begin + length));
  }
  return rows;
}

Ids names_of(const std::vector<Row>& rows) {
  Ids names;
  for (const Row& row : rows) names.push_back(row.first.front());
  return names;
}

// Rows of random length and labels; the first id of row i is i.
Dataset random_data(std::size_t rows, std::uint64_t longest, Rng& rng) {
  std::vector<Example> examples;
  for (std::size_t i = 0; i < rows; ++i) {
    Example example;
    const std::uint64_t length = 2 + rng.below(longest - 1);
    for (std::uint64_t t = 0; t < length; ++t) {
      example.ids.push_back(t == 0 ? static_cast<std::int32_t>(i) : static_cast<std::int32_t>(rng.below(5000)));
      example.labels.push_back(rng.below(4) == 0 ? kIgnoreLabel : example.ids.back());
    }
    example.labels.back() = example.ids.back();  // at least one token is trained on
    examples.push_back(std::move(example));
  }
  return Dataset::from_examples(std::move(examples));
}

Dataset three_rows() {
  return Dataset::from_examples(
      {{{0, 11, 12}, {-100, 11, 12}}, {{1, 21}, {1, 21}}, {{2, 31, 32, 33}, {2, -100, 32, 33}}});
}

BatchOptions in_order(std::int64_t batch_size, bool pack = true) {
  return {.batch_size = batch_size, .pack = pack, .shuffle = false, .pad_id = kPad};
}

Rng test_rng(std::uint32_t index) { return Rng(20, {RandomPurpose::sampling, index}); }

TEST(Packing, LaysRowsEndToEnd) {
  const Dataset data = three_rows();
  const Batch batch = BatchStream(data, in_order(3)).next();
  EXPECT_EQ(batch.tokens.ids.to_vector<std::int32_t>(), (Ids{0, 11, 12, 1, 21, 2, 31, 32, 33}));
  EXPECT_EQ(batch.tokens.positions.to_vector<std::int32_t>(), (Ids{0, 1, 2, 0, 1, 0, 1, 2, 3}));
  EXPECT_EQ(batch.tokens.offsets.to_vector<std::int32_t>(), (Ids{0, 3, 5, 9}));
  EXPECT_EQ(batch.labels.to_vector<std::int32_t>(), (Ids{11, 12, -100, 21, -100, -100, 32, 33, -100}));
  EXPECT_EQ(batch.trained_tokens, 5);
  EXPECT_EQ(batch.rows, 3);
}

TEST(Packing, PadsToTheLongestOfTheBatch) {
  const Dataset data = three_rows();
  BatchStream stream(data, in_order(2, false));
  const Batch batch = stream.next();
  EXPECT_EQ(batch.tokens.ids.to_vector<std::int32_t>(), (Ids{0, 11, 12, 1, 21, kPad}));
  EXPECT_EQ(batch.tokens.positions.to_vector<std::int32_t>(), (Ids{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(batch.tokens.offsets.to_vector<std::int32_t>(), (Ids{0, 3, 6}));
  EXPECT_EQ(batch.labels.to_vector<std::int32_t>(), (Ids{11, 12, -100, 21, -100, -100}));
  EXPECT_EQ(batch.trained_tokens, 3);
}

TEST(BatchStream, GoesOnIntoTheNextEpoch) {
  const Dataset data = three_rows();
  BatchStream stream(data, in_order(2));
  EXPECT_EQ(names_of(rows_of(stream.next(), data)), (Ids{0, 1}));
  EXPECT_EQ(stream.cursor(), (DataCursor{0, 2}));
  EXPECT_EQ(names_of(rows_of(stream.next(), data)), (Ids{2, 0}));
  EXPECT_EQ(stream.cursor(), (DataCursor{1, 1}));
  EXPECT_EQ(names_of(rows_of(stream.next(), data)), (Ids{1, 2}));
  EXPECT_EQ(stream.cursor(), (DataCursor{2, 0}));
  // More rows than there are.
  EXPECT_EQ(names_of(rows_of(BatchStream(data, in_order(7)).next(), data)), (Ids{0, 1, 2, 0, 1, 2, 0}));
}

TEST(BatchStream, FillsTheFirstBatchWithRoom) {
  const Dataset data = Dataset::from_examples({{{0, 1, 1, 1, 1, 1}, {0, 1, 1, 1, 1, 1}},
                                               {{1, 1, 1, 1, 1}, {1, 1, 1, 1, 1}},
                                               {{2, 1, 1, 1}, {2, 1, 1, 1}},
                                               {{3, 1, 1}, {3, 1, 1}},
                                               {{4, 1}, {4, 1}},
                                               {{5, 1, 1}, {5, 1, 1}}});
  BatchStream stream(data, {.batch_tokens = 10, .shuffle = false});
  EXPECT_EQ(names_of(rows_of(stream.next(), data)), (Ids{0, 2}));
  EXPECT_EQ(stream.cursor(), (DataCursor{0, 1}));
  EXPECT_EQ(names_of(rows_of(stream.next(), data)), (Ids{1, 3, 4}));
  EXPECT_EQ(names_of(rows_of(stream.next(), data)), (Ids{5}));
  EXPECT_EQ(stream.cursor(), (DataCursor{1, 0}));
  EXPECT_EQ(names_of(rows_of(stream.next(), data)), (Ids{0, 2}));
}

// Every epoch holds every row once, packed and padded batches hold the same rows, and a stream that is put at a cursor
// goes on as the one that it came from: over random data, sizes and seeds.
TEST(BatchStream, HoldsItsProperties) {
  for (std::uint32_t round = 0; round < 60; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    Rng rng = test_rng(round);
    const std::size_t count = 1 + rng.below(round % 10 == 0 ? 400 : 40);
    const Dataset data = random_data(count, 20, rng);
    BatchOptions options;
    options.pad_id = kPad;
    options.batch_size = 1 + static_cast<std::int64_t>(rng.below(9));
    options.batch_tokens = round % 3 == 0 ? data.longest() + static_cast<std::int64_t>(rng.below(60)) : 0;
    options.shuffle = rng.below(4) != 0;
    options.seed = rng.below(1000);
    BatchOptions padded_options = options;
    padded_options.pack = false;

    BatchStream stream(data, options);
    std::optional<BatchStream> padded;
    if (options.batch_tokens == 0) padded.emplace(data, padded_options);
    std::vector<Row> seen;
    std::vector<DataCursor> cursors;
    std::vector<std::vector<Row>> batches;
    while (seen.size() < 3 * count) {
      cursors.push_back(stream.cursor());
      const Batch batch = stream.next();
      batches.push_back(rows_of(batch, data));
      seen.insert(seen.end(), batches.back().begin(), batches.back().end());
      if (options.batch_tokens > 0) {
        EXPECT_LE(batch.tokens.tokens(), options.batch_tokens);
      } else {
        EXPECT_EQ(batch.rows, options.batch_size);
        const Batch same = padded->next();
        EXPECT_EQ(rows_of(same, data), batches.back());
        EXPECT_EQ(same.trained_tokens, batch.trained_tokens);
      }
    }
    for (std::size_t epoch = 0; epoch < 3; ++epoch) {
      std::set<std::int32_t> names;
      for (std::size_t i = 0; i < count; ++i) {
        const Row& row = seen[epoch * count + i];
        const std::int32_t name = row.first.front();
        EXPECT_TRUE(names.insert(name).second) << "row " << name << " twice in epoch " << epoch;
        EXPECT_EQ(row, shifted(data.examples()[static_cast<std::size_t>(name)]));
      }
      EXPECT_EQ(names.size(), count);
    }
    // Into a fresh stream and into one that has moved on, from a place in any epoch.
    const std::size_t at = rng.below(cursors.size());
    BatchStream fresh(data, options);
    for (BatchStream* other : {&fresh, &stream}) {
      other->seek(cursors[at]);
      EXPECT_EQ(other->cursor(), cursors[at]);
      for (std::size_t i = at; i < batches.size(); ++i) EXPECT_EQ(rows_of(other->next(), data), batches[i]);
    }
  }
}

TEST(BatchStream, OrdersDependOnSeedAndEpoch) {
  Rng rng = test_rng(0);
  const Dataset data = random_data(50, 5, rng);
  const auto order = [&](std::uint64_t seed, std::int64_t epoch) {
    BatchStream stream(data, {.batch_size = 50, .seed = seed});
    stream.seek({epoch, 0});
    return names_of(rows_of(stream.next(), data));
  };
  EXPECT_EQ(order(1, 0), order(1, 0));
  EXPECT_NE(order(1, 0), order(2, 0));
  EXPECT_NE(order(1, 0), order(1, 1));
  Ids sorted = order(1, 0);
  EXPECT_FALSE(std::is_sorted(sorted.begin(), sorted.end()));
}

// All 24 orders of four rows, about equally often.
TEST(BatchStream, OrdersAreFair) {
  Rng rng = test_rng(1);
  const Dataset data = random_data(4, 3, rng);
  BatchStream stream(data, {.batch_size = 4, .seed = 3});
  std::map<Ids, int> counts;
  for (int i = 0; i < 2400; ++i) ++counts[names_of(rows_of(stream.next(), data))];
  EXPECT_EQ(counts.size(), 24U);
  for (const auto& [order, count] : counts) EXPECT_NEAR(count, 100, 50);  // five standard deviations
}

TEST(BatchStream, PackingWastesLittleOfTheBudget) {
  Rng rng = test_rng(2);
  const Dataset data = random_data(2000, 100, rng);
  BatchStream stream(data, {.batch_tokens = 256});
  std::int64_t batches = 0;
  while (stream.cursor().epoch == 0) {
    stream.next();
    ++batches;
  }
  EXPECT_GT(static_cast<double>(data.report().tokens), 0.95 * 256 * static_cast<double>(batches));
}

TEST(BatchStream, OptionsAndCursorsAreChecked) {
  const Dataset data = three_rows();
  const auto stream = [&](const BatchOptions& options) { return BatchStream(data, options); };
  expect_error(ErrorCode::invalid_argument, "batch_size is 0", [&] { stream({.batch_size = 0}); });
  expect_error(ErrorCode::invalid_argument, "batch_size is 9000000000", [&] { stream({.batch_size = 9000000000}); });
  expect_error(ErrorCode::invalid_argument, "batch_tokens is -1", [&] { stream({.batch_tokens = -1}); });
  expect_error(ErrorCode::invalid_argument, "batch_tokens is 3, expected at least the 4 tokens",
               [&] { stream({.batch_tokens = 3}); });
  expect_error(ErrorCode::invalid_argument, "without packing", [&] { stream({.batch_tokens = 9, .pack = false}); });
  expect_error(ErrorCode::invalid_argument, "pad_id is -1", [&] { stream({.pack = false, .pad_id = -1}); });

  BatchStream moved = stream(in_order(2));
  moved.next();
  for (const DataCursor bad :
       {DataCursor{0, 3}, DataCursor{0, -1}, DataCursor{-1, 0}, DataCursor{std::int64_t{1} << 40, 0}}) {
    expect_error(ErrorCode::invalid_argument, "the data cursor's", [&] { moved.seek(bad); });
  }
  // A refused cursor changes nothing.
  EXPECT_EQ(moved.cursor(), (DataCursor{0, 2}));
  EXPECT_EQ(names_of(rows_of(moved.next(), data)), (Ids{2, 0}));
}

TEST(Validation, GoesOnceOverAllRowsInOrder) {
  Rng rng = test_rng(3);
  const Dataset data = random_data(23, 12, rng);
  for (const BatchOptions& options : {in_order(5), in_order(5, false), in_order(23), in_order(100),
                                      BatchOptions{.batch_size = 5, .shuffle = true, .seed = 4, .pad_id = kPad}}) {
    Ids names;
    for (const Batch& batch : validation_batches(data, options)) {
      for (const Row& row : rows_of(batch, data)) {
        EXPECT_EQ(row, shifted(data.examples()[names.size()]));
        names.push_back(row.first.front());
      }
    }
    Ids all(23);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(names, all);
  }
  EXPECT_EQ(validation_batches(data, in_order(5)).size(), 5U);
  EXPECT_EQ(validation_batches(data, in_order(5)).back().rows, 3);
  EXPECT_EQ(validation_batches(data, in_order(5), 2).size(), 2U);
  EXPECT_EQ(validation_batches(data, in_order(5), 0).size(), 0U);
  EXPECT_EQ(validation_batches(data, in_order(5), 99).size(), 5U);
}

TEST(Validation, FillsABudgetWithEachRowOnce) {
  Rng rng = test_rng(4);
  const Dataset data = random_data(40, 12, rng);
  std::set<std::int32_t> names;
  for (const Batch& batch : validation_batches(data, {.batch_tokens = 30})) {
    EXPECT_LE(batch.tokens.tokens(), 30);
    for (const Row& row : rows_of(batch, data)) EXPECT_TRUE(names.insert(row.first.front()).second);
  }
  EXPECT_EQ(names.size(), 40U);
}

}  // namespace
}  // namespace wick
