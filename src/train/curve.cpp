#include "train/curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>

#include "core/format_count.h"

namespace wick {
namespace {

constexpr double kWidth = 760;
constexpr double kHeight = 420;
constexpr double kLeft = 64;
constexpr double kRight = 36;
constexpr double kTop = 66;
constexpr double kBottom = 52;
constexpr std::size_t kMostPoints = 600;  // about one for each pixel of the plot
constexpr std::size_t kMostMarkers = 40;
// Mid tones with a contrast of at least 3 to both white and black; the text's is 4.5.
constexpr std::string_view kText = "#767676";
constexpr std::string_view kTrain = "#2f7fd6";
constexpr std::string_view kValidation = "#d4691e";

struct Point {
  double step;
  double loss;
};

// Neither NaN nor infinite, nor so large that the width of the axis would be.
bool drawable(const std::optional<double>& loss) { return loss && std::abs(*loss) < 1e30; }

std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        // XML 1.0 has no way to write most control characters.
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

// Means over groups of `group` neighbours.
std::vector<Point> thin(const std::vector<Point>& points, std::size_t group) {
  std::vector<Point> out;
  for (std::size_t start = 0; start < points.size(); start += group) {
    const std::size_t stop = std::min(points.size(), start + group);
    Point mean{0, 0};
    for (std::size_t i = start; i < stop; ++i) {
      mean.step += points[i].step;
      mean.loss += points[i].loss;
    }
    const auto count = static_cast<double>(stop - start);
    out.push_back({mean.step / count, mean.loss / count});
  }
  return out;
}

// The digits that tell ticks apart which are `step` from each other.
std::string tick_label(double value, double step) {
  if (step >= 1e6 || step < 1e-6) return fmt::format("{:.4g}", value);
  const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(step) - 1e-9)), 0, 12);
  return fmt::format("{:.{}f}", value, digits);
}

// Where data lies in the picture.
struct Axes {
  std::vector<double> x_ticks;
  std::vector<double> y_ticks;

  double x(double step) const {
    return kLeft + (step - x_ticks.front()) / (x_ticks.back() - x_ticks.front()) * (kWidth - kLeft - kRight);
  }
  double y(double loss) const {
    return kHeight - kBottom -
           (loss - y_ticks.front()) / (y_ticks.back() - y_ticks.front()) * (kHeight - kTop - kBottom);
  }
};

Axes make_axes(const std::vector<Point>& train, const std::vector<Point>& validation) {
  double step_low = 0;
  double step_high = 1;
  double loss_low = 0;
  double loss_high = 1;
  bool first = true;
  for (const auto* series : {&train, &validation}) {
    for (const Point& point : *series) {
      step_low = first ? point.step : std::min(step_low, point.step);
      step_high = first ? point.step : std::max(step_high, point.step);
      loss_low = first ? point.loss : std::min(loss_low, point.loss);
      loss_high = first ? point.loss : std::max(loss_high, point.loss);
      first = false;
    }
  }
  // The first steps are worth nothing by themselves: a run that reports every 10 steps still starts at 0.
  if (step_low <= step_high / 2) step_low = std::min(step_low, 0.0);
  if (step_high - step_low < 1) step_high = step_low + 1;
  if (loss_high - loss_low < 1e-6 * std::max(1.0, std::abs(loss_high))) {
    const double pad = std::max(0.05 * std::abs(loss_high), 1e-3);
    loss_low -= pad;
    loss_high += pad;
  }
  Axes axes{round_ticks(step_low, step_high, 8), round_ticks(loss_low, loss_high, 6)};
  // Steps are whole: no ticks between them.
  std::erase_if(axes.x_ticks, [](double tick) { return tick != std::floor(tick); });
  if (axes.x_ticks.size() < 2) axes.x_ticks = {std::floor(step_low), std::ceil(step_high)};
  return axes;
}

void draw_axes(std::string& out, const Axes& axes) {
  const double bottom = kHeight - kBottom;
  const double right = kWidth - kRight;
  out += fmt::format("<g id=\"axes\" stroke=\"{}\" stroke-opacity=\"0.3\">\n", kText);
  for (const double tick : axes.y_ticks) {
    out += fmt::format("<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\"/>\n", kLeft, axes.y(tick), right,
                       axes.y(tick));
  }
  for (const double tick : axes.x_ticks) {
    out += fmt::format("<line x1=\"{:.1f}\" y1=\"{}\" x2=\"{:.1f}\" y2=\"{}\"/>\n", axes.x(tick), bottom, axes.x(tick),
                       bottom + 5);
  }
  out += "</g>\n";
  out += fmt::format("<g id=\"ticks\" fill=\"{}\">\n", kText);
  const double y_step = axes.y_ticks[1] - axes.y_ticks[0];
  for (const double tick : axes.y_ticks) {
    out += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 8, axes.y(tick) + 4,
                       tick_label(tick, y_step));
  }
  for (const double tick : axes.x_ticks) {
    out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", axes.x(tick), bottom + 20,
                       format_count(std::llround(tick)));
  }
  out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">step</text>\n", (kLeft + right) / 2,
                     kHeight - 10);
  out += fmt::format(
      "<text x=\"16\" y=\"{0:.1f}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {0:.1f})\">loss</text>\n",
      (kTop + bottom) / 2);
  out += "</g>\n";
}

