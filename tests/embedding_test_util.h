#pragma once

// What the tests of embedding models share.

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "io/json.h"
#include "io_test_util.h"
#include "wick/tensor.h"

namespace wick::test {

inline void edit_json(const std::filesystem::path& file, const std::function<void(Json&)>& change) {
  Json json = read_json_file(file);
  change(json);
  write_file(file, dump_json(json));
}

/// f32 rows beside lists of numbers.
inline void expect_rows_near(const Tensor& found, const Json& expected, double tolerance) {
  ASSERT_EQ(found.size(0), std::ssize(expected));
  for (std::int64_t i = 0; i < found.size(0); ++i) {
    const auto row = expected[static_cast<std::size_t>(i)].get<std::vector<float>>();
    ASSERT_EQ(found.size(1), std::ssize(row));
    for (std::int64_t c = 0; c < found.size(1); ++c) {
      EXPECT_NEAR(found.data<float>()[i * found.size(1) + c], row[static_cast<std::size_t>(c)], tolerance)
          << "text " << i << ", column " << c;
    }
  }
}

}  // namespace wick::test
