#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "wick/lora.h"

namespace wick::test {

struct Sizes {
  int layers;
  std::int64_t hidden;
  std::int64_t queries;  // heads * head_dim
  std::int64_t keys;     // key-value heads * head_dim
  std::int64_t intermediate;
};

/// The linear layers of a decoder, named as Hugging Face names them.
inline std::vector<ModuleInfo> decoder_modules(const Sizes& s) {
  std::vector<ModuleInfo> out;
  for (int i = 0; i < s.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    out.push_back({layer + "self_attn.q_proj", s.hidden, s.queries});
    out.push_back({layer + "self_attn.k_proj", s.hidden, s.keys});
    out.push_back({layer + "self_attn.v_proj", s.hidden, s.keys});
    out.push_back({layer + "self_attn.o_proj", s.queries, s.hidden});
    out.push_back({layer + "mlp.gate_proj", s.hidden, s.intermediate});
    out.push_back({layer + "mlp.up_proj", s.hidden, s.intermediate});
    out.push_back({layer + "mlp.down_proj", s.intermediate, s.hidden});
  }
  out.push_back({"lm_head", s.hidden, 100, ModuleKind::output_head});
  return out;
}

}  // namespace wick::test
