#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io_test_util.h"
#include "lora_test_util.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

using test::decoder_modules;
using test::expect_error;
using test::read_file;
using test::Sizes;
using test::TempDir;
using test::write_file;

const std::filesystem::path kGolden = std::filesystem::path(WICK_TEST_DATA) / "golden";
const std::vector<std::pair<std::string, Sizes>> kModels{{"llama-gqa", {3, 64, 64, 16, 176}},
                                                         {"qwen2-untied", {3, 72, 72, 36, 200}},
                                                         {"qwen3-qknorm", {2, 64, 128, 64, 160}},
                                                         {"tales", {8, 256, 256, 128, 704}}};
const std::vector<ModuleInfo> kTwo{{"a.x", 6, 4}, {"a.y", 4, 5}};

LoraConfig two_config() {
  LoraConfig config;
  config.rank = 2;
  config.target_modules = std::vector<std::string>{"x", "y"};
  return config;
}

// A valid adapter for kTwo, whose files tests then break.
AdapterWeights two_adapter() { return init_adapter(two_config(), kTwo, 7); }

std::vector<SafetensorsEntry> entries_of(const std::filesystem::path& folder) {
  return SafetensorsFile::open(folder / "adapter_model.safetensors").entries();
}

void rewrite(const std::filesystem::path& folder, const std::vector<SafetensorsEntry>& entries) {
  write_safetensors(folder / "adapter_model.safetensors", entries, {{"format", "pt"}});
}

TEST(AdapterFiles, WritesGoldenAdaptersBackToTheByte) {
  for (const auto& [model, sizes] : kModels) {
    const auto modules = decoder_modules(sizes);
    for (const auto* run : {"qv-r8", "all-r4-rs"}) {
      for (const auto* side : {"adapter-start", "adapter-end"}) {
        const auto folder = kGolden / model / run / side;
        const auto adapter = load_adapter(folder, modules);
        const bool all = std::string_view(run) == "all-r4-rs";
        EXPECT_EQ(adapter.modules.size(), static_cast<std::size_t>(sizes.layers * (all ? 7 : 2)));
        EXPECT_EQ(adapter.modules.begin()->second.a.size(0), all ? 4 : 8);

        TempDir out;
        save_adapter(out / "saved", adapter);
        EXPECT_EQ(test::list(out / "saved"), "adapter_config.json adapter_model.safetensors");
        for (const auto* name : {"adapter_config.json", "adapter_model.safetensors"}) {
          EXPECT_TRUE(read_file(out / "saved" / name) == read_file(folder / name)) << folder << name;
        }
      }
    }
  }
}

TEST(AdapterFiles, KeepOtherFilesAndReplaceAnAdapter) {
  TempDir dir;
  write_file(dir / "metrics.jsonl", "{}\n");
  auto adapter = two_adapter();
  save_adapter(dir.path(), adapter);
  adapter.modules["a.x"].b = Tensor::full({4, 2}, 0.5, DType::f32);
  save_adapter(dir.path(), adapter);  // same config
  EXPECT_EQ(load_adapter(dir.path(), kTwo).modules.at("a.x").b.to_vector<float>(), std::vector<float>(8, 0.5F));
  adapter.config.alpha = 3;
  save_adapter(dir.path(), adapter);
  EXPECT_EQ(load_adapter(dir.path(), kTwo).config.alpha, 3);
  EXPECT_EQ(test::list(dir.path()), "adapter_config.json adapter_model.safetensors metrics.jsonl");
}

