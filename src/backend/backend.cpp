#include "backend/backend.h"

#include <charconv>

#include "core/fail.h"

namespace wick {

Backend& backend(Device device) {
  Backend* found = device.type == DeviceType::cuda ? cuda_backend() : nullptr;
  if (found == nullptr) {
    fail(ErrorCode::unsupported, "device {} is not built into this program", to_string(device));
  }
  return *found;
}

Device device_from_string(std::string_view name) {
  if (name == "cpu") return Device::cpu();
  constexpr Device kFirstCuda{DeviceType::cuda, 0};
  if (name == "auto") {
    const Backend* cuda = cuda_backend();
    return cuda != nullptr && cuda->missing(kFirstCuda).empty() ? kFirstCuda : Device::cpu();
  }
  Device device = kFirstCuda;
  const std::string_view kind = name.substr(0, name.find(':'));
  if (kind != "cuda")
    fail(ErrorCode::unsupported, "device '{}' is not supported (auto, cpu, cuda, cuda:1, ... are)", name);
  if (kind.size() < name.size()) {
    const std::string_view digits = name.substr(kind.size() + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), device.index);
    if (error != std::errc() || end != digits.data() + digits.size() || device.index < 0) {
      fail(ErrorCode::unsupported, "device '{}' has no number behind the colon", name);
    }
  }
  if (const std::string reason = backend(device).missing(device); !reason.empty()) {
    fail(ErrorCode::unsupported, "device {} is not here: {}", to_string(device), reason);
  }
  return device;
}

}  // namespace wick
