#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "wick/tensor.h"

namespace wick {

/// The array of a .npy file (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1.0 to
/// 3.0): a read-only view that keeps the file mapped, or a copy where the data is not aligned to its type. Elements
/// '<f4', '<f2', '<f8', '<i4' and '<i8', in C order.
/// Error(io) when it cannot be read; Error(format) unless the header is well formed and the data is just what its shape
/// needs; Error(unsupported) for other elements, Fortran order, or a shape that Tensor does not take.
Tensor load_npy(const std::filesystem::path& path);

/// Whether the file begins as a .npy file does. Error(io) when it cannot be read.
bool is_npy(const std::filesystem::path& path);

/// What stands before rows of float32 [rows, columns] in a .npy file, version 1.0: 128 bytes whatever the numbers are,
/// so that it can be written first and put right at the end.
std::string npy_header(std::int64_t rows, std::int64_t columns);

}  // namespace wick
