#pragma once

#include "backend/backend.h"

namespace wick::cuda {

/// Into page-locked memory of its own, behind an event of its own.
std::unique_ptr<Readback> make_readback(Device device, std::size_t bytes);

}  // namespace wick::cuda