TEST(AdapterFiles, ReadOtherFloatingTypesAndTheNameDefault) {
  TempDir dir;
  auto adapter = two_adapter();
  const std::vector<float> values{1, -2, 0.5, 0, 3, -4, 8, 0.25};
  adapter.modules["a.x"].b = Tensor::from(values, {4, 2});
  save_adapter(dir.path(), adapter);
  for (const DType dtype : {DType::bf16, DType::f16, DType::f64}) {
    std::vector<SafetensorsEntry> entries;
    for (const auto& entry : entries_of(dir.path())) {
      auto name = entry.name;
      name.replace(name.find(".weight"), 7, ".default.weight");
      entries.push_back(make_entry(name, load_tensor(entry).to(dtype)));
    }
    TempDir other;
    std::filesystem::copy(dir / "adapter_config.json", other / "adapter_config.json");
    rewrite(other.path(), entries);
    const auto loaded = load_adapter(other.path(), kTwo);
    EXPECT_EQ(loaded.modules.at("a.x").b.to_vector<float>(), values);
    EXPECT_EQ(loaded.modules.at("a.x").a.to_vector<float>(),
              adapter.modules.at("a.x").a.to(dtype).to(DType::f32).to_vector<float>());
  }
  auto entries = entries_of(dir.path());
  entries.push_back(entries.front());
  entries.back().name.replace(entries.back().name.find(".weight"), 7, ".default.weight");
  rewrite(dir.path(), entries);
  expect_error(ErrorCode::format, "are the same tensor", [&] { load_adapter(dir.path(), kTwo); });
}

TEST(AdapterFiles, NameMissingAndUnexpectedTensors) {
  TempDir dir;
  save_adapter(dir.path(), two_adapter());
  const auto all = entries_of(dir.path());
  ASSERT_EQ(all.size(), 4U);

  auto some = all;
  some.erase(some.begin());
  rewrite(dir.path(), some);
  expect_error(ErrorCode::format,
               R"(1 key is missing: "base_model.model.a.x.lora_A.weight" (adapter_config.json promises 4 )"
               "tensors, the file has 3)",
               [&] { load_adapter(dir.path(), kTwo); });
  for (const std::string_view name :
       {"base_model.model.a.z.lora_A.weight", "a.x.lora_A.weight", "base_model.model.a.x.lora_A", "x",
        "base_model.model.a.x.lora_C.weight", "base_model.model.a.x.lora_magnitude_vector",
        "base_model.model.a.x.lora_B.bias", "base_model.model.lora_A.weight", ".lora_A.weight"}) {
    auto more = all;
    more.push_back(all.front());
    more.back().name = name;
    rewrite(dir.path(), more);
    expect_error(ErrorCode::format, fmt::format("1 key is unexpected: \"{}\" (", name),
                 [&] { load_adapter(dir.path(), kTwo); });
  }
  // Names of another model: all are missing and all are unexpected, of each no more than five are listed.
  std::vector<SafetensorsEntry> foreign;
  for (int i = 0; i < 10; ++i) {
    foreign.push_back(all.front());
    foreign.back().name = fmt::format("transformer.h.{}.lora_A.weight", i);
  }
  rewrite(dir.path(), foreign);
  expect_error(ErrorCode::format, "4 keys are missing: ", [&] { load_adapter(dir.path(), kTwo); });
  expect_error(ErrorCode::format, R"(; 10 keys are unexpected: "transformer.h.0.lora_A.weight", )",
               [&] { load_adapter(dir.path(), kTwo); });
  expect_error(ErrorCode::format, R"("transformer.h.4.lora_A.weight", ... ()", [&] { load_adapter(dir.path(), kTwo); });
  rewrite(dir.path(), {});
  expect_error(ErrorCode::format, "4 keys are missing", [&] { load_adapter(dir.path(), kTwo); });
}

