#include "backend/cuda/address_space.h"

#include <cuda.h>

#include <map>

#include "backend/cuda/runtime.h"
#include "core/fail.h"

namespace wick::cuda {
namespace {

constexpr std::size_t kAlignment = std::size_t{1} << 30;

// Of the driver, which is found by way of the run-time library.
struct Driver {
#define WICK_FUNCTION(name) decltype(&cu##name) name = load<decltype(&cu##name)>("cu" #name)
  WICK_FUNCTION(MemAddressReserve);
  WICK_FUNCTION(MemAddressFree);
  WICK_FUNCTION(MemCreate);
  WICK_FUNCTION(MemRelease);
  WICK_FUNCTION(MemMap);
  WICK_FUNCTION(MemUnmap);
  WICK_FUNCTION(MemSetAccess);
#undef WICK_FUNCTION

  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

 private:
  template <class F>
  static F load(const char* name) {
    constexpr unsigned kVersion = 11000;  // where all of them are
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion(name, &found, kVersion, cudaEnableDefault, &result), name);
    check(result == cudaDriverEntryPointSuccess ? cudaSuccess : cudaErrorNotSupported, name);
    return reinterpret_cast<F>(found);
  }
};

class DeviceAddressSpace final : public AddressSpace {
 public:
  explicit DeviceAddressSpace(int device) : device_(device) {
    (void)stream(device);  // the device's context exists
    // Some virtual machines have fewer addresses for a device.
    for (std::size_t units = (2 * info(device).memory_bytes + kAlignment - 1) / kAlignment; units > 0; units /= 2) {
      bytes_ = units * kAlignment;
      if (Driver::get().MemAddressReserve(&base_, bytes_, kAlignment, 0, 0) == CUDA_SUCCESS) return;
    }
    fail(ErrorCode::device,
         "cuda:{} has no {:.0f} GiB of addresses left; WICK_ARENA=off does without, at the price of slower allocations",
         device, static_cast<double>(kAlignment) / (1 << 30));
  }
  ~DeviceAddressSpace() override {
    while (!pieces_.empty()) unmap(pieces_.begin()->first, pieces_.begin()->second.bytes);
    (void)Driver::get().MemAddressFree(base_, bytes_);
  }

  std::byte* base() const override { return reinterpret_cast<std::byte*>(base_); }
  std::size_t bytes() const override { return bytes_; }

  bool map(std::size_t offset, std::size_t bytes) override {
    const Driver& driver = Driver::get();
    CUmemAllocationProp kind = {};
    kind.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    kind.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device_}};
    CUmemGenericAllocationHandle memory = 0;
    if (driver.MemCreate(&memory, bytes, &kind, 0) != CUDA_SUCCESS) return false;
    CUmemAccessDesc access = {};
    access.location = kind.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (driver.MemMap(base_ + offset, bytes, 0, memory, 0) != CUDA_SUCCESS) {
      (void)driver.MemRelease(memory);
      return false;
    }
    if (driver.MemSetAccess(base_ + offset, bytes, &access, 1) != CUDA_SUCCESS) {
      (void)driver.MemUnmap(base_ + offset, bytes);
      (void)driver.MemRelease(memory);
      return false;
    }
    pieces_[offset] = {memory, bytes};
    return true;
  }

  void unmap(std::size_t offset, std::size_t) noexcept override {
    const auto found = pieces_.find(offset);
    if (found == pieces_.end()) return;
    (void)Driver::get().MemUnmap(base_ + offset, found->second.bytes);
    (void)Driver::get().MemRelease(found->second.memory);
    pieces_.erase(found);
  }

 private:
  struct Piece {
    CUmemGenericAllocationHandle memory;
    std::size_t bytes;
  };
  int device_;
  CUdeviceptr base_ = 0;
  std::size_t bytes_ = 0;
  std::map<std::size_t, Piece> pieces_;
};

}  // namespace

std::unique_ptr<AddressSpace> device_address_space(int device) { return std::make_unique<DeviceAddressSpace>(device); }

}  // namespace wick::cuda
