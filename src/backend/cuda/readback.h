#pragma once

#include "backend/backend.h"

namespace wick::cuda {

/// Into page-locked memory of its own, behind an event of its own.
std::unique_ptr<Readback> make_readback(Device device, std::size_t bytes);

/// Has a kernel write a few words of a dense tensor to page-locked memory of the host, which is sooner there than what
/// a copy engine is set up for. False, and nothing is done, if they are none or more than a few.
bool write_to_host(const Tensor& from, void* page_locked);

}  // namespace wick::cuda
