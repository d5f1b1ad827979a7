#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string>

#include "wick/profile.h"

namespace wick::cli {

/// --profile FILE; `what` says what is profiled.
CLI::Option* add_profile_option(CLI::App& verb, std::string& path, const std::string& what);

/// Writes the timeline to `path`, and the table to standard error. `process` names what ran.
void report_profile(const std::string& path, std::span<const KernelRecord> records, Device device, DType dtype,
                    const std::string& process);

}  // namespace wick::cli
