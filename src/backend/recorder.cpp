#include "backend/recorder.h"

#include <fmt/format.h>

namespace wick {

std::string work_name(const Work& work) {
  return work.m > 0 ? fmt::format("{} {}x{}x{}", work.name, work.m, work.n, work.k) : work.name;
}

}  // namespace wick
