#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/metrics.h"

namespace wick {

/// Ascending multiples of 1, 2 or 5 times a power of ten that cover [low, high]: the first is at most low, the last at
/// least high, with at most about `count` steps between. The arguments are finite, low <= high, count >= 1.
std::vector<double> round_ticks(double low, double high, int count);

/// The training and validation loss over the steps as an SVG picture that needs nothing else: no script, no font file,
/// no background, colours that read on white and on black. A run of more reports than the picture has room for is drawn
/// as means over equally many reports, and says so. Deterministic: the same records give the same bytes.
std::string loss_curve_svg(std::span<const Metrics> records, std::string_view title);

}  // namespace wick
