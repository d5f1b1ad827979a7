#pragma once

#include <cuda_runtime_api.h>
#include <cudnn_graph.h>  // types and values; the functions are found at run time

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace wick::cuda {

/// The functions of libcudnn that are used here.
struct CudnnApi {
  std::size_t version = 0;  ///< major * 10000 + minor * 100 + patch
  decltype(&cudnnCreate) create = nullptr;
  decltype(&cudnnDestroy) destroy = nullptr;
  decltype(&cudnnSetStream) set_stream = nullptr;
  decltype(&cudnnGetErrorString) error_string = nullptr;
  decltype(&cudnnGetLastErrorString) last_error_string = nullptr;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&cudnnBackendFinalize) finalize = nullptr;
  decltype(&cudnnBackendExecute) execute = nullptr;
};

/// Why cuDNN cannot be used: not installed, older than 9.10.2, a function missing. Null when it can; opens it once.
const char* cudnn_absent();
/// Error(device) with cudnn_absent()'s words when there is none.
const CudnnApi& cudnn();

/// cuDNN said no: what was asked for, the status and cuDNN's own last message, in one line.
class CudnnRefusal : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
/// Throws CudnnRefusal, or Error(out_of_memory) with the numbers, unless `status` is success.
void check_cudnn(cudnnStatus_t status, std::string_view what);

/// A backend descriptor. Every failure throws CudnnRefusal naming `what` and the attribute.
class Descriptor {
 public:
  Descriptor(cudnnBackendDescriptorType_t type, std::string what);
  ~Descriptor();
  Descriptor(Descriptor&& from) noexcept
      : what_(std::move(from.what_)), handle_(std::exchange(from.handle_, nullptr)) {}
  Descriptor& operator=(Descriptor&&) = delete;

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count, const void* values);
  void set(cudnnBackendAttributeName_t name, std::span<const std::int64_t> values) {
    set(name, CUDNN_TYPE_INT64, static_cast<std::int64_t>(values.size()), values.data());
  }
  void set(cudnnBackendAttributeName_t name, std::int64_t value) { set(name, CUDNN_TYPE_INT64, 1, &value); }
  void set(cudnnBackendAttributeName_t name, bool value) { set(name, CUDNN_TYPE_BOOLEAN, 1, &value); }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value) { set(name, CUDNN_TYPE_DATA_TYPE, 1, &value); }
  void set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.handle_);
  }
  void set(cudnnBackendAttributeName_t name, const std::vector<Descriptor>& values);
  void finalize();

  /// Up to `room` elements into `values`; how many there are.
  std::int64_t get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t room,
                   void* values) const;

  cudnnBackendDescriptor_t handle() const { return handle_; }

 private:
  std::string what_;
  cudnnBackendDescriptor_t handle_ = nullptr;
};

/// What plans are made for, and what runs them: the calling thread's current CUDA device.
class CudnnDevice {
 public:
  CudnnDevice();
  ~CudnnDevice();
  CudnnDevice(const CudnnDevice&) = delete;
  CudnnDevice& operator=(const CudnnDevice&) = delete;

  int compute_capability() const { return capability_; }  ///< 90 for 9.0

  /// Tells an operation graph or a plan which device it is for.
  void bind_graph(Descriptor& graph) const;
  void bind_plan(Descriptor& plan) const;

  /// Runs a plan on `stream`, without waiting for it; from any thread. Throws CudnnRefusal.
  void execute(const Descriptor& plan, const Descriptor& pack, cudaStream_t stream);

 private:
  cudnnHandle_t handle_ = nullptr;
  int capability_ = 0;
  std::mutex mutex_;  // a handle has one stream at a time
  cudaStream_t stream_ = nullptr;
};

}  // namespace wick::cuda