TEST(AdapterFiles, RefuseOtherShapesAndTypes) {
  const std::string key = "base_model.model.a.x.lora_A.weight";
  const auto load_with = [&](const Tensor& a) {
    TempDir dir;
    save_adapter(dir.path(), two_adapter());
    auto entries = entries_of(dir.path());
    for (auto& entry : entries) {
      if (entry.name == key) entry = make_entry(key, a);
    }
    rewrite(dir.path(), entries);
    load_adapter(dir.path(), kTwo);
  };
  EXPECT_NO_THROW(load_with(Tensor::zeros({2, 6}, DType::f32)));
  for (const Shape& shape : {Shape{6, 2}, Shape{3, 6}, Shape{2, 5}, Shape{12}, Shape{2, 6, 1}, Shape{0, 6}, Shape{}}) {
    expect_error(
        ErrorCode::format,
        fmt::format("\"{}\" is {}, expected [2, 6] (rank 2, a layer from 6 to 4 features)", key, to_string(shape)),
        [&] { load_with(Tensor::zeros(shape, DType::f32)); });
  }
  expect_error(ErrorCode::unsupported, "is I32, expected F32, F16, BF16 or F64", [&] {
    load_with(Tensor::zeros({2, 6}, DType::i32));
  });
}

TEST(AdapterFiles, RefuseBrokenFolders) {
  TempDir dir;
  expect_error(ErrorCode::io, "adapter_config.json", [&] { load_adapter(dir / "nowhere", kTwo); });
  const std::string config = dump_lora_config(two_config());
  write_file(dir / "adapter_config.json", config);
  expect_error(ErrorCode::io, "adapter_model.safetensors", [&] { load_adapter(dir.path(), kTwo); });
  write_file(dir / "adapter_model.bin", "PK");
  expect_error(ErrorCode::unsupported, "adapter_model.bin", [&] { load_adapter(dir.path(), kTwo); });

  using namespace std::string_literals;
  for (const std::string& bytes : {""s, "\x08"s, "\xff\xff\xff\xff\xff\xff\xff\x7f{}"s, "\x02\0\0\0\0\0\0\0{}"s,
                                   std::string(64, '\xff'), "\x02\0\0\0\0\0\0\0[]"s}) {
    write_file(dir / "adapter_model.safetensors", bytes);
    EXPECT_THROW(load_adapter(dir.path(), kTwo), Error);
  }
  // A shape whose byte count does not fit 64 bits, and one that is far larger than the file.
  for (const std::string_view shape : {"[4294967296,4294967296]", "[2,1099511627776]", "[-2,6]"}) {
    std::string header = fmt::format(
        R"({{"base_model.model.a.x.lora_A.weight":{{"dtype":"F32","shape":{},"data_offsets":[0,48]}}}})", shape);
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::string file(8, '\0');
    const std::uint64_t size = header.size();
    std::memcpy(file.data(), &size, 8);
    write_file(dir / "adapter_model.safetensors", file + header + std::string(48, '\0'));
    EXPECT_THROW(load_adapter(dir.path(), kTwo), Error);
  }

  // What the configuration gets wrong is told with its path, as a broken file.
  const auto path = (dir / "adapter_config.json").string();
  write_file(path, "{");
  expect_error(ErrorCode::format, path + ": not valid JSON", [&] { load_adapter(dir.path(), kTwo); });
  write_file(path, R"({"peft_type": "LORA", "r": 0, "target_modules": ["x"]})");
  expect_error(ErrorCode::format, path + ": \"r\" is 0", [&] { load_adapter(dir.path(), kTwo); });
  write_file(path, R"({"peft_type": "LORA", "target_modules": ["z"]})");
  expect_error(ErrorCode::format, path + ": target_modules [\"z\"] selects none",
               [&] { load_adapter(dir.path(), kTwo); });
  write_file(path, R"({"peft_type": "LORA", "target_modules": "(([a-z.]*)*)*[!?]"})");
  const std::vector<ModuleInfo> long_name{{std::string(60, 'a'), 6, 4}};
  expect_error(ErrorCode::format, "takes too many steps", [&] { load_adapter(dir.path(), long_name); });
  write_file(path, "\xEF\xBB\xBF" + config);
  EXPECT_THROW(load_adapter(dir.path(), kTwo), Error);  // a byte-order mark is skipped, the weights are still broken
}

