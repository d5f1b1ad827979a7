#include "wick/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <ostream>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "io_test_util.h"

namespace wick {
namespace {

using test::bytes;
using test::expect_error;
using test::read_file;
using test::TempDir;
using test::text;
using test::write_file;

std::string with_length(std::uint64_t length, std::string_view rest) {
  std::string out(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(length >> (8 * i));
  return out.append(rest);
}

// A file of this header and `size` bytes of data.
std::string file_of(std::string_view header, std::size_t size = 0) {
  return with_length(header.size(), header).append(size, 'x');
}

SafetensorsEntry entry(std::string name, std::string dtype, std::vector<std::int64_t> shape, std::string_view data) {
  return {std::move(name), std::move(dtype), std::move(shape), bytes(data)};
}

TEST(Safetensors, ReadsEntriesInTheOrderOfTheirBytes) {
  const TempDir dir;
  write_file(dir / "f", file_of(R"({"b":{"dtype":"I16","shape":[1,2],"data_offsets":[1,5]},)"
                                R"("__metadata__":{"format":"pt","":"empty"},)"
                                R"("a":{"data_offsets":[0,1],"shape":[],"dtype":"U8"},)"
                                R"("none":{"dtype":"F32","shape":[0,7],"data_offsets":[5,5]}}   )",
                                5));
  const SafetensorsFile file = SafetensorsFile::open(dir / "f");
  ASSERT_EQ(file.entries().size(), 3U);
  EXPECT_EQ(file.entries()[0].name, "a");
  EXPECT_EQ(file.entries()[1].name, "b");
  EXPECT_EQ(file.entries()[2].name, "none");
  EXPECT_EQ(file.entries()[1].dtype, "I16");
  EXPECT_EQ(file.entries()[1].shape, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(file.entries()[1].bytes.size(), 4U);
  EXPECT_EQ(file.entries()[1].bytes.data(), file.entries()[0].bytes.data() + 1);
  EXPECT_EQ(file.find("none"), &file.entries()[2]);
  EXPECT_EQ(file.find("zzz"), nullptr);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"", "empty"}}));
}

TEST(Safetensors, EntriesOutliveTheFileObjectAndTheFile) {
  const TempDir dir;
  write_file(dir / "f", file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3));
  const SafetensorsEntry copy = SafetensorsFile::open(dir / "f").entries()[0];
  std::filesystem::remove(dir / "f");
  EXPECT_EQ(text(copy.bytes), "xxx");
}

TEST(Safetensors, FindWorksAfterAMove) {
  const TempDir dir;
  write_file(dir / "f", file_of(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 3));
  std::vector<SafetensorsFile> files;
  for (int i = 0; i < 5; ++i) files.push_back(SafetensorsFile::open(dir / "f"));
  for (const auto& file : files) EXPECT_EQ(file.find("a"), &file.entries()[0]);
}

// python.safetensors comes from the Python package: ten tensors of as many dtypes, escapes in names and metadata.
TEST(Safetensors, WritesWhatThePythonPackageWrites) {
  const TempDir dir;
  const std::filesystem::path python = std::filesystem::path(WICK_TEST_DATA) / "io" / "python.safetensors";
  const SafetensorsFile file = SafetensorsFile::open(python);
  ASSERT_EQ(file.entries().size(), 10U);
  EXPECT_EQ(file.find("weight")->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.find("na\"me \u00e9\n")->dtype, "I32");

  std::vector<SafetensorsEntry> shuffled(file.entries().rbegin(), file.entries().rend());
  std::swap(shuffled[0], shuffled[5]);
  write_safetensors(dir / "f", shuffled, file.metadata());
  EXPECT_EQ(read_file(dir / "f"), read_file(python));
}

