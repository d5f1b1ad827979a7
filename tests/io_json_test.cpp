#include "io/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "io/jsonl.h"
#include "io_test_util.h"

namespace wick {
namespace {

using test::expect_error;
using test::read_file;
using test::TempDir;
using test::write_file;

std::filesystem::path data(std::string_view name) { return std::filesystem::path(WICK_TEST_DATA) / "io" / name; }

// python.json and python_line.json are Python's json.dumps(value, sort_keys=True) of one value, with indent=2 and
// without: 200 floats from 5e-324 to 1.8e308, the limits of integers, every kind of character.
TEST(Json, WritesWhatPythonWrites) {
  const Json value = read_json_file(data("python.json"));
  EXPECT_EQ(dump_json(value), read_file(data("python.json")));
  EXPECT_EQ(dump_json_line(value), read_file(data("python_line.json")));
}

TEST(Json, FloatsAsPythonPrintsThem) {
  EXPECT_EQ(python_repr(1e-5), "1e-05");
  EXPECT_EQ(python_repr(0.0001), "0.0001");
  EXPECT_EQ(python_repr(0.05), "0.05");
  EXPECT_EQ(python_repr(8), "8.0");
  EXPECT_EQ(python_repr(-0.0), "-0.0");
  EXPECT_EQ(python_repr(1e15), "1000000000000000.0");
  EXPECT_EQ(python_repr(1e16), "1e+16");
  EXPECT_EQ(python_repr(-1.5e-10), "-1.5e-10");
  EXPECT_EQ(python_repr(123.456), "123.456");
  EXPECT_EQ(python_repr(-std::numeric_limits<double>::infinity()), "-inf");
  const double inf = std::numeric_limits<double>::infinity();
  EXPECT_EQ(dump_json_line(Json{inf, -inf, std::nan("")}), "[Infinity, -Infinity, NaN]");
}

TEST(Json, RefusesToWriteWhatIsNotUtf8) {
  expect_error(ErrorCode::invalid_argument, R"("a\xff" is not UTF-8 at byte 1)", [] { dump_json(Json("a\xff")); });
  expect_error(ErrorCode::invalid_argument, "is not UTF-8", [] { dump_json(Json{{"\xed\xa0\x80", 1}}); });
}

struct Malformed {
  const char* name;
  std::string text;
  const char* part;
};

void PrintTo(const Malformed& m, std::ostream* out) { *out << m.name; }

class JsonMalformed : public testing::TestWithParam<Malformed> {};

TEST_P(JsonMalformed, IsRefused) {
  expect_error(ErrorCode::format, GetParam().part, [&] { parse_json(GetParam().text, "x.json"); });
  expect_error(ErrorCode::format, "x.json: ", [&] { parse_json(GetParam().text, "x.json"); });
}

std::string repeated(std::string_view part, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += part;
  return out;
}

INSTANTIATE_TEST_SUITE_P(
    Json, JsonMalformed,
    testing::ValuesIn(std::vector<Malformed>{
        Malformed{"Empty", "", "line 1, column 1: syntax error while parsing value - unexpected end"},
        Malformed{"Blank", " \n ", "line 2, column 2"},
        Malformed{"Position", "{\n  \"a\": 1,\n  \"b\": tru\n}", "line 3, column 11"},
        Malformed{"Expected", "{\"a\" 1}",
                  "column 6: syntax error while parsing object separator - "
                  "unexpected number literal; expected ':'"},
        Malformed{"Unclosed", "[1, 2", "line 1, column 6"},
        Malformed{"TwoValues", "1 2", "column 3"},
        Malformed{"TrailingComma", "[1,]", "column 4"},
        Malformed{"SingleQuotes", "{'a':1}", "column 2"},
        Malformed{"Comment", "// c\n1", "column 1"},
        Malformed{"NaN", "NaN", "invalid literal"},
        Malformed{"Infinity", "[Infinity]", "invalid literal"},
        Malformed{"MinusInfinity", "[-Infinity]", "invalid number"},
        Malformed{"Overflow", "[1e999]", "number overflow"},
        Malformed{"LongOverflow", repeated("9", 100'000), "number overflow"},
        Malformed{"LeadingZero", "01", "column 2"},
        Malformed{"Plus", "+1", "column 1"},
        Malformed{"Hexadecimal", "0x10", "column 2"},
        Malformed{"BarePoint", "1.", "invalid number"},
        Malformed{"Nul", std::string("1\0", 2), "column 2: a NUL byte"},
        Malformed{"NulHidesTheRest", std::string("1\0 [", 4), "a NUL byte"},
        Malformed{"LoneByte", "\"\x80\"", "ill-formed UTF-8"},
        Malformed{"Overlong", "\"\xc1\xbf\"", "ill-formed UTF-8"},
        Malformed{"Surrogate", "\"\xed\xbf\xbf\"", "ill-formed UTF-8"},
        Malformed{"AboveUnicode", "\"\xf4\x90\x80\x80\"", "ill-formed UTF-8"},
        Malformed{"LoneEscape", R"("\udc00")", "surrogate"},
        Malformed{"BadEscape", R"("\x41")", "forbidden character after backslash"},
        Malformed{"RawNewline", "\"a\nb\"", "control character"},
        Malformed{"DuplicateKey", R"({"a":{"k":1,"j":2,"k":1}})", R"(the key "k" is given twice)"},
        Malformed{"DuplicateByEscape", R"({"k":1,"\u006b":2})", R"(the key "k" is given twice)"},
        Malformed{"DeepArray", repeated("[", 257), "deeper than 256 levels"},
        Malformed{"ArrayBomb", repeated("[", 5'000'000), "deeper than 256 levels"},
        Malformed{"ObjectBomb", repeated(R"({"a":)", 1'000'000), "deeper than 256 levels"},
        Malformed{"LongJunk", repeated("x", 1'000'000), "invalid literal"},
        Malformed{"LongString", repeated("\"", 1).append(1'000'000, 'x'), "missing closing quote"}}),
    [](const auto& info) { return info.param.name; });

TEST(Json, NestsAsDeepAsAllowed) {
  const std::string text = repeated("[", 256) + repeated("]", 256);
  EXPECT_EQ(parse_json(text, "x"), Json::parse(text));
  EXPECT_NO_THROW(dump_json(parse_json(text, "x")));
}

TEST(Json, ReadsFiles) {
  const TempDir dir;
  write_file(dir / "a.json", "\xef\xbb\xbf{\"a\": [1, \"\u00e9\", {\"b\": null}]}\r\n");
  EXPECT_EQ(read_json_file(dir / "a.json"), Json::parse(R"({"a":[1,"\u00e9",{"b":null}]})"));
  expect_error(ErrorCode::io, "No such file", [&] { read_json_file(dir / "none.json"); });
  write_file(dir / "bad.json", "{");
  expect_error(ErrorCode::format, "bad.json: not valid JSON at line 1, column 2",
               [&] { read_json_file(dir / "bad.json"); });
  write_file(dir / "huge.json", "");
  std::filesystem::resize_file(dir / "huge.json", (64U << 20) + 1);
  expect_error(ErrorCode::format, "is 67108865 bytes, expected a JSON file of at most 67108864",
               [&] { read_json_file(dir / "huge.json"); });
}

class Getters : public testing::Test {
 protected:
  template <class T>
  void refuse(std::string_view key, std::string_view message) {
    expect_error(ErrorCode::format, std::string("config.json: ").append(message),
                 [&] { get<T>(config_, key, "config.json"); });
  }

  Json config_ = parse_json(
      R"({"int":7,"neg":-1,"zero":0,"float":1.0,"big":4294967296,"huge":18446744073709551615,"beyond":36893488147419103232,
          "low":-2147483649,"text":"abc","yes":true,"none":null,"list":[1,2],"mixed":[1,"x"],"object":{},"tiny":1e-5})",
      "config.json");
};

TEST_F(Getters, ReadEachType) {
  EXPECT_EQ(get<std::int64_t>(config_, "int", "c"), 7);
  EXPECT_EQ(get<std::int64_t>(config_, "neg", "c"), -1);
  EXPECT_EQ(get<int>(config_, "neg", "c"), -1);
  EXPECT_EQ(get<std::size_t>(config_, "huge", "c"), ~std::size_t{0});
  EXPECT_EQ(get<std::uint32_t>(config_, "zero", "c"), 0U);
  EXPECT_EQ(get<double>(config_, "tiny", "c"), 1e-5);
  EXPECT_EQ(get<float>(config_, "int", "c"), 7.0F);
  EXPECT_EQ(get<std::string>(config_, "text", "c"), "abc");
  EXPECT_TRUE(get<bool>(config_, "yes", "c"));
  EXPECT_EQ(get<std::vector<int>>(config_, "list", "c"), (std::vector<int>{1, 2}));
  EXPECT_EQ(get<Json>(config_, "object", "c"), Json::object());
  EXPECT_EQ(get_positive(config_, "int", "c"), 7);
}

TEST_F(Getters, FallBackOnMissingAndNullOnly) {
  EXPECT_EQ(get_or<int>(config_, "absent", 3, "c"), 3);
  EXPECT_EQ(get_or<int>(config_, "none", 3, "c"), 3);
  EXPECT_EQ(get_or<int>(config_, "int", 3, "c"), 7);
  EXPECT_EQ(get_or<std::string>(config_, "absent", "x", "c"), "x");
  EXPECT_EQ(get_optional<bool>(config_, "absent", "c"), std::nullopt);
  EXPECT_EQ(get_optional<bool>(config_, "none", "c"), std::nullopt);
  EXPECT_EQ(get_optional<bool>(config_, "yes", "c"), true);
  EXPECT_EQ(get_positive_or(config_, "none", 5, "c"), 5);
  EXPECT_EQ(get_positive_or(config_, "int", 5, "c"), 7);
  expect_error(ErrorCode::format, R"(c: "text" is "abc", expected an integer)",
               [&] { get_or<std::int64_t>(config_, "text", 3, "c"); });
  expect_error(ErrorCode::format, R"(c: "zero" is 0, expected a positive integer)",
               [&] { get_positive_or(config_, "zero", 3, "c"); });
}

TEST_F(Getters, RefuseAnythingElse) {
  refuse<std::int64_t>("absent", R"("absent" is missing)");
  refuse<std::int64_t>("none", R"("none" is missing)");
  refuse<std::int64_t>("text", R"("text" is "abc", expected an integer)");
  refuse<std::int64_t>("float", R"("float" is 1.0, expected an integer)");
  refuse<std::int64_t>("yes", R"("yes" is true, expected an integer)");
  refuse<std::int64_t>("huge", R"("huge" is 18446744073709551615, expected an integer)");
  refuse<std::int64_t>("beyond", R"("beyond" is 3.6893488147419103e+19, expected an integer)");
  refuse<std::int64_t>("list", R"("list" is a list, expected an integer)");
  refuse<std::int32_t>("big", R"("big" is 4294967296, expected an integer from -2147483648 to 2147483647)");
  refuse<std::int32_t>("low", R"("low" is -2147483649, expected an integer from -2147483648 to 2147483647)");
  refuse<std::uint8_t>("big", R"("big" is 4294967296, expected an integer from 0 to 255)");
  refuse<std::size_t>("neg", R"("neg" is -1, expected a non-negative integer)");
  refuse<bool>("int", R"("int" is 7, expected true or false)");
  refuse<bool>("text", R"("text" is "abc", expected true or false)");
  refuse<double>("text", R"("text" is "abc", expected a number)");
  refuse<double>("yes", R"("yes" is true, expected a number)");
  refuse<std::string>("int", R"("int" is 7, expected a string)");
  refuse<std::string>("object", R"("object" is an object, expected a string)");
  refuse<std::vector<int>>("int", R"("int" is 7, expected a list)");
  refuse<std::vector<int>>("mixed", R"("mixed" is "x", expected an integer)");
  for (const char* key : {"zero", "neg", "float", "text"}) {
    expect_error(ErrorCode::format, "expected a positive integer", [&] { get_positive(config_, key, "c"); });
  }
  expect_error(ErrorCode::format, "c: is a list, expected an object", [] { get<int>(Json{1}, "a", "c"); });
}

class Jsonl : public testing::Test {
 protected:
  std::filesystem::path file(std::string_view contents) {
    write_file(dir_ / "rows.jsonl", contents);
    return dir_ / "rows.jsonl";
  }

