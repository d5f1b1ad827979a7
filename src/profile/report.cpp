#include <algorithm>
#include <map>

#include "core/fail.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "wick/profile.h"

namespace wick {
namespace {

constexpr double kLeastShare = 0.001;  // what takes less has no row of its own

// A row of the table.
struct Row {
  std::string name;
  std::int64_t calls = 0;
  double us = 0;  // without what lies in records within
  double bytes = 0;
  double flops = 0;
  double least_us = 0;  // at the ceiling

  void add(const Row& other) {
    calls += other.calls;
    us += other.us;
    bytes += other.bytes;
    flops += other.flops;
    least_us += other.least_us;
  }
};

// The time that a record's work takes at the ceiling; 0 where nothing is known of it.
double least_us(const KernelRecord& record, const Ceilings& ceilings) {
  double us = 0;
  if (ceilings.bytes_per_second > 0) us = 1e6 * record.bytes / ceilings.bytes_per_second;
  if (ceilings.flops_per_second > 0) us = std::max(us, 1e6 * record.flops / ceilings.flops_per_second);
  return us;
}

double end_of(const KernelRecord& record) { return record.start_us + record.duration_us; }

// Each record's time without that of the records directly within it.
std::vector<double> own_times(std::span<const KernelRecord> records) {
  std::vector<double> own;
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const KernelRecord& record = records[i];
    own.push_back(record.duration_us);
    while (!open.empty() && end_of(records[open.back()]) <= record.start_us) open.pop_back();
    if (!open.empty() && end_of(record) <= end_of(records[open.back()])) own[open.back()] -= record.duration_us;
    open.push_back(i);
  }
  return own;
}

std::string rate(double amount, double us, double unit) {
  if (amount <= 0 || us <= 0) return "-";
  const double value = amount / us * 1e6 / unit;
  return value >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.{}f}", value, value >= 1 ? 1 : 3);
}
std::string percent(double part, double whole) {
  return part > 0 && whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : "-";
}

}  // namespace

std::string profile_table(std::span<const KernelRecord> records, const Ceilings& ceilings) {
  std::map<std::string, Row> by_name;
  Row all{.name = "all kernels"};
  double wall = 0;
  const std::vector<double> own = own_times(records);
  for (std::size_t i = 0; i < records.size(); ++i) {
    const KernelRecord& record = records[i];
    const Row row{record.name, 1, own[i], record.bytes, record.flops, least_us(record, ceilings)};
    by_name.try_emplace(record.name, Row{.name = record.name}).first->second.add(row);
    all.add(row);
    wall = std::max(wall, end_of(record) - records.front().start_us);
  }
  std::vector<Row> rows;
  Row small;
  std::size_t small_names = 0;
  for (const auto& [name, row] : by_name) {
    if (row.us >= kLeastShare * wall) {
      rows.push_back(row);
    } else {
      small.add(row);
      small_names += 1;
    }
  }
  std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.us > b.us; });
  if (small_names > 0) {
    small.name = fmt::format("{} with under {} % each", small_names, 100 * kLeastShare);
    rows.push_back(small);
  }
  rows.push_back(all);
  std::size_t width = 24;
  for (const Row& row : rows) width = std::max(width, row.name.size());
  std::string text = fmt::format("{:<{}} {:>7} {:>11} {:>10} {:>8} {:>9} {:>9} {:>10}\n", "kernel", width, "calls",
                                 "total ms", "mean us", "share", "GB/s", "TFLOP/s", "of ceiling");
  for (const Row& row : rows) {
    if (&row == &rows.back()) text += std::string(width + 72, '-') + "\n";
    text +=
        fmt::format("{:<{}} {:>7} {:>11.3f} {:>10.2f} {:>8} {:>9} {:>9} {:>10}\n", row.name, width, row.calls,
                    row.us / 1e3, row.calls > 0 ? row.us / static_cast<double>(row.calls) : 0.0, percent(row.us, wall),
                    rate(row.bytes, row.us, 1e9), rate(row.flops, row.us, 1e12), percent(row.least_us, row.us));
  }
  const double between = std::max(0.0, wall - all.us);
  text += fmt::format("{:<{}} {:>7} {:>11.3f} {:>10} {:>8}\n", "between kernels", width, "", between / 1e3, "",
                      percent(between, wall));
  text += fmt::format("{:<{}} {:>7} {:>11.3f}\n", "first to last", width, "", wall / 1e3);
  text += fmt::format("ceilings measured here: {} GB/s (a copy), {} TFLOP/s (a product)\n",
                      rate(ceilings.bytes_per_second, 1e6, 1e9), rate(ceilings.flops_per_second, 1e6, 1e12));
  return text;
}

void write_chrome_trace(const std::filesystem::path& path, std::span<const KernelRecord> records,
                        const Ceilings& ceilings, const std::string& process) {
  const auto named = [](const char* what, const std::string& name) {
    return Json{{"ph", "M"}, {"name", what}, {"pid", 1}, {"tid", 1}, {"ts", 0}, {"args", {{"name", name}}}};
  };
  AtomicFile file(path);
  file.write("{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n");
  file.write(dump_json_line(named("process_name", process)) + ",\n");
  file.write(dump_json_line(named("thread_name", "kernels")));
  for (const KernelRecord& record : records) {
    Json args = Json::object();
    if (record.bytes > 0) {
      args["bytes"] = record.bytes;
      if (record.duration_us > 0) args["GB/s"] = record.bytes / record.duration_us / 1e3;
    }
    if (record.flops > 0) {
      args["flops"] = record.flops;
      if (record.duration_us > 0) args["TFLOP/s"] = record.flops / record.duration_us / 1e6;
    }
    const double least = least_us(record, ceilings);
    if (least > 0 && record.duration_us > 0) args["of ceiling, %"] = 100 * least / record.duration_us;
    file.write(",\n" + dump_json_line({{"ph", "X"},
                                       {"cat", "kernel"},
                                       {"name", record.name},
                                       {"ts", record.start_us},
                                       {"dur", record.duration_us},
                                       {"pid", 1},
                                       {"tid", 1},
                                       {"args", std::move(args)}}));
  }
  file.write("\n]}\n");
  file.commit();
}

}  // namespace wick
