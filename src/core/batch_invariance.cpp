#include "core/batch_invariance.h"

namespace wick {
namespace {

thread_local int living = 0;

}  // namespace

BatchInvariance::BatchInvariance() noexcept { ++living; }
BatchInvariance::~BatchInvariance() { --living; }
bool BatchInvariance::wanted() noexcept { return living > 0; }

}  // namespace wick
