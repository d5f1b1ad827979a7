#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "io_test_util.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

using test::bytes;
using test::expect_error;
using test::TempDir;
using test::write_file;

class Sharded : public testing::Test {
 protected:
  // A shard of one-byte tensors of these names.
  void shard(std::string_view file, const std::vector<std::string>& names) {
    std::vector<SafetensorsEntry> entries;
    for (const auto& name : names) entries.push_back({name, "U8", {1}, bytes("x")});
    write_safetensors(dir_ / file, entries);
  }

  void index(std::string_view contents) { write_file(dir_ / "model.safetensors.index.json", contents); }

  void map(std::string_view weight_map) { index(fmt::format(R"({{"weight_map":{}}})", weight_map)); }

  void refuse(std::string_view part, ErrorCode code = ErrorCode::format) {
    expect_error(code, part, [&] { ShardedSafetensors::open(dir_.path()); });
  }

  TempDir dir_;
};

TEST_F(Sharded, OneFile) {
  shard("model.safetensors", {"b", "a"});
  const auto weights = ShardedSafetensors::open(dir_.path());
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(weights.source(), dir_ / "model.safetensors");
  EXPECT_EQ(weights.at("a").name, "a");
  expect_error(ErrorCode::format, R"(model.safetensors: tensor "c" is missing)", [&] { weights.at("c"); });
}

TEST_F(Sharded, ShardsAndExtraKeysInTheIndex) {
  shard("m-1.safetensors", {"a", "c"});
  shard("m-2.safetensors", {"b"});
  index(
      R"({"metadata":{"total_size":3},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}})");
  auto opened = ShardedSafetensors::open(dir_.path());
  const ShardedSafetensors weights = std::move(opened);
  EXPECT_EQ(weights.names(), (std::vector<std::string>{"a", "b", "c"}));
  ASSERT_EQ(weights.files().size(), 2U);
  EXPECT_EQ(weights.find("b"), &weights.files()[1].entries()[0]);
  EXPECT_EQ(weights.find("d"), nullptr);
}

TEST_F(Sharded, OneFileComesBeforeAnIndex) {
  shard("model.safetensors", {"a"});
  index("nonsense");
  EXPECT_EQ(ShardedSafetensors::open(dir_.path()).names(), std::vector<std::string>{"a"});
}

TEST_F(Sharded, RefusesAFolderOfNeither) {
  refuse("has neither model.safetensors nor", ErrorCode::io);
  expect_error(ErrorCode::io, "has neither", [&] { ShardedSafetensors::open(dir_ / "none"); });
}

TEST_F(Sharded, RefusesAMalformedIndex) {
  shard("m.safetensors", {"a"});
  for (const auto& [contents, part] : std::vector<std::pair<const char*, const char*>>{
           {"", "not valid JSON"},
           {"[]", "is an empty list, expected an object"},
           {"{}", "\"weight_map\" is missing"},
           {R"({"weight_map":null})", "\"weight_map\" is missing"},
           {R"({"weight_map":["m.safetensors"]})", "\"weight_map\" is a list, expected an object"},
           {R"({"weight_map":{"a":1}})", "tensor \"a\" is number, expected the name of a file"},
           {R"({"weight_map":{"a":null}})", "tensor \"a\" is null, expected the name of a file"},
           {R"({"weight_map":{"a":["m.safetensors"]}})", "tensor \"a\" is array, expected the name of a file"},
           {R"({"weight_map":{}})", "\"weight_map\" names no tensor"},
           {R"({"weight_map":{"a":"m.safetensors","a":"m.safetensors"}})", "the key \"a\" is given twice"},
       }) {
    index(contents);
    refuse(part);
  }
}

TEST_F(Sharded, RefusesShardsOutsideTheFolder) {
  shard("m.safetensors", {"a"});
  for (const char* name : {"", ".", "..", "../m.safetensors", "/etc/passwd", "sub/m.safetensors", "./m.safetensors",
                           "a..b", "sub\\\\m.safetensors", "m.safetensors\\u0000"}) {
    map(fmt::format(R"({{"a":"{}"}})", name));
    refuse("expected a file beside the index");
  }
}

TEST_F(Sharded, RefusesWhatTheIndexPromisesInVain) {
  shard("m.safetensors", {"a"});
  map(R"({"a":"m.safetensors","b":"n.safetensors"})");
  refuse(R"(tensor "b" is in "n.safetensors", which does not exist)");
  map(R"({"a":"m.safetensors","b":"m.safetensors"})");
  refuse(R"(tensor "b" is in "m.safetensors", which does not hold it)");
}

TEST_F(Sharded, RefusesATensorInTwoShards) {
  shard("m.safetensors", {"a"});
  shard("n.safetensors", {"a", "b"});
  map(R"({"a":"m.safetensors","b":"n.safetensors"})");
  refuse(R"(tensor "a" is in two of the shards, again in n.safetensors)");
}

TEST_F(Sharded, RefusesAMalformedShardByItsOwnName) {
  write_file(dir_ / "m.safetensors", "short");
  map(R"({"a":"m.safetensors"})");
  refuse("m.safetensors: is 5 bytes");
}

}  // namespace
}  // namespace wick
