#include "backend/cuda/cudnn.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>

#include "backend/cuda/held_memory.h"
#include "backend/cuda/libraries.h"
#include "backend/cuda/runtime.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

// 9.10.0 and 9.10.1 compute wrong attention; before 9.10 masks want another lowest score.

struct Loaded {
  CudnnApi api;
  std::string absent;  // "" when the library is usable
};

Loaded load() {
  Loaded result;
  std::string reason;
  void* library = open_library({"libcudnn.so.9"}, reason);
  if (library == nullptr) {
    result.absent = fmt::format("cuDNN 9 is missing: {}", reason);
    return result;
  }
  // Kept open: a library with threads and device state of its own is not safely closed.
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr && result.absent.empty()) result.absent = fmt::format("libcudnn.so.9 has no {}", name);
  };
  CudnnApi& api = result.api;
  decltype(&cudnnGetVersion) version = nullptr;
  find(version, "cudnnGetVersion");
  find(api.create, "cudnnCreate");
  find(api.destroy, "cudnnDestroy");
  find(api.set_stream, "cudnnSetStream");
  find(api.error_string, "cudnnGetErrorString");
  find(api.last_error_string, "cudnnGetLastErrorString");
  find(api.create_descriptor, "cudnnBackendCreateDescriptor");
  find(api.destroy_descriptor, "cudnnBackendDestroyDescriptor");
  find(api.set_attribute, "cudnnBackendSetAttribute");
  find(api.get_attribute, "cudnnBackendGetAttribute");
  find(api.finalize, "cudnnBackendFinalize");
  find(api.execute, "cudnnBackendExecute");
  if (!result.absent.empty()) return result;
  api.version = version();
  if (api.version < kOldestCudnn) {
    result.absent = fmt::format("cuDNN is version {}, 9.10.2 or newer is needed", api.version);
  }
  return result;
}

const Loaded& loaded() {
  static const Loaded result = load();
  return result;
}

// cuDNN's explanation of the last failure on this thread, on one line; reading it clears it.
std::string last_error() {
  std::array<char, 1024> text{};
  cudnn().last_error_string(text.data(), text.size());
  std::string line(text.data());
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

}  // namespace

const char* cudnn_absent() { return loaded().absent.empty() ? nullptr : loaded().absent.c_str(); }

const CudnnApi& cudnn() {
  if (const char* reason = cudnn_absent(); reason != nullptr) fail(ErrorCode::device, "{}", reason);
  return loaded().api;
}

void check_cudnn(cudnnStatus_t status, std::string_view what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  const std::string said =
      fmt::format("cuDNN {}: {}: {}: {}", cudnn().version, what, cudnn().error_string(status), last_error());
  // No answer to keep: with more memory it would be another.
  if (status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ||
      status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED) {
    fail(ErrorCode::out_of_memory, "{}; cuda:{}: {}", said, current_device(), memory_text(current_device()));
  }
  throw CudnnRefusal(said);
}

Descriptor::Descriptor(cudnnBackendDescriptorType_t type, std::string what) : what_(std::move(what)) {
  check_cudnn(cudnn().create_descriptor(type, &handle_), what_);
}

Descriptor::~Descriptor() {
  if (handle_ != nullptr) (void)cudnn().destroy_descriptor(handle_);
}

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
                     const void* values) {
  const cudnnStatus_t status = cudnn().set_attribute(handle_, name, type, count, values);
  if (status != CUDNN_STATUS_SUCCESS) {
    check_cudnn(status, fmt::format("{}: setting attribute {}", what_, static_cast<int>(name)));
  }
}

void Descriptor::set(cudnnBackendAttributeName_t name, const std::vector<Descriptor>& values) {
  std::vector<cudnnBackendDescriptor_t> handles;
  for (const Descriptor& value : values) handles.push_back(value.handle());
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<std::int64_t>(handles.size()), handles.data());
}

void Descriptor::finalize() {
  const cudnnStatus_t status = cudnn().finalize(handle_);
  if (status != CUDNN_STATUS_SUCCESS) check_cudnn(status, fmt::format("{}: finalizing", what_));
}

std::int64_t Descriptor::get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t room,
                             void* values) const {
  std::int64_t count = 0;
  const cudnnStatus_t status = cudnn().get_attribute(handle_, name, type, room, &count, values);
  if (status != CUDNN_STATUS_SUCCESS) {
    check_cudnn(status, fmt::format("{}: reading attribute {}", what_, static_cast<int>(name)));
  }
  return count;
}

CudnnDevice::CudnnDevice() {
  int device = 0;
  int major = 0;
  int minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    fail(ErrorCode::device, "cuDNN: no current CUDA device: {}", cudaGetErrorString(cudaGetLastError()));
  }
  capability_ = major * 10 + minor;
  check_cudnn(cudnn().create(&handle_), "making a handle");
}

CudnnDevice::~CudnnDevice() {
  if (handle_ != nullptr) (void)cudnn().destroy(handle_);
}

void CudnnDevice::bind_graph(Descriptor& graph) const {
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle_);
}

void CudnnDevice::bind_plan(Descriptor& plan) const {
  // Deprecated in favour of device properties, and what every release of cuDNN 9 takes. The header has no other name.
  constexpr auto kPlanHandle = static_cast<cudnnBackendAttributeName_t>(400);
  plan.set(kPlanHandle, CUDNN_TYPE_HANDLE, 1, &handle_);
}

void CudnnDevice::execute(const Descriptor& plan, const Descriptor& pack, cudaStream_t stream) {
  const std::scoped_lock lock(mutex_);
  if (stream != stream_) {
    check_cudnn(cudnn().set_stream(handle_, stream), "choosing a stream");
    stream_ = stream;
  }
  check_cudnn(cudnn().execute(handle_, plan.handle(), pack.handle()), "running a plan");
}

}  // namespace wick::cuda
