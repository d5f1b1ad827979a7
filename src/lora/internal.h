#pragma once

#include <span>
#include <vector>

#include "lora/origin.h"
#include "wick/lora.h"

namespace wick::lora {

/// validate() and resolve_targets() with messages and codes for where the configuration came from.
void validate(const LoraConfig& config, const Origin& origin);
std::vector<LoraTarget> resolve(const LoraConfig& config, std::span<const ModuleInfo> modules, const Origin& origin);

/// target_modules is the shorthand for every linear layer but the output head.
bool is_all_linear(const ModuleSelector& target_modules);

/// The patterns in the order that a file has them.
void sort_patterns(LoraConfig& config);

}  // namespace wick::lora
