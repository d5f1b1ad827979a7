// Launches the bordered product with its narrow half inside: lora_gemm.cuh.

#include "ops/lora_linear/lora_gemm.cuh"

#include <algorithm>

namespace wick::cuda {
namespace {

using namespace product_with_narrow;

#ifdef WICK_SM_90A
constexpr bool kCompiled = true;
#else
constexpr bool kCompiled = false;
#endif

// Columns of a tile: those with which the blocks' turns take the least time.
int columns_of_tile(int down, std::int64_t columns, int blocks) {
  int best = 0;
  std::int64_t least = 0;
  for (const int width : {256, 224, 192}) {
    const std::int64_t tiles = down * ((columns + width - 1) / width);
    const std::int64_t time = (tiles + blocks - 1) / blocks * width;
    if (best != 0 && time >= least) continue;
    best = width;
    least = time;
  }
  return best;
}

template <class T, LoraWay kWay, int kColumns, int kSlices>
void run(const Arguments<T>& in, const Work& work, int blocks) {
  launch(work, lora_gemm_kernel<T, kWay, kColumns, kSlices>,
         {.grid = dim3(static_cast<unsigned>(std::min(in.down * in.across, blocks))),
          .block = dim3(kThreads),
          .shared = Shape<kWay, kColumns, kSlices>::kShared,
          .overlap = true},
         in);
}

template <class T, LoraWay kWay>
void run(const Tensor& a, const LoraWeight& weight, const Tensor& bias, const Tensor& t, const Tensor& c) {
  constexpr bool kForward = kWay == LoraWay::forward;
  const int blocks = info(a.device().index).multiprocessors;
  const int down = static_cast<int>((a.size(0) + kRows - 1) / kRows);
  const int width = columns_of_tile(down, c.size(1), blocks);
  const Tensor& w = weight.core();
  const int across = static_cast<int>((c.size(1) + width - 1) / width);
  const int depths = static_cast<int>((a.size(1) + kDepth - 1) / kDepth);
  // All tiles that make t begin at once: a tile that waits for it never waits for one that its own block has yet to do.
  // Where two wait for each other, both must be running: no other process may have taken the multiprocessor of one.
  const bool together = 2 * down <= blocks && !info(a.device().index).shared;
  const int parts = together && across > 1 && depths >= kSharedDepths ? 2 : 1;
  const Tensor partial = Tensor::empty({parts, down * kRows, t.size(1)}, DType::f32, a.device());
  const Arguments<T> in = {
      .a = boxes_of(a, kRows, kDepth),
      .w = kForward ? boxes_of(w, width, kDepth) : boxes_of(w, kDepth, kWideBox),
      .v = kForward ? boxes_of(weight.a(), kSlice, kDepth) : narrow_boxes_of(weight.scaled_b(), kDepth),
      .u = kForward ? narrow_boxes_of(weight.scaled_b(), width) : boxes_of(weight.a(), kSlice, kWideBox),
      .c = boxes_of(c, 64, kOutBox),
      .c_half = half_boxes_of(c, 64),
      .bias = pointer<const T>(bias),
      .t = pointer<T>(t),
      .t_row = t.stride(0),
      .partial = pointer<float>(partial),
      .parts = parts,
      .split = parts == 1 ? depths : depths / 2,
      .rows = static_cast<int>(a.size(0)),
      .columns = static_cast<int>(c.size(1)),
      .depths = depths,
      .down = down,
      .across = across};
  const Work work{.name = kForward ? "lora gemm" : "lora gemm backward",
                  .bytes = static_cast<double>(a.numel() + w.numel() + c.numel()) * sizeof(T),
                  .flops = 2.0 * static_cast<double>(c.numel() + 2 * t.numel()) * static_cast<double>(a.size(1)),
                  .m = a.size(0),
                  .n = c.size(1),
                  .k = a.size(1)};
  const auto with_columns = [&](auto slices) {
    constexpr int kSlices = decltype(slices)::value;
    if (width == 192) return run<T, kWay, 192, kSlices>(in, work, blocks);
    if (width == 224) return run<T, kWay, 224, kSlices>(in, work, blocks);
    run<T, kWay, 256, kSlices>(in, work, blocks);
  };
  if (t.size(1) == kSlice) return with_columns(std::integral_constant<int, 1>{});
  if (t.size(1) == 2 * kSlice) return with_columns(std::integral_constant<int, 2>{});
  with_columns(std::integral_constant<int, kMaxSlices>{});
}

Declined lora_product_cuda(LoraWay way, const Tensor& a, const LoraWeight& weight, const Tensor& bias, const Tensor& t,
                           const Tensor& c) {
  if (!kCompiled || info(a.device().index).major != 9) return "no code for sm_90a, or not such a device";
  if (a.dtype() != DType::bf16 && a.dtype() != DType::f16) return "neither bf16 nor f16";
  if (t.size(1) % kSlice != 0 || t.size(1) > kMaxSlices * kSlice) return "a rank that is not 16, 32 or 48";
  if (a.size(0) == 0 || a.size(0) > kMaxRows) return "no rows, or more than 2^20";
  if (a.size(1) == 0 || c.size(1) == 0 || a.size(1) % 8 != 0 || c.size(1) % 8 != 0) return "no multiple of 8 columns";
  if (a.size(1) > (1 << 30) || c.size(1) > (1 << 30)) return "an extent past 2^30";
  for (const Tensor* matrix : {&a, &weight.core(), &weight.a(), &weight.scaled_b(), &t, &c}) {
    if (matrix->stride(1) != 1 || !packs(*matrix)) return "rows that are not dense or not aligned to 16 bytes";
  }
  if (bias.defined() && (bias.stride(0) != 1 || !packs(bias))) return "a bias that is not dense or not aligned";
  const auto run_as = [&](auto zero) {
    using T = decltype(zero);
    way == LoraWay::forward ? run<T, LoraWay::forward>(a, weight, bias, t, c)
                            : run<T, LoraWay::backward>(a, weight, bias, t, c);
  };
  a.dtype() == DType::bf16 ? run_as(__nv_bfloat16{}) : run_as(__half{});
  return nullptr;
}

}  // namespace

void register_lora_product() { lora_product.on(DeviceType::cuda) = lora_product_cuda; }

}  // namespace wick::cuda
