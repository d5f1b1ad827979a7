#include "train/metrics.h"

#include <fcntl.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/fail.h"
#include "io/atomic_file.h"
#include "io/jsonl.h"

namespace wick {
namespace {

void put(Json& object, const char* key, const std::optional<double>& value) {
  if (value && std::isfinite(*value)) object[key] = *value;
}

Metrics parse(std::string_view line, std::string_view where) {
  const Json object = parse_json(line, where);
  Metrics metrics;
  metrics.step = get<std::int64_t>(object, "step", where);
  metrics.loss = get_optional<double>(object, "loss", where);
  metrics.lr = get_optional<double>(object, "lr", where);
  metrics.grad_norm = get_optional<double>(object, "grad_norm", where);
  metrics.tokens_per_second = get_optional<double>(object, "tokens_per_second", where);
  metrics.trained_tokens = get_or<std::int64_t>(object, "trained_tokens", 0, where);
  metrics.peak_memory_bytes = get_or<std::int64_t>(object, "peak_memory_bytes", 0, where);
  metrics.val_loss = get_optional<double>(object, "val_loss", where);
  metrics.val_recall_at_1 = get_optional<double>(object, "val_recall_at_1", where);
  return metrics;
}

// Calls use(line, record) for each line of the file but a last one that is cut off.
template <class Use>
void for_each_record(const std::filesystem::path& path, const Use& use) {
  LineReader lines(path);
  while (const auto text = lines.next()) {
    const std::string line(*text);
    const std::string where = lines.where();
    std::optional<Metrics> metrics;
    try {
      metrics = parse(line, where);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::format && !line.ends_with('}') && !lines.next()) return;
      throw;
    }
    use(line, *metrics);
  }
}

}  // namespace

std::string metrics_line(const Metrics& metrics) {
  Json object = {{"step", metrics.step},
                 {"trained_tokens", metrics.trained_tokens},
                 {"peak_memory_bytes", metrics.peak_memory_bytes}};
  put(object, "loss", metrics.loss);
  put(object, "lr", metrics.lr);
  put(object, "grad_norm", metrics.grad_norm);
  put(object, "tokens_per_second", metrics.tokens_per_second);
  put(object, "val_loss", metrics.val_loss);
  put(object, "val_recall_at_1", metrics.val_recall_at_1);
  return dump_json_line(object);
}

std::vector<Metrics> read_metrics(const std::filesystem::path& path) {
  std::vector<Metrics> records;
  for_each_record(path, [&](const std::string&, const Metrics& metrics) { records.push_back(metrics); });
  return records;
}

MetricsWriter::MetricsWriter(const std::filesystem::path& path)
    : path_(path.string()), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (!fd_) fail(ErrorCode::io, "{}: cannot open: {}", path_, std::strerror(errno));
}

MetricsWriter MetricsWriter::create(const std::filesystem::path& path) {
  write_file_atomically(path, "");
  return MetricsWriter(path);
}

MetricsWriter MetricsWriter::resume(const std::filesystem::path& path, std::int64_t step) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return create(path);
  std::string kept;
  for_each_record(path, [&](const std::string& line, const Metrics& metrics) {
    if (metrics.step <= step) kept += line + '\n';
  });
  write_file_atomically(path, kept);
  return MetricsWriter(path);
}

void MetricsWriter::write(const Metrics& metrics) {
  const std::string line = metrics_line(metrics) + '\n';
  std::string_view rest = line;
  while (!rest.empty()) {
    const ::ssize_t count = ::write(fd_.get(), rest.data(), rest.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      fail(ErrorCode::io, "{}: cannot write: {}", path_, std::strerror(errno));
    }
    rest.remove_prefix(static_cast<std::size_t>(count));
  }
}

}  // namespace wick
