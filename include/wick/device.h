#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace wick {

enum class DeviceType : std::uint8_t { cpu, cuda, metal };
inline constexpr std::size_t kDeviceTypes = 3;

std::string_view to_string(DeviceType type) noexcept;  ///< "cpu", "cuda", "metal"

/// Where a tensor lives and where an op on it runs.
struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  static constexpr Device cpu() { return {}; }
  bool operator==(const Device&) const = default;
};

std::string to_string(Device device);  ///< "cpu", "cuda:0"
/// "cpu", "cuda", "cuda:1", or "auto": CUDA where this program and machine have it, else the CPU. Error(unsupported)
/// for any other name, or for a device that is not here, saying why.
Device device_from_string(std::string_view name);

/// Bytes held by tensors on a device, now and at most since reset_peak_memory().
struct MemoryStats {
  std::size_t current = 0;
  std::size_t peak = 0;
};
MemoryStats memory_stats(Device device = Device::cpu());
void reset_peak_memory(Device device = Device::cpu());

}  // namespace wick
