#include "io/npy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "io_test_util.h"

namespace wick {
namespace {

using test::expect_error;
using test::read_file;
using test::TempDir;
using test::write_file;

std::string file_of(std::string_view header, std::size_t data, char major = 1, char minor = 0) {
  std::string out("\x93NUMPY");
  out += major;
  out += minor;
  const std::size_t bytes = major == 1 ? 2 : 4;
  for (std::size_t i = 0; i < bytes; ++i) out += static_cast<char>(header.size() >> (8 * i));
  return out.append(header).append(data, '\0');
}

constexpr const char* kGood = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";

class Npy : public testing::Test {
 protected:
  Tensor load(const std::string& contents) const {
    write_file(dir_ / "a.npy", contents);
    return load_npy(dir_ / "a.npy");
  }
  TempDir dir_;
};

// Written by numpy 2.3: numpy.save of numpy.arange(6, dtype="f4").reshape(2, 3).
TEST_F(Npy, ReadsWhatNumpyWrites) {
  std::string file = file_of(std::string(kGood).append(58, ' ') + "\n", 0);
  ASSERT_EQ(file.size(), 128U);
  const std::vector<float> values = {0, 1, 2, 3, 4, 5};
  file.append(reinterpret_cast<const char*>(values.data()), 24);
  const Tensor found = load(file);
  EXPECT_EQ(describe(found), "f32 [2, 3]");
  EXPECT_EQ(found.to_vector<float>(), values);
  EXPECT_FALSE(found.storage()->writable());  // the file itself
}

TEST_F(Npy, ReadsEveryVersionAndKindOfElement) {
  for (const int major : {1, 2, 3}) {
    EXPECT_EQ(describe(load(file_of(kGood, 24, static_cast<char>(major)))), "f32 [2, 3]");
  }
  EXPECT_EQ(describe(load(file_of("{'descr': '<f2', 'fortran_order': False, 'shape': (2, 3)}", 12))), "f16 [2, 3]");
  EXPECT_EQ(describe(load(file_of("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", 24))), "f64 [3]");
  EXPECT_EQ(describe(load(file_of("{'descr': '<i4', 'fortran_order': False, 'shape': ()}", 4))), "i32 []");
  EXPECT_EQ(describe(load(file_of("{'descr': '<i8', 'fortran_order': False, 'shape': (0, 5)}", 0))), "i64 [0, 5]");
  // Other ways to say the same, in another order.
  EXPECT_EQ(describe(load(file_of("{ \"shape\":(2,3,) ,\"fortran_order\":False,\n\"descr\":\"<f4\"}", 24))),
            "f32 [2, 3]");
}

TEST_F(Npy, ReadsItsOwnHeader) {
  for (const auto& [rows, columns] : {std::pair<std::int64_t, std::int64_t>{0, 1}, {3, 7}, {1, 384}}) {
    const std::string header = npy_header(rows, columns);
    EXPECT_EQ(header.size(), 128U);
    const Tensor found = load(header + std::string(static_cast<std::size_t>(rows * columns) * 4, '\0'));
    EXPECT_EQ(found.size(0), rows);
    EXPECT_EQ(found.size(1), columns);
  }
  EXPECT_EQ(npy_header(INT64_MAX, INT64_MAX).size(), 128U);
  EXPECT_EQ(npy_header(INT64_MAX, INT64_MAX).back(), '\n');
}

TEST_F(Npy, RefusesWhatIsBroken) {
  struct Case {
    std::string file;
    std::string part;
    ErrorCode code = ErrorCode::format;
  };
  const auto header = [](std::string_view text, std::size_t data = 24) { return file_of(text, data); };
  const auto replaced = [&](std::string_view from, std::string_view to, std::size_t data = 24) {
    std::string text = kGood;
    text.replace(text.find(from), from.size(), to);
    return file_of(text, data);
  };
  const std::vector<Case> cases = {
      {"", "is no .npy file"},
      {"\x93NUMPY", "is no .npy file"},
      {"\x93NUMPX" + std::string(20, '\0'), "is no .npy file"},
      {file_of(kGood, 24, 4), "version 4.0", ErrorCode::unsupported},
      {file_of(kGood, 24, 0), "version 0.0", ErrorCode::unsupported},
      {file_of(kGood, 24, 1, 1), "version 1.1", ErrorCode::unsupported},
      {file_of(kGood, 24).substr(0, 40), "is cut off"},
      {file_of(kGood, 24, 2).substr(0, 11), "is cut off"},
      {std::string("\x93NUMPY\2\0\xff\xff\xff\xff", 12) + kGood, "header of 4294967295 bytes is cut off"},
      {file_of(kGood, 23), "needs 24 bytes, has 23"},
      {file_of(kGood, 25), "needs 24 bytes, has 25"},
      {header(""), "expected '{'"},
      {header("{"), "expected a string"},
      {header("{}"), "expected descr, fortran_order and shape"},
      {header("{'descr': '<f4'}"), "expected descr, fortran_order and shape"},
      {header("{'descr': '<f4', 'descr': '<f4'}"), "\"descr\" is given twice"},
      {header("{'descr': '<f4' 'shape': (1,)}"), "expected a comma"},
      {header("{'descr"), "a string does not end"},
      {header("{'descr' '<f4'}"), "expected ':'"},
      {header(std::string(kGood) + "x"), "something follows"},
      {header(std::string(kGood) + std::string(1, '\0')), "something follows"},
      {replaced("'shape'", "'other'"), "the key \"other\" is unknown"},
      {replaced("'<f4'", "'\\x3cf4'"), "escapes"},
      {replaced("'<f4'", "[('a', '<f4')]"), "expected a string"},
      {replaced("False", "0"), "expected True or False"},
      {replaced("(2, 3)", "[2, 3]"), "expected '('"},
      {replaced("(2, 3)", "(6)"), "expected a comma"},
      {replaced("(2, 3)", "(2 3)"), "expected a comma"},
      {replaced("(2, 3)", "(,)"), "expected a size"},
      {replaced("(2, 3)", "(-2, -3)"), "expected a size"},
      {replaced("(2, 3)", "(2.0, 3)"), "expected a comma"},
      {replaced("(2, 3)", "(99999999999999999999, 1)"), "expected a size"},
      {replaced("(2, 3)", "(4611686018427387904, 4)"), "larger than 2^63"},
      {replaced("(2, 3)", "(2, 3"), "expected a size"},
      {replaced("False", "True"), "Fortran order", ErrorCode::unsupported},
      {replaced("'<f4'", "'>f4'"), "elements are \">f4\"", ErrorCode::unsupported},
      {replaced("'<f4'", "'|O'"), "elements are \"|O\"", ErrorCode::unsupported},
      {replaced("'<f4'", "''"), "elements are \"\"", ErrorCode::unsupported},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.part);
    expect_error(each.code, each.part, [&] { (void)load(each.file); });
  }
  expect_error(ErrorCode::io, "cannot open", [&] { (void)load_npy(dir_ / "none"); });
}

// Whatever bytes a header has, reading it ends in an array or an Error.
TEST_F(Npy, SurvivesEveryByteInEveryPlaceOfTheHeader) {
  const std::string good = file_of(kGood, 24);
  for (std::size_t at = 0; at < good.size() - 24; ++at) {
    for (const int byte : {0, 1, 0x20, 0x27, 0x28, 0x29, 0x2c, 0x39, 0x7b, 0x7d, 0xff}) {
      std::string file = good;
      file[at] = static_cast<char>(byte);
      try {
        (void)load(file);
      } catch (const Error&) {
      }
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_THROW((void)load(good.substr(0, size)), Error) << size;
  }
}

TEST_F(Npy, IsKnownByItsFirstBytes) {
  write_file(dir_ / "a", file_of(kGood, 24));
  write_file(dir_ / "b", "PK");
  EXPECT_TRUE(is_npy(dir_ / "a"));
  EXPECT_FALSE(is_npy(dir_ / "b"));
}

}  // namespace
}  // namespace wick
