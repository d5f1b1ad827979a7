#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <vector>

#include "core/work.h"
#include "wick/device.h"

namespace wick::cuda {

/// Error(device) naming `what`, or Error(out_of_memory), unless `status` is success.
void check(cudaError_t status, const char* what);

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  int multiprocessors = 0;
  std::size_t memory_bytes = 0;
  std::size_t shared_bytes = 0;  ///< a block's largest dynamic shared memory
  std::size_t l2_bytes = 0;
  bool shared = false;   ///< with other processes at the same time, by MPS
  std::string unusable;  ///< why the driver does not say what it is; "" when it does
};
/// The devices of this machine, by the driver's numbers; empty without a driver. Never throws.
const std::vector<DeviceInfo>& devices();
/// Why devices() is empty; "" when it is not.
const std::string& no_device_reason();

/// Looks for the code of a kernel for the current CUDA device. `compiled_for` is the compute capability of its source,
/// 90 for 9.0.
cudaError_t find_kernel(int& compiled_for);
/// Why no kernel of this program runs on a device: it was compiled neither for it nor for what the driver translates.
/// "" when kernels run. Makes the device's context.
std::string no_code_reason(int index);

/// The device that the calling thread used last, by stream(); at first 0. Whoever allocates uses the device, so it is
/// the one of an op's results.
int current_device();
const DeviceInfo& info(int index = current_device());

/// The stream that all work of a device goes to, in order. The calling thread's current device becomes `index`.
cudaStream_t stream(int index = current_device());
bool capturing(int index);  ///< the stream is recording a graph: nothing may wait for it

/// False with WICK_LIBRARIES=off in the environment: no library of NVIDIA's but the CUDA run time is opened, and
/// kernels of ours do all the work, products slowly. For tools that watch kernels, as compute-sanitizer does.
bool libraries_wanted();
/// True with WICK_RACECHECK=on or no-clusters in the environment: kernels run in forms that racecheck of
/// compute-sanitizer can follow to their end, see docs/architecture.md.
bool under_racecheck();
/// Blocks of a cluster that every Hopper device can run at once.
inline constexpr unsigned kMaxCluster = 8;
/// That a cluster may have: kMaxCluster, but 2 under_racecheck(), which takes minutes for a launch, or does not end,
/// where larger ones fill the multiprocessors, and 1 with WICK_RACECHECK=no-clusters.
unsigned largest_cluster();
/// Opens the first library of `names` that is there; null, and `reason` says why, when none is or none is wanted.
void* open_library(std::initializer_list<const char*> names, std::string& reason);
/// The function `name` of a library. Error(device) when it is missing.
void* symbol(void* library, const char* name);

}  // namespace wick::cuda
