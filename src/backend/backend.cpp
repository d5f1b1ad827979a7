#include "backend/backend.h"

#include "core/fail.h"

namespace wick {

Backend& backend(Device device) {
  Backend* found = device.type == DeviceType::cuda ? cuda_backend() : nullptr;
  if (found == nullptr) {
    fail(ErrorCode::unsupported, "device {} is not built into this program", to_string(device));
  }
  return *found;
}

}  // namespace wick