  // "LINE:VALUE" of every row.
  static std::string rows(JsonlReader reader) {
    std::string out;
    while (const auto row = reader.next()) out += std::to_string(reader.line()) + ":" + row->dump() + " ";
    return out;
  }

  TempDir dir_;
};

TEST_F(Jsonl, ReadsEveryKindOfLineEnd) {
  EXPECT_EQ(rows(JsonlReader(file("1\n2\n"))), "1:1 2:2 ");
  EXPECT_EQ(rows(JsonlReader(file("1\r\n2\r\n"))), "1:1 2:2 ");
  EXPECT_EQ(rows(JsonlReader(file("1\n2"))), "1:1 2:2 ");
  EXPECT_EQ(rows(JsonlReader(file("1\r\n2\r"))), "1:1 2:2 ");
  EXPECT_EQ(rows(JsonlReader(file("\xef\xbb\xbf{\"a\":1}\n2\n"))), "1:{\"a\":1} 2:2 ");
  EXPECT_EQ(rows(JsonlReader(file("\n  \n1\n\t\r\n\n2\n\n"))), "3:1 6:2 ");
  EXPECT_EQ(rows(JsonlReader(file(""))), "");
  EXPECT_EQ(rows(JsonlReader(file("\xef\xbb\xbf"))), "");
  EXPECT_EQ(rows(JsonlReader(file("\n\n"))), "");
}

TEST_F(Jsonl, ReadsLinesLongerThanTheBuffer) {
  const std::string line = repeated("y", 200'000);
  std::string contents;
  for (int i = 0; i < 5; ++i)
    contents.append(static_cast<std::size_t>(i), ' ').append("\"").append(line).append("\"\n");
  JsonlReader reader(file(contents));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(reader.next().value(), line);
  EXPECT_EQ(reader.next(), std::nullopt);
  EXPECT_EQ(reader.next(), std::nullopt);
  EXPECT_EQ(reader.line(), 5);
}

TEST_F(Jsonl, NamesFileAndLine) {
  JsonlReader reader(file("1\n\n{\"a\":}\n"));
  reader.next();
  expect_error(ErrorCode::format, "rows.jsonl:3: not valid JSON at line 1, column 6", [&] { reader.next(); });
}

TEST_F(Jsonl, LimitsTheLine) {
  JsonlReader reader(file("\"12345678\"\n\"123456789\"\n3\n"), {.max_line = 10});
  EXPECT_TRUE(reader.next().has_value());
  expect_error(ErrorCode::format, "rows.jsonl:2: the line is longer than 10 bytes", [&] { reader.next(); });
  EXPECT_EQ(reader.next(), Json(3));  // it goes on behind
  EXPECT_EQ(reader.where().substr(reader.where().rfind('/') + 1), "rows.jsonl:3");
}

TEST_F(Jsonl, KeepsBlankLinesWhereTheyCount) {
  LineReader lines(file("\n a \r\n\r\nb\n\n"), {.keep_blank = true});
  std::string all;
  while (const auto line = lines.next()) all += "[" + std::string(*line) + "]";
  EXPECT_EQ(all, "[][ a ][][b][]");
  EXPECT_EQ(lines.line(), 5);
}

TEST_F(Jsonl, EndsWhereItIsToldToStop) {
  // Nobody will ever write into this pipe.
  ASSERT_EQ(::mkfifo((dir_ / "pipe").c_str(), 0600), 0);
  const int both_ends = ::open((dir_ / "pipe").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(both_ends, 0);
  std::atomic<bool> stop{false};
  LineReader lines(dir_ / "pipe", {.stop = [&] { return stop.load(); }});
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop = true;
  });
  EXPECT_FALSE(lines.next().has_value());
  later.join();
  ::close(both_ends);
}

TEST_F(Jsonl, RefusesWhatCannotBeRead) {
  expect_error(ErrorCode::io, "cannot open: No such file", [&] { JsonlReader reader(dir_ / "none"); });
  expect_error(ErrorCode::io, "cannot read: Is a directory", [&] { rows(JsonlReader(dir_.path())); });
}

}  // namespace
}  // namespace wick