TEST(AdapterFiles, RefuseToSaveWhatWouldNotLoad) {
  TempDir dir;
  const auto refuses = [&](std::string_view part, const auto& change) {
    auto adapter = two_adapter();
    change(adapter);
    expect_error(ErrorCode::invalid_argument, part, [&] { save_adapter(dir / "out", adapter); });
    EXPECT_FALSE(std::filesystem::exists(dir / "out"));
  };
  refuses("expected rank 3", [](AdapterWeights& a) { a.config.rank = 3; });
  refuses("expected rank 2", [](AdapterWeights& a) { a.modules["a.x"].b = Tensor::zeros({4, 3}, DType::f32); });
  refuses("factors for \"a.y\", which", [](AdapterWeights& a) { a.config.target_modules = "a.x"; });
  refuses("factors for \"a.z\", which", [](AdapterWeights& a) { a.modules["a.z"] = a.modules["a.x"]; });
  refuses("must be matrices", [](AdapterWeights& a) { a.modules["a.x"].a = Tensor(); });
  refuses("must be matrices", [](AdapterWeights& a) { a.modules["a.x"].a = Tensor::zeros({12}, DType::f32); });
  refuses("selects none", [](AdapterWeights& a) { a.modules.clear(); });
  // In the file the patterns are sorted, so that another one wins.
  refuses("expected rank 4", [](AdapterWeights& a) { a.config.rank_pattern = {{"y", 2}, {"[xy]", 4}}; });
}

TEST(AdapterInit, IsKaimingUniformAndZero) {
  const auto modules = decoder_modules({2, 300, 300, 100, 700});
  LoraConfig config;
  config.target_modules = "all-linear";
  config.rank_pattern = {{"k_proj", 3}};
  const auto adapter = init_adapter(config, modules, 42);
  ASSERT_EQ(adapter.modules.size(), 14U);
  for (const auto& target : resolve_targets(config, modules)) {
    const auto& [a, b] = adapter.modules.at(target.name);
    EXPECT_EQ(a.shape(), (Shape{target.rank, target.in_features}));
    EXPECT_EQ(b.shape(), (Shape{target.out_features, target.rank}));
    for (const float value : b.to_vector<float>()) ASSERT_EQ(value, 0.0F);
    const double bound = 1 / std::sqrt(static_cast<double>(target.in_features));
    double sum = 0;
    double squares = 0;
    double largest = 0;
    for (const float value : a.to_vector<float>()) {
      sum += value;
      squares += static_cast<double>(value) * value;
      largest = std::max(largest, std::abs(static_cast<double>(value)));
    }
    const auto count = static_cast<double>(a.numel());
    EXPECT_LE(largest, bound * (1 + 1e-6));
    EXPECT_GT(largest, 0.98 * bound);
    EXPECT_NEAR(sum / count, 0, 0.1 * bound);
    EXPECT_NEAR(squares / count, bound * bound / 3, 0.05 * bound * bound);
  }

  const auto bytes = [](const AdapterWeights& weights, const std::string& name) {
    return weights.modules.at(name).a.to_vector<float>();
  };
  const std::string q0 = "model.layers.0.self_attn.q_proj";
  const std::string q1 = "model.layers.1.self_attn.q_proj";
  EXPECT_EQ(bytes(adapter, q0), bytes(init_adapter(config, modules, 42), q0));
  EXPECT_NE(bytes(adapter, q0), bytes(init_adapter(config, modules, 43), q0));
  EXPECT_NE(bytes(adapter, q0), bytes(adapter, q1));
}

TEST(AdapterInit, RefusesLayersWithoutFeatures) {
  const std::vector<ModuleInfo> modules{{"a.x", 0, 4}};
  expect_error(ErrorCode::invalid_argument, "a.x has 0 in", [&] { init_adapter(two_config(), modules, 1); });
}

}  // namespace
}  // namespace wick
