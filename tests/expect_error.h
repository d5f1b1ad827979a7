#pragma once

#include <gtest/gtest.h>

#include <string_view>
#include <utility>

#include "wick/error.h"

namespace wick::test {

/// `run` must throw a wick::Error of this code whose one-line message contains `part`.
template <class F>
void expect_error(ErrorCode code, std::string_view part, F&& run) {
  try {
    run();
    ADD_FAILURE() << "nothing thrown, expected: " << part;
  } catch (const Error& error) {
    const std::string_view message = error.what();
    EXPECT_EQ(to_string(error.code()), to_string(code)) << message;
    EXPECT_NE(message.find(part), std::string_view::npos) << "message: " << message << "\nexpected: " << part;
    EXPECT_EQ(message.find('\n'), std::string_view::npos) << message;
    EXPECT_LT(message.size(), 1000U);
  }
}

/// The same of an argument that is refused.
template <class F>
void expect_refused(std::string_view part, F&& run) {
  expect_error(ErrorCode::invalid_argument, part, std::forward<F>(run));
}

}  // namespace wick::test
