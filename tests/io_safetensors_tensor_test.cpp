#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io_test_util.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

using test::bytes;
using test::expect_error;
using test::TempDir;

TEST(SafetensorsTensor, EveryDTypeSurvivesARoundTrip) {
  const TempDir dir;
  std::vector<SafetensorsEntry> entries;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64, DType::i32, DType::i64}) {
    entries.push_back(make_entry(std::string(to_string(dtype)), Tensor::full({2, 3}, 5, dtype)));
  }
  write_safetensors(dir / "f", entries);
  const SafetensorsFile file = SafetensorsFile::open(dir / "f");
  ASSERT_EQ(file.entries().size(), 6U);
  for (const SafetensorsEntry& entry : file.entries()) {
    const Tensor tensor = load_tensor(entry);
    EXPECT_EQ(to_string(tensor.dtype()), entry.name);
    EXPECT_EQ(tensor.shape(), (Shape{2, 3}));
    EXPECT_EQ(tensor.to(DType::f32).to_vector<float>(), std::vector<float>(6, 5.0F)) << entry.name;
  }
}

TEST(SafetensorsTensor, IsAViewThatKeepsTheFileMapped) {
  const TempDir dir;
  write_safetensors(dir / "f", std::vector{make_entry("a", Tensor::from(std::vector<float>{1, 2, 3}, {3}))});
  Tensor tensor;
  {
    const SafetensorsFile file = SafetensorsFile::open(dir / "f");
    tensor = load_tensor(file.entries()[0]);
    EXPECT_EQ(tensor.raw(), file.entries()[0].bytes.data());
  }
  std::filesystem::remove(dir / "f");
  EXPECT_FALSE(tensor.storage()->writable());
  EXPECT_EQ(tensor.to_vector<float>(), (std::vector<float>{1, 2, 3}));
}

TEST(SafetensorsTensor, CopiesWhatIsNotAlignedOrHasNoOwner) {
  const TempDir dir;
  // The package sorts by alignment; a file that does not puts an F32 at byte 3.
  const std::string header =
      R"({"u":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"w":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}}  )";
  ASSERT_EQ(header.size() % 4, 0U) << header.size();
  std::string contents(8, '\0');
  contents[0] = static_cast<char>(header.size());
  contents.append(header).append("uuu").append(std::string_view("\0\0\x80\x3f", 4));
  test::write_file(dir / "f", contents);
  const SafetensorsFile file = SafetensorsFile::open(dir / "f");
  const Tensor copy = load_tensor(*file.find("w"));
  EXPECT_TRUE(copy.storage()->writable());
  EXPECT_EQ(copy.item(), 1.0);

  alignas(4) const char raw[] = {0, 0, '\x80', '\x3f'};
  EXPECT_TRUE(load_tensor({"a", "F32", {}, bytes({raw, 4})}).storage()->writable());
}

TEST(SafetensorsTensor, WritesStridedAndEmptyTensors) {
  const TempDir dir;
  const Tensor matrix = Tensor::from(std::vector<std::int32_t>{1, 2, 3, 4, 5, 6}, {2, 3});
  write_safetensors(dir / "f",
                    std::vector{make_entry("t", matrix.transpose(0, 1)), make_entry("s", matrix.select(0, 1)),
                                make_entry("e", Tensor::empty({0, 4}, DType::f32))});
  const SafetensorsFile file = SafetensorsFile::open(dir / "f");
  EXPECT_EQ(load_tensor(*file.find("t")).to_vector<std::int32_t>(), (std::vector<std::int32_t>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(load_tensor(*file.find("s")).to_vector<std::int32_t>(), (std::vector<std::int32_t>{4, 5, 6}));
  EXPECT_EQ(load_tensor(*file.find("e")).shape(), (Shape{0, 4}));
}

TEST(SafetensorsTensor, RefusesByName) {
  expect_error(ErrorCode::unsupported, R"(tensor "a": dtype "F8_E4M3" is not supported)", [] {
    load_tensor({"a", "F8_E4M3", {1}, bytes("x")});
  });
  expect_error(ErrorCode::unsupported, R"(tensor "a": shape [1, 1, 1, 1, 1, 1, 1] is not supported)", [] {
    load_tensor({"a", "F32", {1, 1, 1, 1, 1, 1, 1}, bytes("xxxx")});
  });
  expect_error(ErrorCode::unsupported, "shape [-1] is not supported", [] { load_tensor({"a", "F32", {-1}, {}}); });
  expect_error(ErrorCode::invalid_argument, "3 bytes are not 1 elements of F32", [] {
    load_tensor({"a", "F32", {1}, bytes("xxx")});
  });
  expect_error(ErrorCode::invalid_argument, R"(tensor "a" is undefined)", [] { make_entry("a", Tensor()); });
}

}  // namespace
}  // namespace wick