TEST(Safetensors, WritesEveryDType) {
  const TempDir dir;
  const std::string data(32, 'd');
  std::vector<SafetensorsEntry> entries;
  for (const char* dtype : {"BOOL",    "F4",          "F6_E2M3",     "F6_E3M2", "U8",  "I8",  "F8_E5M2", "F8_E4M3",
                            "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",     "U16", "F16", "BF16",    "I32",
                            "U32",     "F32",         "C64",         "F64",     "I64", "U64"}) {
    const auto size = static_cast<std::size_t>(4 * safetensors_bits(dtype) / 8);
    ASSERT_GT(size, 0U) << dtype;
    entries.push_back(entry(dtype, dtype, {2, 2}, std::string_view(data).substr(0, size)));
  }
  write_safetensors(dir / "f", entries);
  const SafetensorsFile file = SafetensorsFile::open(dir / "f");
  ASSERT_EQ(file.entries().size(), entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(file.entries()[i].name, entries[entries.size() - 1 - i].name);
  }
  EXPECT_EQ(safetensors_bits("f32"), 0);
}

TEST(Safetensors, WritesNoTensorsAndReplacesAFile) {
  const TempDir dir;
  write_file(dir / "f", "old");
  write_safetensors(dir / "f", {});
  EXPECT_EQ(read_file(dir / "f"), with_length(8, "{}      "));
  EXPECT_TRUE(SafetensorsFile::open(dir / "f").entries().empty());
  EXPECT_EQ(test::list(dir.path()), "f");
}

// The writer may read from the very file that it replaces.
TEST(Safetensors, RewritesAFileFromItsOwnMapping) {
  const TempDir dir;
  write_safetensors(dir / "f", std::vector{entry("a", "U8", {3}, "abc"), entry("b", "U8", {2}, "de")});
  const SafetensorsFile file = SafetensorsFile::open(dir / "f");
  write_safetensors(dir / "f", std::span(file.entries()).subspan(1));
  EXPECT_EQ(text(file.entries()[0].bytes), "abc");
  EXPECT_EQ(text(SafetensorsFile::open(dir / "f").entries()[0].bytes), "de");
}

TEST(Safetensors, WriterRefuses) {
  const TempDir dir;
  const auto refuse = [&](ErrorCode code, std::string_view part, const std::vector<SafetensorsEntry>& entries,
                          const std::map<std::string, std::string>& metadata = {}) {
    expect_error(code, part, [&] { write_safetensors(dir / "f", entries, metadata); });
    EXPECT_EQ(test::list(dir.path()), "");
  };
  constexpr ErrorCode kArgument = ErrorCode::invalid_argument;
  refuse(kArgument, R"(tensor "a" is given twice)", {entry("a", "U8", {1}, "x"), entry("a", "U16", {1}, "xy")});
  refuse(kArgument, "needs 4 bytes, has 3", {entry("a", "F32", {1}, "xyz")});
  refuse(kArgument, "no whole number of bytes", {entry("a", "F4", {3}, "xy")});
  refuse(kArgument, "does not fit", {entry("a", "U8", {-1}, "")});
  refuse(kArgument, "does not fit", {entry("a", "U8", {1LL << 40, 1LL << 40}, "")});
  refuse(kArgument, "the name is reserved", {entry("__metadata__", "U8", {1}, "x")});
  refuse(kArgument, "is not UTF-8", {entry("\xff", "U8", {1}, "x")});
  refuse(kArgument, "is not UTF-8", {}, {{"k", "\xc3"}});
  refuse(ErrorCode::unsupported, R"(dtype "Q4")", {entry("a", "Q4", {1}, "x")});
  expect_error(ErrorCode::io, "cannot create", [&] { write_safetensors(dir / "no" / "f", {}); });
}

struct Malformed {
  const char* name;
  std::string contents;
  const char* part;
  ErrorCode code = ErrorCode::format;
};

void PrintTo(const Malformed& m, std::ostream* out) { *out << m.name; }

class SafetensorsMalformed : public testing::TestWithParam<Malformed> {};

