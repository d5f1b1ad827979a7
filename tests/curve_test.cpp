#include "train/curve.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace wick {
namespace {

std::vector<Metrics> run_of(int steps, int every, int validate_every) {
  std::vector<Metrics> records;
  if (validate_every > 0) records.push_back({.step = 0, .val_loss = 4.2});
  for (int step = every; step <= steps; step += every) {
    Metrics record{.step = step, .loss = 2 + 2 * std::exp(-step / 80.0) + 0.05 * std::sin(step)};
    if (validate_every > 0 && step % validate_every == 0) record.val_loss = 2.2 + 2 * std::exp(-step / 90.0);
    records.push_back(record);
  }
  return records;
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

// The points of the polyline in the group with this id.
std::vector<std::pair<double, double>> points_of(const std::string& svg, const std::string& id) {
  const auto group = svg.find("<g id=\"" + id + "\"");
  if (group == std::string::npos) return {};
  const auto start = svg.find("points=\"", group) + 8;
  std::istringstream in(svg.substr(start, svg.find('"', start) - start));
  std::vector<std::pair<double, double>> points;
  double x = 0;
  double y = 0;
  char comma = 0;
  while (in >> x >> comma >> y) points.emplace_back(x, y);
  return points;
}

// Every tag is closed, in order; enough of XML for what is written here.
void expect_well_formed(const std::string& svg) {
  std::vector<std::string> open;
  for (auto at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    const auto end = svg.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = svg.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(tag[0] == '/' ? 1 : 0, tag.find_first_of(" /", 1) - (tag[0] == '/' ? 1 : 0));
    EXPECT_EQ(count(tag, "\"") % 2, 0) << tag;
    if (tag[0] == '/') {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else if (!tag.ends_with('/')) {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Ticks, AreRoundAndCover) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(0.3, 9.7, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(0, 600, 8), (std::vector<double>{0, 100, 200, 300, 400, 500, 600}));
  EXPECT_EQ(round_ticks(-3, 3, 3), (std::vector<double>{-4, -2, 0, 2, 4}));
  for (const double low : {-7.3, 0.0, 1e-9, 2.0, 12345.6}) {
    for (const double width : {0.0, 1e-6, 0.03, 1.0, 17.0, 1e6}) {
      for (int steps = 1; steps <= 10; ++steps) {
        const std::vector<double> ticks = round_ticks(low, low + width, steps);
        ASSERT_GE(ticks.size(), 2U);
        EXPECT_LE(ticks.size(), static_cast<std::size_t>(steps) + 3);
        EXPECT_LE(ticks.front(), low + 1e-6 * width);
        EXPECT_GE(ticks.back(), low + width * (1 - 1e-6));
        const double step = ticks[1] - ticks[0];
        const double mantissa = step / std::pow(10, std::floor(std::log10(step * (1 + 1e-6))));
        EXPECT_TRUE(std::abs(mantissa - 1) < 1e-3 || std::abs(mantissa - 2) < 1e-3 || std::abs(mantissa - 5) < 1e-3)
            << step;
      }
    }
  }
}

TEST(Curve, DrawsBothSeries) {
  const std::vector<Metrics> records = run_of(300, 10, 50);
  const std::string svg = loss_curve_svg(records, "tales on <alice> & \"more\"");
  expect_well_formed(svg);
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_NE(svg.find("<title>tales on &lt;alice&gt; &amp; &quot;more&quot;</title>"), std::string::npos);
  EXPECT_EQ(count(svg, "http"), 1);  // needs nothing from elsewhere
  EXPECT_EQ(count(svg, "<polyline"), 2);
  EXPECT_EQ(points_of(svg, "train").size(), 30U);
  EXPECT_EQ(points_of(svg, "validation").size(), 7U);
  EXPECT_EQ(count(svg, "<circle"), 7);
  for (const char* tick : {">0<", ">50<", ">300<", ">2.0<", ">4.5<", ">step<", ">loss<"}) {
    EXPECT_NE(svg.find(tick), std::string::npos) << tick;
  }
  EXPECT_NE(svg.find("validation 2.271, best 2.271 at step 300"), std::string::npos);
  EXPECT_EQ(svg, loss_curve_svg(records, "tales on <alice> & \"more\""));
}

TEST(Curve, StepsGoRightAndLowerLossesDown) {
  const std::vector<Metrics> records = {{.step = 0, .loss = 3}, {.step = 5, .loss = 2}, {.step = 10, .loss = 1}};
  const auto points = points_of(loss_curve_svg(records, "t"), "train");
  ASSERT_EQ(points.size(), 3U);
  EXPECT_LT(points[0].first, points[1].first);
  EXPECT_NEAR(points[1].first - points[0].first, points[2].first - points[1].first, 0.2);
  EXPECT_LT(points[0].second, points[1].second);  // SVG counts from the top
  EXPECT_NEAR(points[1].second - points[0].second, points[2].second - points[1].second, 0.2);
}

TEST(Curve, StaysInsideThePicture) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<std::vector<Metrics>> runs = {
      {{.step = 1, .loss = 2.5}},
      {{.step = 1, .loss = 2.5}, {.step = 2, .loss = 2.5}},
      {{.step = 7, .loss = 0.0}},
      {{.step = 1000000, .loss = 1e-7}, {.step = 1000001, .loss = 2e-7}},
      {{.step = 1, .loss = 1e12}, {.step = 2, .loss = -1e12}},
      {{.step = 1, .loss = nan}, {.step = 2, .loss = 2}, {.step = 3, .loss = 1e300}, {.step = 4, .loss = 1}},
      {{.step = 0, .val_loss = 3}},
      run_of(7, 1, 0),
      run_of(100000, 10, 1000),
  };
  for (const auto& run : runs) {
    const std::string svg = loss_curve_svg(run, "t");
    expect_well_formed(svg);
    EXPECT_LT(svg.size(), 40000U);
    int points = 0;
    for (const char* id : {"train", "validation"}) {
      for (const auto& [x, y] : points_of(svg, id)) {
        EXPECT_GE(x, 63.9);
        EXPECT_LE(x, 724.1);
        EXPECT_GE(y, 65.9);
        EXPECT_LE(y, 368.1);
        ++points;
      }
    }
    EXPECT_GT(points, 0);
  }
}

TEST(Curve, LongRunsAreDrawnAsMeansAndSaySo) {
  std::vector<Metrics> records;
  for (int step = 1; step <= 6000; ++step) records.push_back({.step = step, .loss = step % 2 == 0 ? 1.0 : 3.0});
  const std::string svg = loss_curve_svg(records, "t");
  EXPECT_EQ(points_of(svg, "train").size(), 600U);
  EXPECT_NE(svg.find("drawn as means of 10 reports"), std::string::npos);
}

TEST(Curve, WithoutLossesSaysSo) {
  expect_well_formed(loss_curve_svg({}, "t"));
  EXPECT_NE(loss_curve_svg({}, "t").find("no losses were reported"), std::string::npos);
}

}  // namespace
}  // namespace wick
