#include "train/checkpoint.h"

#include <string>

#include "core/fail.h"
#include "wick/safetensors.h"

namespace wick {
namespace {

constexpr const char* kFormat = "wick-checkpoint-2";

}  // namespace

void save_checkpoint(const std::filesystem::path& file, const Checkpoint& c) {
  const auto number = [](const std::optional<double>& value) { return value ? Json(*value) : Json(); };
  const Json state = {{"step", c.step},
                      {"epoch", c.cursor.epoch},
                      {"index", c.cursor.index},
                      {"total_trained_tokens", c.total_trained_tokens},
                      {"first_val_loss", number(c.first_val_loss)},
                      {"last_val_loss", number(c.last_val_loss)},
                      {"best_val_loss", number(c.best_val_loss)},
                      {"first_val_recall_at_1", number(c.first_val_recall_at_1)},
                      {"last_val_recall_at_1", number(c.last_val_recall_at_1)},
                      {"best_step", c.best_step},
                      {"evaluations_without_gain", c.evaluations_without_gain},
                      {"options", c.options}};
  const auto entry = [](const char* name, const Tensor& t) { return make_entry(name, t.to(Device::cpu())); };
  const SafetensorsEntry entries[] = {entry("values", c.values), entry("exp_avg", c.exp_avg),
                                      entry("exp_avg_sq", c.exp_avg_sq)};
  write_safetensors(file, entries, {{"format", kFormat}, {"state", dump_json_line(state)}});
}

Checkpoint load_checkpoint(const std::filesystem::path& file, std::int64_t parameters) {
  const SafetensorsFile source = SafetensorsFile::open(file);
  const auto format = source.metadata().find("format");
  const auto text = source.metadata().find("state");
  if (format == source.metadata().end() || format->second != kFormat || text == source.metadata().end()) {
    fail(ErrorCode::format, "{} is not a checkpoint of this program", file.string());
  }
  const std::string where = file.string() + ": state";
  const Json state = parse_json(text->second, where);
  Checkpoint c;
  c.step = get<std::int64_t>(state, "step", where);
  c.cursor = {get<std::int64_t>(state, "epoch", where), get<std::int64_t>(state, "index", where)};
  c.total_trained_tokens = get<std::int64_t>(state, "total_trained_tokens", where);
  c.first_val_loss = get_optional<double>(state, "first_val_loss", where);
  c.last_val_loss = get_optional<double>(state, "last_val_loss", where);
  c.best_val_loss = get_optional<double>(state, "best_val_loss", where);
  c.first_val_recall_at_1 = get_optional<double>(state, "first_val_recall_at_1", where);
  c.last_val_recall_at_1 = get_optional<double>(state, "last_val_recall_at_1", where);
  c.best_step = get<std::int64_t>(state, "best_step", where);
  c.evaluations_without_gain = get<std::int64_t>(state, "evaluations_without_gain", where);
  c.options = get<Json>(state, "options", where);
  if (c.step < 0) fail(ErrorCode::format, "{}: step is {}", where, c.step);
  const auto take = [&](const char* name) {
    const SafetensorsEntry* entry = source.find(name);
    if (entry == nullptr) fail(ErrorCode::format, "{} has no tensor {}", file.string(), name);
    const Tensor t = load_tensor(*entry);
    if (t.dtype() != DType::f32 || t.shape() != Shape{parameters}) {
      fail(ErrorCode::format, "{}: tensor {} is {}, this adapter needs f32 [{}]", file.string(), name, describe(t),
           parameters);
    }
    return t.clone();
  };
  c.values = take("values");
  c.exp_avg = take("exp_avg");
  c.exp_avg_sq = take("exp_avg_sq");
  return c;
}

}  // namespace wick
