#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "wick/device.h"
#include "wick/dtype.h"

namespace wick {

/// One run of a kernel, of a library's product or of a copy. On the CPU records may contain one another: an op its
/// products.
struct KernelRecord {
  std::string name;
  double start_us = 0;  ///< since the first record's start
  double duration_us = 0;
  double bytes = 0;  ///< it had to move; 0: not known
  double flops = 0;  ///< it had to do; 0: none, or not known
};

/// Records the work that the calling thread gives to a device, from construction to stop(): by events on the device's
/// stream, or on the CPU by the clock. Events keep kernels apart that would overlap, and the time of a kernel that the
/// device had to wait for includes its launch, some microseconds. A recording that is made while the profile is under
/// way has events of its own, which see no launches; one that was made before is a single record.
class Profile {
 public:
  /// Waits for the device first. Error(invalid_argument) if this thread has a profile under way.
  explicit Profile(Device device);
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  /// Waits for the device; the records in the order of their starts. On the thread that made the profile, once.
  std::vector<KernelRecord> stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What a device can do at most.
struct Ceilings {
  double bytes_per_second = 0;
  double flops_per_second = 0;
};
/// Measured in well under a second: a large copy (bytes read and written), a large product in `dtype`.
Ceilings measure_ceilings(Device device, DType dtype);

/// A table with a row for each kernel, most time first: calls, total and mean time, share of the time from the first
/// record's start to the last one's end, achieved GB/s and TFLOP/s, and the share of the ceiling: the time that its
/// bytes or flops, whichever takes longer, need at the ceiling, of the time that it took. Time within a record that
/// other records fill is theirs. Kernels with under 0.1 % share a row. Then the sum, and the time between records, in
/// which the device waited for the host.
std::string profile_table(std::span<const KernelRecord> records, const Ceilings& ceilings);

/// A timeline in the Trace Event Format (JSON) that Perfetto (ui.perfetto.dev) and chrome://tracing open; `process`
/// names what was profiled. Replaces the file as a whole. Error(io).
void write_chrome_trace(const std::filesystem::path& path, std::span<const KernelRecord> records,
                        const Ceilings& ceilings, const std::string& process);

}  // namespace wick