TEST_P(SafetensorsMalformed, IsRefused) {
  const TempDir dir;
  write_file(dir / "bad", GetParam().contents);
  expect_error(GetParam().code, GetParam().part, [&] { SafetensorsFile::open(dir / "bad"); });
  expect_error(GetParam().code, (dir / "bad").string(), [&] { SafetensorsFile::open(dir / "bad"); });
}

// A header of one tensor "a", its fields as given.
std::string tensor(std::string_view dtype, std::string_view shape, std::string_view offsets, std::size_t size = 4) {
  return file_of(fmt::format(R"({{"a":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets), size);
}

// Two tensors of 4 bytes.
std::string two(std::string_view first, std::string_view second, std::size_t size) {
  constexpr const char* kTensor = R"("{}":{{"dtype":"U8","shape":[4],"data_offsets":{}}})";
  return file_of(fmt::format("{{{},{}}}", fmt::format(fmt::runtime(kTensor), "a", first),
                             fmt::format(fmt::runtime(kTensor), "b", second)),
                 size);
}

std::string repeated(std::string_view part, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += part;
  return out;
}

INSTANTIATE_TEST_SUITE_P(
    Header, SafetensorsMalformed,
    testing::ValuesIn(std::vector<Malformed>{
        Malformed{"Empty", "", "is 0 bytes"},
        Malformed{"SevenBytes", "\x01\x02\x03\x04\x05\x06\x07", "is 7 bytes"},
        Malformed{"NoHeader", with_length(0, ""), "starts with"},
        Malformed{"LengthPastTheEnd", with_length(3, "{}"), "the header is 3 bytes, the file has 2 left"},
        Malformed{"LengthTooLarge", with_length(100'000'001, "{}"), "at most 100000000"},
        Malformed{"LengthWraps", with_length(~0ULL, "{}"), "at most 100000000"},
        Malformed{"LengthWrapsByEight", with_length(~0ULL - 7, "{}"), "at most 100000000"},
        Malformed{"LengthNegative", with_length(1ULL << 63, "{}"), "at most 100000000"},
        Malformed{"StartsWithSpace", file_of(" {}"), R"(starts with " ")"},
        Malformed{"StartsWithMark", file_of("\xef\xbb\xbf{}"), "starts with"},
        Malformed{"Array", file_of("[]"), R"(starts with "[")"},
        Malformed{"Unclosed", file_of(R"({"a":)"), "not valid JSON at line 1, column 6"},
        Malformed{"OnlyABrace", file_of("{"), "not valid JSON"},
        Malformed{"TwoValues", file_of("{}{}"), "not valid JSON at line 1, column 3"},
        Malformed{"NulPadding", file_of(std::string("{}\0\0", 4)), "column 3: a NUL byte"},
        Malformed{"NulThenHeader", file_of(std::string("{}\0{}", 5)), "a NUL byte"},
        Malformed{"NotUtf8InName", file_of("{\"\xff\":{}}"), "ill-formed UTF-8"},
        Malformed{"OverlongUtf8", file_of("{\"\xc0\x80\":{}}"), "ill-formed UTF-8"},
        Malformed{"EncodedSurrogate", file_of("{\"\xed\xa0\x80\":{}}"), "ill-formed UTF-8"},
        Malformed{"LoneSurrogateEscape", file_of(R"({"\ud800":{}})"), "surrogate"},
        Malformed{"ControlCharacter", file_of("{\"\x01\":{}}"), "control character"},
        Malformed{"Comment", file_of("{/**/}"), "not valid JSON"},
        Malformed{"TrailingComma", file_of(R"({"a":{},})"), "is missing"},
        Malformed{"NestingBomb", file_of(fmt::format(R"({{"a":{})", repeated("[", 200'000))), R"("a" is a list)"},
        Malformed{"ObjectBomb", file_of(repeated(R"({"a":)", 200'000)), R"(key "a", expected dtype)"},
        Malformed{"TensorIsANumber", file_of(R"({"a":3})"), R"("a" is 3, expected an object)"},
        Malformed{"TensorIsAString", file_of(R"({"a":"b"})"), R"("a" is "b", expected an object)"},
        Malformed{"TensorIsNull", file_of(R"({"a":null})"), R"("a" is null, expected an object)"},
        Malformed{"TensorTwice",
                  file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                          R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                          2),
                  R"("a" is given twice)"},
        Malformed{"MetadataTwice", file_of(R"({"__metadata__":{},"__metadata__":{}})"), "is given twice"},
        Malformed{"MetadataKeyTwice", file_of(R"({"__metadata__":{"k":"a","k":"b"}})"), R"(key "k" is given twice)"},
        Malformed{"MetadataNumber", file_of(R"({"__metadata__":{"k":1}})"), R"(key "k" is 1, expected a string)"},
        Malformed{"MetadataNested", file_of(R"({"__metadata__":{"k":{}}})"), "is an object, expected a string"},
        Malformed{"MetadataNull", file_of(R"({"__metadata__":null})"), "is null, expected an object"},
        Malformed{"MetadataList", file_of(R"({"__metadata__":["k"]})"), "is a list, expected an object"}}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Tensor, SafetensorsMalformed,
    testing::ValuesIn(std::vector<Malformed>{
        Malformed{"NoDType", file_of(R"({"a":{"shape":[4],"data_offsets":[0,4]}})", 4), "dtype is missing"},
        Malformed{"NoShape", file_of(R"({"a":{"dtype":"U8","data_offsets":[0,4]}})", 4), "shape is missing"},
        Malformed{"NoOffsets", file_of(R"({"a":{"dtype":"U8","shape":[4]}})", 4), "data_offsets is missing"},
        Malformed{"UnknownKey", file_of(R"({"a":{"dtype":"U8","strides":[4]}})", 4), R"(key "strides")"},
        Malformed{"DTypeTwice", file_of(R"({"a":{"dtype":"U8","dtype":"U8"}})", 4), R"("dtype" is given twice)"},
        Malformed{"ShapeTwice", file_of(R"({"a":{"shape":[4],"shape":[4]}})", 4), R"("shape" is given twice)"},
        Malformed{"DTypeUnknown", tensor(R"("Q8")", "[4]", "[0,4]"), R"(tensor "a": dtype "Q8")",
                  ErrorCode::unsupported},
        Malformed{"DTypeLowerCase", tensor(R"("u8")", "[4]", "[0,4]"), R"(dtype "u8")", ErrorCode::unsupported},
        Malformed{"DTypeEmpty", tensor(R"("")", "[4]", "[0,4]"), R"(dtype "")", ErrorCode::unsupported},
        Malformed{"DTypeNumber", tensor("8", "[4]", "[0,4]"), "dtype is 8, expected a string"},
        Malformed{"DTypeList", tensor("[]", "[4]", "[0,4]"), "dtype is a list, expected a string"},
        Malformed{"ShapeNumber", tensor(R"("U8")", "4", "[0,4]"), "shape is 4, expected a list"},
        Malformed{"ShapeString", tensor(R"("U8")", R"("4")", "[0,4]"), R"(shape is "4", expected a list)"},
        Malformed{"ShapeNested", tensor(R"("U8")", "[[4]]", "[0,4]"), "shape has a list"},
        Malformed{"ShapeObject", tensor(R"("U8")", "[{}]", "[0,4]"), "shape has an object"},
        Malformed{"ShapeNegative", tensor(R"("U8")", "[-4]", "[0,4]"), "shape has -4"},
        Malformed{"ShapeNegativeTwice", tensor(R"("U8")", "[-2,-2]", "[0,4]"), "shape has -2"},
        Malformed{"ShapeFloat", tensor(R"("U8")", "[4.0]", "[0,4]"), "shape has 4.0"},
        Malformed{"ShapeNull", tensor(R"("U8")", "[null]", "[0,4]"), "shape has null"},
        Malformed{"ShapeBool", tensor(R"("U8")", "[true]", "[0,4]"), "shape has true"},
        Malformed{"ShapeAbove63Bits", tensor(R"("U8")", "[9223372036854775808]", "[0,4]"), "9223372036854775808"},
        Malformed{"ShapeAbove64Bits", tensor(R"("U8")", "[18446744073709551620]", "[0,4]"), "shape has 1.8"},
        Malformed{"ShapeProductWrapsToSize", tensor(R"("U8")", "[4294967297,4294967297,4]", "[0,4]"), "does not fit"},
        Malformed{"ShapeProductWrapsToZero", tensor(R"("U8")", "[4294967296,4294967296]", "[0,0]", 0), "does not fit"},
        Malformed{"ShapeBytesWrap", tensor(R"("F32")", "[4611686018427387905]", "[0,4]"), "does not fit"},
        Malformed{"ShapeWrapsBeforeZero", tensor(R"("U8")", "[4294967296,4294967296,0]", "[0,0]", 0), "does not fit"},
        Malformed{"ShapeTooDeep", tensor(R"("U8")", fmt::format("[{}4]", repeated("1,", 64)), "[0,4]"),
                  "64 dimensions"},
        Malformed{"SizeTooSmall", tensor(R"("U8")", "[5]", "[0,4]"), "needs 5 bytes, data_offsets hold 4"},
        Malformed{"SizeTooLarge", tensor(R"("F32")", "[]", "[0,8]", 8), "needs 4 bytes, data_offsets hold 8"},
        Malformed{"HalfAByte", tensor(R"("F4")", "[7]", "[0,4]"), "no whole number of bytes"},
        Malformed{"OneOffset", tensor(R"("U8")", "[4]", "[4]"), "has 1 numbers, expected 2"},
        Malformed{"NoOffset", tensor(R"("U8")", "[4]", "[]"), "has 0 numbers, expected 2"},
        Malformed{"ThreeOffsets", tensor(R"("U8")", "[4]", "[0,4,4]"), "data_offsets has 4"},
        Malformed{"OffsetNegative", tensor(R"("U8")", "[4]", "[-4,0]"), "data_offsets has -4"},
        Malformed{"OffsetFloat", tensor(R"("U8")", "[4]", "[0,4.5]"), "data_offsets has 4.5"},
        Malformed{"OffsetString", tensor(R"("U8")", "[4]", R"(["0","4"])"), R"(data_offsets has "0")"},
        Malformed{"OffsetOverflow", tensor(R"("U8")", "[4]", "[0,1e999]"), "number overflow"},
        Malformed{"OffsetAbove63Bits", tensor(R"("U8")", "[4]", "[9223372036854775808,4]"), "9223372036854775808"},
        Malformed{"OffsetsReversed", tensor(R"("U8")", "[4]", "[4,0]"), "end at 0 before they begin at 4"},
        Malformed{"OffsetPastTheEnd", tensor(R"("U8")", "[5]", "[0,5]"), "end at 5, the file has 4"},
        Malformed{"Truncated", tensor(R"("U8")", "[4]", "[0,4]", 3), "end at 4, the file has 3"},
        Malformed{"BytesLeftOver", tensor(R"("U8")", "[4]", "[0,4]", 5), "end at byte 4 of the data, the file has 5"},
        Malformed{"BytesOfNoTensor", file_of("{}", 1), "end at byte 0 of the data, the file has 1"},
        Malformed{"HoleBefore", tensor(R"("U8")", "[3]", "[1,4]"), "leave a hole"},
        Malformed{"HoleBetween", two("[0,4]", "[5,9]", 9), R"(tensor "b": data_offsets begin at 5, expected 4)"},
        Malformed{"Overlap", two("[0,4]", "[3,7]", 7), R"(tensor "b": data_offsets begin at 3, expected 4)"},
        Malformed{"SameBytes", two("[0,4]", "[0,4]", 4), "overlap"},
        Malformed{"EmptyInsideAnother",
                  file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                          R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                          4),
                  "overlap"},
        Malformed{"HugeName", file_of(fmt::format(R"({{"{}":1}})", repeated("n", 100'000))), "nnn\"... is 1"},
        Malformed{"NameWithEscapeCodes", file_of("{\"\\u001b[2J\\n\xc2\x9b\":1}"), R"("\x1b[2J\x0a\xc2\x9b" is 1)"}}),
    [](const auto& info) { return info.param.name; });

TEST(Safetensors, RefusesWhatIsNoFile) {
  const TempDir dir;
  expect_error(ErrorCode::io, "No such file", [&] { SafetensorsFile::open(dir / "none"); });
  expect_error(ErrorCode::io, "is a directory", [&] { SafetensorsFile::open(dir.path()); });
  expect_error(ErrorCode::io, "a device or pipe", [&] { SafetensorsFile::open("/dev/zero"); });
}

// A parse that succeeds must hold together: every byte of every tensor readable, every size what the shape says.
void check_consistent(const SafetensorsFile& file) {
  unsigned sum = 0;
  for (const SafetensorsEntry& e : file.entries()) {
    std::int64_t bits = safetensors_bits(e.dtype);
    for (const std::int64_t extent : e.shape) bits *= extent;
    ASSERT_EQ(static_cast<std::size_t>(bits), e.bytes.size() * 8);
    ASSERT_EQ(file.find(e.name), &e);
    for (const std::byte b : e.bytes) sum += static_cast<unsigned>(b);
  }
  ASSERT_LE(sum, 255U * 1000);
}

TEST(Safetensors, EveryMutationIsReadOrRefused) {
  const TempDir dir;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"s":{"dtype":"I64","shape":[],"data_offsets":[32,40]}} )";
  const std::string valid = file_of(header, 40);
  const std::vector<std::string> tokens = {"{",
                                           "}",
                                           "[",
                                           "]",
                                           ",",
                                           ":",
                                           "\"",
                                           "0",
                                           "-1",
                                           "1e9",
                                           "18446744073709551615",
                                           "null",
                                           "\\u0",
                                           "\xff\xfe",
                                           "[[[[[[[[[[",
                                           "{}",
                                           "\"w\":",
                                           "F4",
                                           "\t",
                                           std::string(1, '\0')};
  std::mt19937 random(20240611);  // NOLINT: the same mutations every time
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random()) % n; };
  int read = 0;
  int refused = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string contents = valid;
    for (std::size_t n = 1 + below(3); n > 0; --n) {
      // The first 8 bytes and the header are what is interesting; now and then the data.
      const std::size_t at = below(round % 8 == 0 ? contents.size() : std::min(contents.size(), 8 + header.size()));
      switch (below(6)) {
        case 0:
          contents[at] = static_cast<char>(below(256));
          break;
        case 1:
          contents[at] = static_cast<char>(contents[at] ^ (1 << below(8)));
          break;
        case 2:
          contents.erase(at, 1 + below(12));
          break;
        case 3:
          contents.insert(at, tokens[below(tokens.size())]);
          break;
        case 4:
          contents.insert(at, contents.substr(below(contents.size()), below(40)));
          break;
        default:
          contents.resize(at + 1);
          break;
      }
      if (contents.empty()) contents.push_back('x');
    }
    // Half the time the length is put right, so that the parser behind it is reached.
    if (round % 2 == 0 && contents.size() >= 48) {
      contents = with_length(contents.size() - 48, std::string_view(contents).substr(8));
    }
    write_file(dir / "f", contents);
    try {
      check_consistent(SafetensorsFile::open(dir / "f"));
      ++read;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::format || error.code() == ErrorCode::unsupported) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(read, 50);
  EXPECT_GT(refused, 3000);
}

}  // namespace
}  // namespace wick
