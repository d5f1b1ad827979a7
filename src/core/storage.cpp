#include <atomic>
#include <cstdlib>
#include <new>
#include <utility>

#include "backend/backend.h"
#include "core/fail.h"
#include "wick/tensor.h"

namespace wick {
namespace {

constexpr std::size_t kAlignment = 64;

// One pair of counters a device type.
struct Counters {
  std::atomic<std::size_t> current{0};
  std::atomic<std::size_t> peak{0};

  void add(std::size_t bytes) {
    const std::size_t now = current.fetch_add(bytes) + bytes;
    std::size_t seen = peak.load();
    while (now > seen && !peak.compare_exchange_weak(seen, now)) {
    }
  }
};
Counters& counters(Device device) {
  static Counters all[kDeviceTypes];
  return all[static_cast<std::size_t>(device.type)];
}

}  // namespace

std::string_view to_string(DeviceType type) noexcept {
  switch (type) {
    case DeviceType::cpu:
      return "cpu";
    case DeviceType::cuda:
      return "cuda";
    case DeviceType::metal:
      return "metal";
  }
  return "?";
}

std::string to_string(Device device) {
  if (device.type == DeviceType::cpu) return "cpu";
  return fmt::format("{}:{}", to_string(device.type), device.index);
}

MemoryStats memory_stats(Device device) { return {counters(device).current.load(), counters(device).peak.load()}; }

void reset_peak_memory(Device device) { counters(device).peak.store(counters(device).current.load()); }

Storage::Storage(std::byte* data, std::size_t bytes, Device device, std::shared_ptr<const void> owner, bool writable)
    : data_(data), bytes_(bytes), device_(device), owner_(std::move(owner)), writable_(writable) {}

std::shared_ptr<Storage> Storage::allocate(std::size_t bytes, Device device) {
  if (device.type != DeviceType::cpu) {
    const Backend::Block block = backend(device).allocate(bytes, device);
    const std::shared_ptr<Storage> storage(new Storage(block.data, bytes, device, nullptr, true));
    storage->allocated_ = true;
    storage->handle_ = block.handle;
    counters(device).add(bytes);
    return storage;
  }
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded == 0 ? kAlignment : rounded));
  if (data == nullptr) {
    fail(ErrorCode::out_of_memory, "cannot allocate {} bytes on the {} ({} bytes are in use)", bytes, to_string(device),
         memory_stats(device).current);
  }
  counters(device).add(bytes);
  const std::shared_ptr<Storage> storage(new Storage(data, bytes, device, nullptr, true));
  storage->allocated_ = true;
  return storage;
}

std::shared_ptr<Storage> Storage::wrap(std::byte* data, std::size_t bytes, std::shared_ptr<const void> owner,
                                       bool writable, Device device) {
  return std::shared_ptr<Storage>(new Storage(data, bytes, device, std::move(owner), writable));
}

Storage::~Storage() {
  if (!allocated_) return;
  counters(device_).current.fetch_sub(bytes_);
  if (device_.type == DeviceType::cpu) {
    std::free(data_);
  } else {
    backend(device_).release({data_, handle_}, device_);
  }
}

}  // namespace wick
