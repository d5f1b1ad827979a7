#include "backend/cuda/runtime.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <string_view>

#include "backend/cuda/held_memory.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

thread_local int current = -1;  // none chosen yet

struct Discovered {
  std::vector<DeviceInfo> devices;
  std::string reason;
};

// CUDA's own words are the same for no driver and for an old one.
std::string why_no_devices(cudaError_t status) {
  int newest = 0;  // that the driver knows: 12040 for CUDA 12.4, 0 without a driver
  if (status != cudaErrorInsufficientDriver || cudaDriverGetVersion(&newest) != cudaSuccess) {
    return status == cudaSuccess ? "no CUDA device" : cudaGetErrorString(status);
  }
  if (newest == 0) return "no NVIDIA driver";
  return fmt::format("the NVIDIA driver is for CUDA {}.{} at most, this program needs one for CUDA {}.{}",
                     newest / 1000, newest % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

const Discovered& discovered() {
  static const Discovered found = [] {
    Discovered result;
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
      result.reason = why_no_devices(status);
      (void)cudaGetLastError();
      return result;
    }
    for (int i = 0; i < count; ++i) {
      cudaDeviceProp p = {};
      if (const cudaError_t failure = cudaGetDeviceProperties(&p, i); failure != cudaSuccess) {
        result.devices.push_back({.name = "unknown", .unusable = cudaGetErrorString(failure)});
        (void)cudaGetLastError();
        continue;
      }
      int shared = 0;
      if (cudaDeviceGetAttribute(&shared, cudaDevAttrMpsEnabled, i) != cudaSuccess) (void)cudaGetLastError();
      result.devices.push_back({.name = p.name,
                                .major = p.major,
                                .minor = p.minor,
                                .multiprocessors = p.multiProcessorCount,
                                .memory_bytes = p.totalGlobalMem,
                                .shared_bytes = p.sharedMemPerBlockOptin,
                                .l2_bytes = static_cast<std::size_t>(p.l2CacheSize),
                                .shared = shared != 0,
                                .unusable = ""});
    }
    return result;
  }();
  return found;
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const cudaError_t sticky = cudaGetLastError();  // clears what can be cleared
  (void)sticky;
  const std::string said =
      fmt::format("[cuda] {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
  if (status == cudaErrorMemoryAllocation) {
    fail(ErrorCode::out_of_memory, "{}; cuda:{}: {}", said, current_device(), memory_text(current_device()));
  }
  fail(ErrorCode::device, "{}", said);
}

const std::vector<DeviceInfo>& devices() { return discovered().devices; }
const std::string& no_device_reason() { return discovered().reason; }

const DeviceInfo& info(int index) {
  if (index < 0 || static_cast<std::size_t>(index) >= devices().size()) {
    fail(ErrorCode::device, "device cuda:{} is not here: {}", index,
         devices().empty() ? no_device_reason() : fmt::format("there are {}", devices().size()));
  }
  return devices()[static_cast<std::size_t>(index)];
}

std::string no_code_reason(int index) {
  int before = 0;
  if (cudaGetDevice(&before) != cudaSuccess || cudaSetDevice(index) != cudaSuccess) {
    (void)cudaGetLastError();  // it is said when the device is used
    return "";
  }
  int compiled_for = 0;
  const cudaError_t status = find_kernel(compiled_for);
  (void)cudaGetLastError();
  (void)cudaSetDevice(before);
  const DeviceInfo& device = info(index);
  // From 9.0 on kernels are launched as clusters, and before the one ahead has ended: older code knows neither.
  if (status == cudaSuccess && device.major >= 9 && compiled_for < 90) {
    return fmt::format("this program was compiled for compute capability {}.{}, not for {}.{}", compiled_for / 10,
                       compiled_for % 10, device.major, device.minor);
  }
  switch (status) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidKernelImage:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
      return fmt::format("this program has no code for compute capability {}.{} ({})", device.major, device.minor,
                         cudaGetErrorString(status));
    default:
      return "";
  }
}

int current_device() { return current < 0 ? 0 : current; }

cudaStream_t stream(int index) {
  static std::mutex mutex;
  static std::array<cudaStream_t, 64> streams{};
  (void)info(index);
  if (index >= static_cast<int>(streams.size())) fail(ErrorCode::device, "device cuda:{} is too many", index);
  const std::scoped_lock lock(mutex);
  if (current != index) {
    check(cudaSetDevice(index), "choosing the device");
    current = index;
  }
  cudaStream_t& found = streams[static_cast<std::size_t>(index)];
  if (found == nullptr) check(cudaStreamCreateWithFlags(&found, cudaStreamNonBlocking), "making a stream");
  return found;
}

bool capturing(int index) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream(index), &status), "asking for a capture");
  return status != cudaStreamCaptureStatusNone;
}

bool libraries_wanted() {
  static const bool wanted = [] {
    const char* const value = std::getenv("WICK_LIBRARIES");
    return value == nullptr || std::string_view(value) != "off";
  }();
  return wanted;
}

namespace {

std::string_view racecheck() {
  static const std::string_view value = [] {
    const char* const found = std::getenv("WICK_RACECHECK");
    return found == nullptr ? std::string_view() : std::string_view(found);
  }();
  return value;
}

}  // namespace

bool under_racecheck() { return racecheck() == "on" || racecheck() == "no-clusters"; }

unsigned largest_cluster() {
  if (!under_racecheck()) return kMaxCluster;
  return racecheck() == "on" ? 2 : 1;
}

void* open_library(std::initializer_list<const char*> names, std::string& reason) {
  if (!libraries_wanted()) {
    reason = "WICK_LIBRARIES=off";
    return nullptr;
  }
  for (const char* name : names) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    if (const char* error = dlerror(); error != nullptr && reason.empty()) reason = error;
  }
  return nullptr;
}

void* symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr) fail(ErrorCode::device, "[cuda] a library has no function {}", name);
  return found;
}

}  // namespace wick::cuda
