#pragma once

#include <cstddef>
#include <memory>

namespace wick::cuda {

/// A stretch of addresses, into which memory is brought and taken away again piece by piece.
class AddressSpace {
 public:
  virtual ~AddressSpace() = default;
  virtual std::byte* base() const = 0;
  virtual std::size_t bytes() const = 0;
  /// Memory for [offset, offset + bytes), none of which has any; multiples of the driver's page (2 MiB). False when
  /// there is not enough.
  virtual bool map(std::size_t offset, std::size_t bytes) = 0;
  /// Gives the memory back that one call of map() brought.
  virtual void unmap(std::size_t offset, std::size_t bytes) noexcept = 0;
};

/// Addresses of a device for as much as it has memory, twice over, or as many as it has left. Error(device) without
/// any, or without virtual memory management.
std::unique_ptr<AddressSpace> device_address_space(int device);

}  // namespace wick::cuda