void draw_series(std::string& out, std::string_view id, std::string_view colour, const std::vector<Point>& points,
                 const Axes& axes, bool markers) {
  if (points.empty()) return;
  out += fmt::format("<g id=\"{}\" stroke=\"{}\" fill=\"{}\">\n", id, colour, colour);
  out += "<polyline fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"";
  for (std::size_t i = 0; i < points.size(); ++i) {
    out += fmt::format("{}{:.1f},{:.1f}", i == 0 ? "" : " ", axes.x(points[i].step), axes.y(points[i].loss));
  }
  out += "\"/>\n";
  if (markers || points.size() == 1) {
    for (const Point& point : points) {
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"/>\n", axes.x(point.step), axes.y(point.loss));
    }
  }
  out += "</g>\n";
}

void draw_legend(std::string& out, double x, std::string_view colour, std::string_view label) {
  out += fmt::format("<line x1=\"{0}\" y1=\"46\" x2=\"{1}\" y2=\"46\" stroke=\"{2}\" stroke-width=\"3\"/>\n", x, x + 20,
                     colour);
  out += fmt::format("<text x=\"{}\" y=\"50\" fill=\"{}\">{}</text>\n", x + 27, kText, label);
}

}  // namespace

std::vector<double> round_ticks(double low, double high, int count) {
  const double width = std::max(high - low, 1e-9 * std::max({1.0, std::abs(low), std::abs(high)}));
  const double raw = width / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double ratio = raw / power;
  const double factor = ratio <= 1 ? 1 : ratio <= 2 ? 2 : ratio <= 5 ? 5 : 10;
  const double step = factor * power;
  // Whole multiples are computed one by one: adding up steps would add up their rounding. The slack keeps an end that
  // is a tick already from getting another one.
  const double first = std::floor(low / step + 1e-9);
  const double last = std::max(std::ceil(high / step - 1e-9), first + 1);
  std::vector<double> ticks;
  for (double i = first; i <= last; ++i) ticks.push_back(i * step);
  return ticks;
}

std::string loss_curve_svg(std::span<const Metrics> records, std::string_view title) {
  std::vector<Point> train;
  std::vector<Point> validation;
  for (const Metrics& record : records) {
    const auto step = static_cast<double>(record.step);
    if (drawable(record.loss)) train.push_back({step, *record.loss});
    if (drawable(record.val_loss)) validation.push_back({step, *record.val_loss});
  }

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
      "font-family=\"system-ui, sans-serif\" font-size=\"13\">\n",
      kWidth, kHeight);
  out += fmt::format("<title>{}</title>\n", escape(title));
  out += fmt::format("<text x=\"{}\" y=\"26\" font-size=\"16\" font-weight=\"600\" fill=\"{}\">{}</text>\n", kLeft,
                     kText, escape(title));
  if (train.empty() && validation.empty()) {
    out += fmt::format("<text x=\"{}\" y=\"50\" fill=\"{}\">no losses were reported</text>\n</svg>\n", kLeft, kText);
    return out;
  }

  // The legend gives the figures that people look for, before points are merged.
  double legend = kLeft;
  const std::size_t group = (train.size() + kMostPoints - 1) / kMostPoints;
  if (!train.empty()) {
    const std::string label = fmt::format("train {:.3f}{}", train.back().loss,
                                          group > 1 ? fmt::format(" (drawn as means of {} reports)", group) : "");
    draw_legend(out, legend, kTrain, label);
    legend += 60 + 7.2 * static_cast<double>(label.size());
  }
  if (!validation.empty()) {
    const auto best = std::min_element(validation.begin(), validation.end(),
                                       [](const Point& a, const Point& b) { return a.loss < b.loss; });
    draw_legend(out, legend, kValidation,
                fmt::format("validation {:.3f}, best {:.3f} at step {}", validation.back().loss, best->loss,
                            format_count(std::llround(best->step))));
  }
  if (group > 1) train = thin(train, group);
  const std::size_t validation_group = (validation.size() + kMostPoints - 1) / kMostPoints;
  if (validation_group > 1) validation = thin(validation, validation_group);
  const Axes axes = make_axes(train, validation);
  draw_axes(out, axes);
  draw_series(out, "train", kTrain, train, axes, false);
  draw_series(out, "validation", kValidation, validation, axes, validation.size() <= kMostMarkers);
  out += "</svg>\n";
  return out;
}

}  // namespace wick
