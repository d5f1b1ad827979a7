#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/recorder.h"
#include "ops/primitive/functions.h"
#include "wick/ops.h"
#include "wick/tensor.h"

namespace wick {

/// Work of a device recorded once, to be run again as one launch on the same memory: every tensor that it read or wrote
/// has to stay where it is.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;  ///< queued on the device's stream
};

/// Where the tensors lie that are made while recording. Recordings may share one, as long as nothing in it is read that
/// an earlier replay, of another recording, has written: then it is as large as the largest of them needs.
class RecordingMemory {
 public:
  virtual ~RecordingMemory() = default;
  virtual std::size_t reserved_bytes() const = 0;
};

/// Brings results to the host without holding up the queue: while they are copied, what is queued later may run.
class Readback {
 public:
  virtual ~Readback() = default;
  /// Queues the copy of a dense tensor of up to the size agreed on. What was sent before must have been received.
  virtual void send(const Tensor& from) = 0;
  /// What was sent last, once it has arrived; later work is not waited for. Error(device) if earlier work failed.
  virtual const std::byte* receive() = 0;
};

/// What an accelerator brings so that tensors can live on it and every composite runs there: memory, copies and the
/// primitive operations. Work is queued in order on one stream a device; only copies to the host wait. The CPU has no
/// Backend: its loops stand in the ops themselves. Callers have checked shapes, dtypes and devices; outputs are dense
/// unless said otherwise.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Why there is no such device on this machine, or none that this program can use; empty when there is.
  virtual std::string missing(Device device) const = 0;
  /// What the calling thread queues from now on is for this device.
  virtual void use(Device device) = 0;

  struct Block {
    std::byte* data = nullptr;
    void* handle = nullptr;  ///< the allocator's own
  };
  /// Uninitialised memory, 256-byte aligned. Error(out_of_memory) with the numbers; the device stays usable.
  virtual Block allocate(std::size_t bytes, Device device) = 0;
  virtual void release(Block block, Device device) noexcept = 0;
  /// Waits until everything queued has run. Error(device) if any of it failed.
  virtual void synchronize(Device device) = 0;

  virtual std::shared_ptr<RecordingMemory> recording_memory(Device device) = 0;
  /// Records what `work` queues, without running it, in `memory`, or in one of its own where it is null. Nothing in it
  /// may wait for the device or copy from or to the host. Error(out_of_memory) with the numbers.
  virtual std::unique_ptr<Recording> record(Device device, const std::function<void()>& work,
                                            std::shared_ptr<RecordingMemory> memory = nullptr) = 0;
  /// For tensors of up to `bytes`.
  virtual std::unique_ptr<Readback> readback(Device device, std::size_t bytes) = 0;
  /// Times the work that is queued on the device, for Profile.
  virtual std::unique_ptr<WorkRecorder> recorder(Device device) = 0;
  /// Gives cached memory that nobody uses back to the driver, of the device and pinned memory of the host.
  virtual void trim(Device device) = 0;
  /// For `wick devices`: what there is, and the libraries that it needs, each with its version or why it is missing.
  struct Description {
    std::string name;
    std::string capability;
    std::size_t memory_bytes = 0;
    int multiprocessors = 0;
    std::string missing;  ///< see missing()
  };
  virtual std::vector<Description> describe() const = 0;
  struct Library {
    std::string name;
    bool there = false;
    std::string text;
  };
  virtual std::vector<Library> libraries() const = 0;
  struct Memory {
    std::size_t total = 0;
    std::size_t free = 0;  ///< by the driver's count
  };
  virtual Memory memory(Device device) = 0;

  /// `to` = `from`, of one shape; any strides, converts the dtype. Either may be on the host, then both are dense and
  /// of one dtype.
  virtual void copy(const Tensor& from, const Tensor& to) = 0;
  virtual void fill(const Tensor& t, double value) = 0;  ///< any strides
  virtual void gemm(const Tensor& a, const Tensor& b, const Tensor& c, double alpha, double beta,
                    const Tensor& bias) = 0;  ///< see gemm.h

  virtual void unary(Unary op, const Tensor& x, double value, const Tensor& y) = 0;  ///< any strides
  /// a and b already expanded to y's shape; any strides. y may be a or b.
  virtual void binary(Binary op, const Tensor& a, const Tensor& b, const Tensor& y) = 0;
  virtual void add_into(const Tensor& source, const Tensor& target) = 0;  ///< target += source, any dtypes and strides
  virtual void scale(const Tensor& t, const Tensor& by) = 0;  ///< dense t *= by, one floating element on the device
  virtual void advance(const Tensor& counter, std::int32_t by) = 0;  ///< one i32 element += by, by each replay again
  virtual void where(const Tensor& mask, const Tensor& x, double value, const Tensor& y) = 0;
  virtual void reduce(Reduction op, const Tensor& x, int dim, const Tensor& y) = 0;  ///< y has extent 1 there
  // Indices i32, dense. On a device they are not checked: one outside its range gives NaN, or is left out of a sum.
  virtual void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) = 0;
  virtual void add_rows(const Tensor& dy, const Tensor& indices, const Tensor& dx) = 0;  ///< dx[indices[i]] += dy[i]
  virtual void gather_columns(const Tensor& x, const Tensor& indices, const Tensor& y) = 0;
  virtual void scatter_columns(const Tensor& dy, const Tensor& indices, const Tensor& dx) = 0;
  /// One of the streams of core/rng.h.
  struct Stream {
    std::uint64_t seed;
    std::uint32_t index;
    std::uint32_t purpose;
  };
  virtual void fill_uniform(const Tensor& t, double low, double high, const Stream& stream,
                            std::uint64_t first_block) = 0;  ///< dense t; the numbers that the CPU makes
  virtual void dropout(const Tensor& x, const Dropout& options, const Tensor& y) = 0;
};

/// The backend of a device. Error(unsupported) for the CPU, a device that is not built in, or none of its kind here.
Backend& backend(Device device);

/// The backend of a tensor's device, for which this thread's work then is; null on the CPU.
inline Backend* accelerator(const Tensor& t) {
  if (t.device().type == DeviceType::cpu) return nullptr;
  Backend& found = backend(t.device());
  found.use(t.device());
  return &found;
}

/// CUDA's, or null when it is not built into this program. Its kernels are registered on the first call.
Backend* cuda_backend();

}  // namespace wick
