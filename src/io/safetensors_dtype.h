#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "core/checked.h"
#include "wick/safetensors.h"

namespace wick {

struct SafetensorsDType {
  std::string_view name;
  int bits;
};

/// The format's dtypes by ascending alignment, in the order that the Python package sorts tensors by (descending).
inline constexpr std::array<SafetensorsDType, 22> kSafetensorsDTypes{{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

constexpr std::size_t kSafetensorsMaxHeader = 100'000'000;

/// Bytes that `entry`'s shape and dtype need. `where` names file and tensor. Error(`code`) when that is no whole number
/// of bytes or does not fit 63 bits; Error(unsupported) for an unknown dtype.
CheckedSize safetensors_size(const SafetensorsEntry& entry, std::string_view where, ErrorCode code);

}  // namespace wick
