// Runs cuDNN's fused attention against a float64 reference, and times it. Needs a GPU and libcudnn.so.9:
//   cudnn_attention_smoke            checks, then times
//   cudnn_attention_smoke check|time one of them
//   cudnn_attention_smoke plans FILE asks for every plan on the device that FILE (cuDNN's JSON) describes; no GPU
//   needed
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "backend/cuda/cudnn_attention.h"
#include "core/fail.h"

using namespace wick;
using namespace wick::cuda;

namespace {

using Lse = AttentionTuning::Lse;
using Inner = AttentionTuning::Inner;

void cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail(ErrorCode::device, "CUDA: {}: {}", what, cudaGetErrorString(status));
}

const char* name(Lse lse) { return lse == Lse::head_major ? "[h,t]" : lse == Lse::token_major ? "[t,h]" : "padded"; }
const char* name(Inner inner) { return inner == Inner::shared ? "shared" : inner == Inner::compact ? "own" : "padded"; }
std::string name(const AttentionTuning& t) {
  return fmt::format("lse {} heads {} sums {}", name(t.lse), name(t.full_heads), name(t.accumulator));
}

/// One attention problem, with the lengths that are only known on the device.
struct Case {
  std::string label;
  AttentionShape shape;
  std::vector<std::int32_t> queries;  // lengths of the sequences
  std::vector<std::int32_t> keys;
  bool fused = false;
  AttentionTuning tuning = {};

  std::vector<std::int32_t> offsets(const std::vector<std::int32_t>& lengths) const {
    std::vector<std::int32_t> at{0};
    for (const std::int32_t n : lengths) at.push_back(at.back() + n);
    return at;
  }
};

struct Options {
  bool packed = false;
  std::int64_t slots = 0, rows = 0, key_rows = 0, max_query = 0, max_keys = 0;
  std::int64_t heads = 4, kv_heads = 4, d = 64;
  bool causal = true;
  std::int64_t window = 0;
  bool fused = false, deterministic = true;
  DType dtype = DType::bf16;
  AttentionTuning tuning = {};
};

Case make(std::string label, std::vector<std::int32_t> queries, std::vector<std::int32_t> keys, const Options& o) {
  Case c{.label = std::move(label),
         .shape = {},
         .queries = std::move(queries),
         .keys = std::move(keys),
         .fused = o.fused,
         .tuning = o.tuning};
  AttentionShape& s = c.shape;
  const auto longest = [](const std::vector<std::int32_t>& v) { return *std::max_element(v.begin(), v.end()); };
  s.packed = o.packed;
  s.sequences = o.slots > 0 ? o.slots : static_cast<std::int64_t>(c.queries.size());
  s.max_query = o.max_query > 0 ? o.max_query : longest(c.queries);
  s.max_keys = o.max_keys > 0 ? o.max_keys : std::max<std::int64_t>(longest(c.keys), o.max_query);
  s.query_rows = o.rows > 0 ? o.rows : c.offsets(c.queries).back();
  s.key_rows = o.key_rows > 0 ? o.key_rows : std::max<std::int64_t>(o.rows, c.offsets(c.keys).back());
  s.heads = o.heads;
  s.kv_heads = o.kv_heads;
  s.head_dim = o.d;
  s.dtype = o.dtype;
  s.scale = 1.0F / std::sqrt(static_cast<float>(o.d));
  s.causal = o.causal;
  s.window = o.window;
  s.as_many_keys = c.queries == c.keys;
  s.deterministic = o.deterministic;
  const std::int64_t wide = (o.heads + 2 * o.kv_heads) * o.d;
  s.q = s.dq = {o.fused ? wide : o.heads * o.d, o.d};
  s.k = s.v = s.dk = s.dv = {o.fused ? wide : o.kv_heads * o.d, o.d};
  s.y = s.dy = {o.heads * o.d, o.d};
  return c;
}

Case self(std::string label, const std::vector<std::int32_t>& lengths, const Options& o) {
  return make(std::move(label), lengths, lengths, o);
}

// ---------------------------------------------------------------------------------------------------------------------
// The device side of a case.

class Buffer {
 public:
  explicit Buffer(std::size_t bytes) : bytes_(bytes) {
    cuda(cudaMalloc(&at_, std::max<std::size_t>(bytes, 256)), "malloc");
  }
  ~Buffer() { (void)cudaFree(at_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void put(const void* from) { cuda(cudaMemcpy(at_, from, bytes_, cudaMemcpyHostToDevice), "upload"); }
  void fill(int byte) { cuda(cudaMemset(at_, byte, bytes_), "fill"); }
  template <class T>
  std::vector<T> get() const {
    std::vector<T> host(bytes_ / sizeof(T));
    cuda(cudaMemcpy(host.data(), at_, bytes_, cudaMemcpyDeviceToHost), "download");
    return host;
  }
  char* at(std::int64_t elements = 0, std::size_t size = 2) const {
    return static_cast<char*>(at_) + static_cast<std::size_t>(elements) * size;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  void* at_ = nullptr;
};

std::uint16_t encode(DType dtype, float x) { return dtype == DType::bf16 ? bf16(x).bits : f16(x).bits; }
double decode(DType dtype, std::uint16_t bits) {
  if (dtype == DType::bf16) return static_cast<float>(bf16{std::bit_cast<bf16>(bits)});
  return static_cast<float>(std::bit_cast<f16>(bits));
}

/// q, k and v in one matrix or three, with their gradients alike; y and dy.
struct Operands {
  const Case& c;
  const AttentionShape& s = c.shape;
  std::size_t count[4];   // elements of q (or the fused matrix), k, v, y
  std::int64_t first[3];  // where q, k and v start in their matrix
  std::vector<std::uint16_t> x[3], dy;
  std::vector<std::unique_ptr<Buffer>> in, grads;
  std::unique_ptr<Buffer> dy_at, y_at, lse, index, workspace_forward, workspace_backward;

  explicit Operands(const Case& from) : c(from) {
    const std::size_t dense_rows = static_cast<std::size_t>(s.sequences * s.max_query);
    const std::size_t dense_keys = static_cast<std::size_t>(s.sequences * s.max_keys);
    const std::size_t rows = s.packed ? static_cast<std::size_t>(s.query_rows) : dense_rows;
    const std::size_t key_rows = s.packed ? static_cast<std::size_t>(s.key_rows) : dense_keys;
    count[0] = rows * static_cast<std::size_t>(s.q.row);
    count[1] = c.fused ? 0 : key_rows * static_cast<std::size_t>(s.k.row);
    count[2] = c.fused ? 0 : key_rows * static_cast<std::size_t>(s.v.row);
    count[3] = rows * static_cast<std::size_t>(s.y.row);
    first[0] = 0;
    first[1] = c.fused ? s.heads * s.head_dim : 0;
    first[2] = c.fused ? (s.heads + s.kv_heads) * s.head_dim : 0;
    // Sums of four uniform numbers, scaled to a variance of 1: near enough to normal, and quick.
    std::uint64_t state = 7;
    const auto normal = [&state] {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      std::uint64_t bits = state ^ (state >> 31);
      float sum = 0;
      for (int i = 0; i < 4; ++i, bits >>= 16) sum += static_cast<float>(bits & 0xffff) / 65536.0F - 0.5F;
      return sum * 1.7320508F;
    };
    // Rows that belong to no sequence hold NaN: nothing may come of them.
    const auto draw = [&](std::size_t n, std::size_t used, std::vector<std::uint16_t>& out) {
      out.assign(n, encode(s.dtype, std::numeric_limits<float>::quiet_NaN()));
      for (std::size_t i = 0; i < used; ++i) out[i] = encode(s.dtype, normal());
    };
    const auto used_rows = static_cast<std::size_t>(c.offsets(c.queries).back());
    const auto used_keys = static_cast<std::size_t>(c.offsets(c.keys).back());
    draw(count[0], used_rows * static_cast<std::size_t>(s.q.row), x[0]);
    draw(count[1], c.fused ? 0 : used_keys * static_cast<std::size_t>(s.k.row), x[1]);
    draw(count[2], c.fused ? 0 : used_keys * static_cast<std::size_t>(s.v.row), x[2]);
    draw(count[3], used_rows * static_cast<std::size_t>(s.dy.row), dy);
    for (std::size_t i = 0; i < 3; ++i) {
      in.push_back(std::make_unique<Buffer>(count[i] * 2));
      in.back()->put(x[i].data());
      grads.push_back(std::make_unique<Buffer>(count[i] * 2));
    }
    dy_at = std::make_unique<Buffer>(count[3] * 2);
    dy_at->put(dy.data());
    y_at = std::make_unique<Buffer>(count[3] * 2);
    const std::size_t stats = !s.packed || c.tuning.lse == Lse::padded ? dense_rows : rows;
    lse = std::make_unique<Buffer>(stats * static_cast<std::size_t>(s.heads) * 4);
    const PackedIndex layout(s, c.tuning.lse == Lse::token_major);
    index = std::make_unique<Buffer>(layout.bytes);
    put_index(c);
    clear();
  }
  void put_index(const Case& lengths) {
    const PackedIndex layout(s, c.tuning.lse == Lse::token_major);
    std::vector<char> host(layout.bytes);
    layout.fill(lengths.offsets(lengths.queries).data(), lengths.offsets(lengths.keys).data(),
                static_cast<std::int64_t>(lengths.queries.size()), host.data());
    index->put(host.data());
  }
  void clear() {
    y_at->fill(0x5a);
    lse->fill(0x5a);
    for (const auto& g : grads) g->fill(0x5a);
  }
  char* operand(std::size_t i) const { return in[c.fused ? 0 : i]->at(first[i]); }
  char* gradient(std::size_t i) const { return grads[c.fused ? 0 : i]->at(first[i]); }

  void forward(CudnnAttention& attention, const AttentionPlan& plan, cudaStream_t stream) {
    if (!workspace_forward) workspace_forward = std::make_unique<Buffer>(plan.workspace_bytes());
    attention.forward(plan, stream,
                      {.q = operand(0),
                       .k = operand(1),
                       .v = operand(2),
                       .y = y_at->at(),
                       .lse = reinterpret_cast<float*>(lse->at()),
                       .index = index->at()},
                      workspace_forward->at());
  }
  void backward(CudnnAttention& attention, const AttentionPlan& plan, cudaStream_t stream) {
    if (!workspace_backward) {
      workspace_backward = std::make_unique<Buffer>(plan.workspace_bytes());
      workspace_backward->fill(0xff);  // NaN: a run may not depend on what was there
    }
    attention.backward(plan, stream,
                       {.dy = dy_at->at(),
                        .q = operand(0),
                        .k = operand(1),
                        .v = operand(2),
                        .y = y_at->at(),
                        .lse = reinterpret_cast<const float*>(lse->at()),
                        .dq = gradient(0),
                        .dk = gradient(1),
                        .dv = gradient(2),
                        .index = index->at()},
                       workspace_backward->at());
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// The reference: one query, one head at a time, in float64.

struct Reference {
  std::vector<double> y, lse, grad[3];  // laid out like the device's matrices; lse [row, head]
};

Reference reference(const Operands& o, const Case& lengths) {
  const AttentionShape& s = o.s;
  const bool fused = o.c.fused;
  const std::vector<double>* in[3];
  std::vector<double> decoded[3];
  Reference r;
  for (std::size_t i = 0; i < 3; ++i) {
    for (const std::uint16_t bits : o.x[i]) decoded[i].push_back(decode(s.dtype, bits));
    r.grad[i].assign(decoded[i].size(), 0);
    in[i] = &decoded[fused ? 0 : i];
  }
  std::vector<double> dy;
  for (const std::uint16_t bits : o.dy) dy.push_back(decode(s.dtype, bits));
  const std::vector<std::int32_t> qo = lengths.offsets(lengths.queries), ko = lengths.offsets(lengths.keys);
  r.y.assign(dy.size(), 0);
  r.lse.assign(static_cast<std::size_t>(qo.back() * s.heads), 0);
  const auto place = [&](std::size_t which, std::int64_t row, std::int64_t head) {
    const HeadStrides at = which == 0 ? s.q : which == 1 ? s.k : s.v;
    return static_cast<std::size_t>(o.first[which] + row * at.row + head * at.head);
  };
  const auto d = static_cast<std::size_t>(s.head_dim);
  for (std::size_t n = 0; n < lengths.queries.size(); ++n) {
    for (std::int64_t head = 0; head < s.heads; ++head) {
      const std::int64_t kv = head / (s.heads / s.kv_heads);
      for (std::int64_t i = 0; i < lengths.queries[n]; ++i) {
        const std::int64_t position = i + lengths.keys[n] - lengths.queries[n];
        const std::size_t q = place(0, qo[n] + i, head);
        const auto out = static_cast<std::size_t>((qo[n] + i) * s.y.row + head * s.y.head);
        std::vector<std::pair<std::int64_t, double>> seen;
        double highest = -std::numeric_limits<double>::infinity();
        for (std::int64_t j = 0; j < lengths.keys[n]; ++j) {
          if (s.causal && (j > position || (s.window > 0 && position - j >= s.window))) continue;
          double dot = 0;
          for (std::size_t e = 0; e < d; ++e) dot += (*in[0])[q + e] * (*in[1])[place(1, ko[n] + j, kv) + e];
          seen.emplace_back(j, dot * static_cast<double>(s.scale));
          highest = std::max(highest, seen.back().second);
        }
        double sum = 0;
        for (const auto& [j, score] : seen) sum += std::exp(score - highest);
        r.lse[static_cast<std::size_t>((qo[n] + i) * s.heads + head)] = highest + std::log(sum);
        double delta = 0;
        for (auto& [j, score] : seen) {
          score = std::exp(score - highest) / sum;
          for (std::size_t e = 0; e < d; ++e) r.y[out + e] += score * (*in[2])[place(2, ko[n] + j, kv) + e];
        }
        for (std::size_t e = 0; e < d; ++e) delta += dy[out + e] * r.y[out + e];
        for (const auto& [j, p] : seen) {
          const std::size_t k = place(1, ko[n] + j, kv), v = place(2, ko[n] + j, kv);
          double dp = 0;
          for (std::size_t e = 0; e < d; ++e) dp += dy[out + e] * (*in[2])[v + e];
          const double ds = static_cast<double>(s.scale) * p * (dp - delta);
          for (std::size_t e = 0; e < d; ++e) {
            r.grad[fused ? 0 : 0][q + e] += ds * (*in[1])[k + e];
            r.grad[fused ? 0 : 1][k + e] += ds * (*in[0])[q + e];
            r.grad[fused ? 0 : 2][v + e] += p * dy[out + e];
          }
        }
      }
    }
  }
  return r;
}

/// The largest error over the largest value, of the heads of one operand; and what was written where nothing belongs.
struct Compared {
  double error = 0;
  std::size_t spilled = 0;
};

Compared compare(DType dtype, const std::vector<std::uint16_t>& got, const std::vector<double>& want, HeadStrides at,
                 std::int64_t first, std::int64_t heads, std::int64_t d, std::int64_t rows, std::int64_t all_rows) {
  Compared result;
  double largest = 0, worst = 0;
  for (std::int64_t row = 0; row < all_rows; ++row) {
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t e = 0; e < d; ++e) {
        const auto i = static_cast<std::size_t>(first + row * at.row + head * at.head + e);
        if (row >= rows) {
          if (got[i] != 0x5a5a) ++result.spilled;
          continue;
        }
        largest = std::max(largest, std::abs(want[i]));
        const double error = std::abs(decode(dtype, got[i]) - want[i]);
        if (!(error <= worst)) worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
      }
    }
  }
  result.error = largest > 0 ? worst / largest : worst;
  return result;
}

struct Outcome {
  bool passed = true;
  std::string text;
};

Outcome judge(const Operands& o, const Case& lengths) {
  const AttentionShape& s = o.s;
  const Reference want = reference(o, lengths);
  const std::int64_t rows = lengths.offsets(lengths.queries).back(), keys = lengths.offsets(lengths.keys).back();
  const std::int64_t all = s.packed ? s.query_rows : rows, all_keys = s.packed ? s.key_rows : keys;
  const double fine = s.dtype == DType::bf16 ? 0.01 : 0.002;
  Outcome result;
  const auto note = [&](const char* what, const Compared& c, double limit) {
    result.text += fmt::format(" {} {:.1e}", what, c.error);
    if (c.spilled > 0) result.text += fmt::format(" ({} SPILLED)", c.spilled);
    if (!(c.error <= limit) || c.spilled > 0) result.passed = false;
  };
  note("y", compare(s.dtype, o.y_at->get<std::uint16_t>(), want.y, s.y, 0, s.heads, s.head_dim, rows, all), fine);
  const std::vector<float> lse = o.lse->get<float>();
  double worst = 0;
  const std::vector<std::int32_t> qo = lengths.offsets(lengths.queries);
  for (std::size_t n = 0; n < lengths.queries.size(); ++n) {
    for (std::int64_t i = 0; i < lengths.queries[n]; ++i) {
      for (std::int64_t head = 0; head < s.heads; ++head) {
        const std::int64_t row = qo[n] + i;
        const std::int64_t at = !s.packed || o.c.tuning.lse == Lse::padded
                                    ? (static_cast<std::int64_t>(n) * s.heads + head) * s.max_query + i
                                : o.c.tuning.lse == Lse::head_major ? head * s.query_rows + row
                                                                    : row * s.heads + head;
        const double error = std::abs(static_cast<double>(lse[static_cast<std::size_t>(at)]) -
                                      want.lse[static_cast<std::size_t>(row * s.heads + head)]);
        if (!(error <= worst)) worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
      }
    }
  }
  note("lse", {.error = worst}, 1e-3);
  const char* names[] = {"dq", "dk", "dv"};
  const HeadStrides strides[] = {s.dq, s.dk, s.dv};
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t m = o.c.fused ? 0 : i;
    note(names[i],
         compare(s.dtype, o.grads[m]->get<std::uint16_t>(), want.grad[m], strides[i], o.first[i],
                 i == 0 ? s.heads : s.kv_heads, s.head_dim, i == 0 ? rows : keys, i == 0 ? all : all_keys),
         2 * fine);
  }
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Checks.

Outcome check_case(CudnnDevice& device, const Case& c) {
  CudnnAttention attention(device, c.tuning);
  const AttentionPlan& forward = attention.forward_plan(c.shape, true);
  const AttentionPlan& inference = attention.forward_plan(c.shape, false);
  const AttentionPlan& backward = attention.backward_plan(c.shape);
  for (const AttentionPlan* plan : {&forward, &inference, &backward}) {
    if (plan->declined() != nullptr) return {false, fmt::format(" DECLINED: {}", plan->declined())};
  }
  Operands o(c);
  cudaStream_t stream = nullptr;
  cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  o.forward(attention, forward, stream);
  o.backward(attention, backward, stream);
  cuda(cudaStreamSynchronize(stream), "running");
  Outcome result = judge(o, c);

  // Without the log-sum-exp the output is the same.
  const std::vector<std::uint16_t> y = o.y_at->get<std::uint16_t>();
  o.y_at->fill(0x5a);
  o.workspace_forward.reset();
  o.forward(attention, inference, stream);
  cuda(cudaStreamSynchronize(stream), "running inference");
  if (y != o.y_at->get<std::uint16_t>()) {
    result.passed = false;
    result.text += " INFERENCE DIFFERS";
  }

  std::vector<std::uint16_t> grads[3];
  for (std::size_t i = 0; i < 3; ++i) grads[i] = o.grads[i]->get<std::uint16_t>();
  int same = 0;
  for (int again = 0; again < 5; ++again) {
    o.backward(attention, backward, stream);
    cuda(cudaStreamSynchronize(stream), "running again");
    bool all = true;
    for (std::size_t i = 0; i < 3; ++i) all = all && grads[i] == o.grads[i]->get<std::uint16_t>();
    same += all ? 1 : 0;
  }
  result.text += fmt::format(" same bytes {}/5", same);
  if (c.shape.deterministic && same < 5) result.passed = false;
  cuda(cudaStreamDestroy(stream), "stream");
  return result;
}

// One captured graph serves batches with other boundaries.
Outcome check_capture(CudnnDevice& device, const Case& c, const std::vector<std::vector<std::int32_t>>& others) {
  CudnnAttention attention(device, c.tuning);
  const AttentionPlan& forward = attention.forward_plan(c.shape, true);
  const AttentionPlan& backward = attention.backward_plan(c.shape);
  for (const AttentionPlan* plan : {&forward, &backward}) {
    if (plan->declined() != nullptr) return {false, fmt::format(" DECLINED: {}", plan->declined())};
  }
  Operands o(c);
  cudaStream_t stream = nullptr;
  cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  o.forward(attention, forward, stream);  // before the capture: workspaces, modules
  o.backward(attention, backward, stream);
  cuda(cudaStreamSynchronize(stream), "warming up");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  o.forward(attention, forward, stream);
  o.backward(attention, backward, stream);
  cuda(cudaStreamEndCapture(stream, &graph), "end of capture");
  std::size_t nodes = 0;
  cuda(cudaGraphGetNodes(graph, nullptr, &nodes), "nodes");
  cuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  Outcome result{.text = fmt::format(" {} nodes", nodes)};
  for (const std::vector<std::int32_t>& lengths : others) {
    Case other = c;
    other.queries = other.keys = lengths;
    o.put_index(other);
    o.clear();
    cuda(cudaGraphLaunch(exec, stream), "replay");
    cuda(cudaStreamSynchronize(stream), "replaying");
    const Outcome one = judge(o, other);
    result.passed = result.passed && one.passed;
    result.text += fmt::format(" | {} sequences:{}", lengths.size(), one.text);
  }
  cuda(cudaGraphExecDestroy(exec), "graph");
  cuda(cudaGraphDestroy(graph), "graph");
  cuda(cudaStreamDestroy(stream), "stream");
  return result;
}

struct Check {
  std::string label;
  std::function<Outcome(CudnnDevice&)> run;
};

std::vector<Case> check_cases() {
  std::vector<Case> cases;
  const std::vector<std::int32_t> five{64, 1, 37, 23, 5};
  const Options packed{.packed = true, .slots = 8, .rows = 160};
  const auto with = [](Options o, const std::function<void(Options&)>& change) {
    change(o);
    return o;
  };
  for (const bool deterministic : {true, false}) {
    const char* how = deterministic ? "" : ", any order";
    const Options dense{.deterministic = deterministic};
    cases.push_back(self(fmt::format("dense 2x128{}", how), {128, 128}, dense));
    cases.push_back(self(fmt::format("dense 2x256 gqa 14/2 fused{}", how), {256, 256},
                         with(dense, [](Options& o) { o.heads = 14, o.kv_heads = 2, o.fused = true; })));
    for (const Lse lse : {Lse::head_major, Lse::token_major, Lse::padded}) {
      for (const Inner inner : {Inner::shared, Inner::compact, Inner::padded}) {
        for (const bool fused : {false, true}) {
          const AttentionTuning tuning{.lse = lse, .full_heads = inner, .accumulator = inner};
          cases.push_back(self(fmt::format("packed gqa 14/2{}, {}{}", fused ? " fused" : "", name(tuning), how), five,
                               with(packed, [&](Options& o) {
                                 o.heads = 14, o.kv_heads = 2, o.fused = fused, o.tuning = tuning,
                                 o.deterministic = deterministic;
                               })));
        }
      }
    }
  }
  for (const bool deterministic : {true, false}) {
    const char* how = deterministic ? "" : ", any order";
    const Options gqa =
        with(packed, [&](Options& o) { o.heads = 8, o.kv_heads = 2, o.fused = true, o.deterministic = deterministic; });
    cases.push_back(
        self(fmt::format("packed, every head its keys{}", how), five, with(gqa, [](Options& o) { o.kv_heads = 8; })));
    cases.push_back(
        self(fmt::format("packed, one key head{}", how), five, with(gqa, [](Options& o) { o.kv_heads = 1; })));
    for (const std::int64_t d : {96, 128}) {
      cases.push_back(self(fmt::format("packed d {}{}", d, how), five, with(gqa, [&](Options& o) { o.d = d; })));
      cases.push_back(self(fmt::format("dense d {}{}", d, how), {128, 128},
                           with(gqa, [&](Options& o) { o.packed = false, o.slots = 0, o.rows = 0, o.d = d; })));
    }
    cases.push_back(self(fmt::format("packed f16{}", how), five, with(gqa, [](Options& o) { o.dtype = DType::f16; })));
    cases.push_back(
        self(fmt::format("packed, not causal{}", how), five, with(gqa, [](Options& o) { o.causal = false; })));
    cases.push_back(self(fmt::format("packed, window 16{}", how), five, with(gqa, [](Options& o) { o.window = 16; })));
    cases.push_back(self(fmt::format("dense, window 48{}", how), {256, 256},
                         with(gqa, [](Options& o) { o.packed = false, o.slots = 0, o.rows = 0, o.window = 48; })));
    cases.push_back(self(fmt::format("packed, maximum 160{}", how), five,
                         with(gqa, [](Options& o) { o.max_query = o.max_keys = 160; })));
    cases.push_back(self(fmt::format("packed, one sequence of 130{}", how), {130}, gqa));
    cases.push_back(self(fmt::format("packed, one full sequence, no empty place{}", how), {160},
                         with(gqa, [](Options& o) { o.slots = 1; })));
    const auto apart = with(gqa, [](Options& o) { o.fused = false, o.key_rows = 320; });
    cases.push_back(
        make(fmt::format("packed, fewer queries than keys{}", how), {40, 1, 9, 30}, {100, 40, 9, 111}, apart));
    cases.push_back(make(fmt::format("packed, fewer queries than keys, window 16{}", how), {40, 1, 9, 30},
                         {100, 40, 9, 111}, with(apart, [](Options& o) { o.window = 16; })));
    cases.push_back(make(fmt::format("packed, other keys, not causal{}", how), {40, 1, 9, 30}, {10, 40, 9, 111},
                         with(apart, [](Options& o) { o.causal = false; })));
    cases.push_back(make(fmt::format("dense, fewer queries than keys{}", how), {128, 128}, {256, 256},
                         with(apart, [](Options& o) { o.packed = false, o.slots = 0, o.rows = 0, o.key_rows = 0; })));
  }
  return cases;
}

std::vector<Check> checks() {
  std::vector<Check> all;
  for (const Case& c : check_cases()) {
    all.push_back({c.label, [c](CudnnDevice& device) { return check_case(device, c); }});
  }
  for (const bool deterministic : {true, false}) {
    const Case c = self("", {64, 1, 37, 23, 5},
                        {.packed = true,
                         .slots = 8,
                         .rows = 160,
                         .max_query = 160,
                         .heads = 8,
                         .kv_heads = 2,
                         .fused = true,
                         .deterministic = deterministic});
    all.push_back({fmt::format("captured graph{}", deterministic ? "" : ", any order"), [c](CudnnDevice& device) {
                     return check_capture(device, c, {{5, 23, 37, 1, 64}, {130}, {10, 20, 30, 10, 20, 20, 10, 10}});
                   }});
  }
  return all;
}

// ---------------------------------------------------------------------------------------------------------------------
// Times.

struct Model {
  const char* label;
  std::int64_t heads, kv_heads, d, sequences;
};
constexpr Model kModels[] = {
    {"Qwen2.5-0.5B", 14, 2, 64, 4}, {"Llama-3.2-1B", 32, 8, 64, 4}, {"Llama-3.1-8B", 32, 8, 128, 2}};

std::vector<Case> timed_cases() {
  std::vector<Case> cases;
  for (const Model& m : kModels) {
    const std::int64_t rows = m.sequences * 2048;
    const std::vector<std::int32_t> full(static_cast<std::size_t>(m.sequences), 2048);
    std::vector<std::int32_t> mixed;  // 16 sequences of unequal lengths that fill the budget
    const std::int32_t parts[] = {3, 1, 9, 2, 16, 5, 4, 7, 1, 12, 6, 3, 8, 2, 14, 7};
    for (const std::int32_t part : parts) mixed.push_back(static_cast<std::int32_t>(rows * part / 100));
    mixed.back() += static_cast<std::int32_t>(rows) - [&] {
      std::int32_t sum = 0;
      for (const std::int32_t n : mixed) sum += n;
      return sum;
    }();
    for (const bool deterministic : {true, false}) {
      const Options dense{
          .heads = m.heads, .kv_heads = m.kv_heads, .d = m.d, .fused = true, .deterministic = deterministic};
      Options packed = dense;
      packed.packed = true;
      packed.rows = rows;
      const auto add = [&](const char* what, const std::vector<std::int32_t>& lengths, Options o, std::int64_t slots,
                           std::int64_t longest) {
        o.slots = slots;
        o.max_query = o.max_keys = longest;
        cases.push_back(
            self(fmt::format("{} {}x2048 {}, {} order", m.label, m.sequences, what, deterministic ? "fixed" : "any"),
                 lengths, o));
      };
      cases.push_back(
          self(fmt::format("{} {}x2048 dense, {} order", m.label, m.sequences, deterministic ? "fixed" : "any"), full,
               dense));
      add("packed, full, as many places", full, packed, m.sequences, 2048);
      add("packed, full, 16 places", full, packed, 16, 2048);
      add("packed, 16 mixed, 16 places", mixed, packed, 16, 2048);
      if (!deterministic) {
        add("packed, 16 mixed, 64 places", mixed, packed, 64, 2048);
        add("packed, 16 mixed, 16 places, maximum: budget", mixed, packed, 16, rows);
        for (const Inner inner : {Inner::shared, Inner::padded}) {
          packed.tuning = {.lse = Lse::head_major, .full_heads = inner, .accumulator = inner};
          add(inner == Inner::shared ? "packed, 16 mixed, 16 places, shared" : "packed, 16 mixed, 16 places, padded",
              mixed, packed, 16, 2048);
        }
        packed.tuning = {.lse = Lse::token_major};
        add("packed, 16 mixed, 16 places, lse [t,h]", mixed, packed, 16, 2048);
      }
    }
  }
  return cases;
}

Outcome time_case(CudnnDevice& device, const Case& c) {
  CudnnAttention attention(device, c.tuning);
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const AttentionPlan& forward = attention.forward_plan(c.shape, true);
  const AttentionPlan& backward = attention.backward_plan(c.shape);
  const double planned = std::chrono::duration<double>(Clock::now() - start).count();
  for (const AttentionPlan* plan : {&forward, &backward}) {
    if (plan->declined() != nullptr) return {false, fmt::format(" DECLINED: {}", plan->declined())};
  }
  Operands o(c);
  cudaStream_t stream = nullptr;
  cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  double flops = 0;
  for (const std::int32_t n : c.queries) flops += 2.0 * n * n * static_cast<double>(c.shape.heads * c.shape.head_dim);
  cudaEvent_t from = nullptr, to = nullptr;
  cuda(cudaEventCreate(&from), "event");
  cuda(cudaEventCreate(&to), "event");
  const auto median = [&](const std::function<void()>& work) {
    std::vector<float> times;
    for (int i = 0; i < 25; ++i) {
      cuda(cudaEventRecord(from, stream), "event");
      for (int k = 0; k < 4; ++k) work();
      cuda(cudaEventRecord(to, stream), "event");
      cuda(cudaEventSynchronize(to), "running");
      float ms = 0;
      cuda(cudaEventElapsedTime(&ms, from, to), "event");
      if (i >= 5) times.push_back(ms / 4);
    }
    std::sort(times.begin(), times.end());
    return static_cast<double>(times[times.size() / 2]);
  };
  const double f = median([&] { o.forward(attention, forward, stream); });
  const double b = median([&] { o.backward(attention, backward, stream); });
  const auto host = Clock::now();
  for (int i = 0; i < 50; ++i) o.forward(attention, forward, stream);
  const double queued = std::chrono::duration<double>(Clock::now() - host).count() / 50;
  cuda(cudaStreamSynchronize(stream), "running");
  cuda(cudaEventDestroy(from), "event");
  cuda(cudaEventDestroy(to), "event");
  cuda(cudaStreamDestroy(stream), "stream");
  return {true,
          fmt::format(" forward {:.3f} ms {:.0f} TFLOP/s [{}] | backward {:.3f} ms {:.0f} TFLOP/s [{}] {:.0f} MB | "
                      "plans {:.1f} s, {:.0f} us to queue",
                      f, flops / f / 1e9, forward.engine(), b, 2.5 * flops / b / 1e9, backward.engine(),
                      static_cast<double>(backward.workspace_bytes()) / 1e6, planned, queued * 1e6)};
}

// ---------------------------------------------------------------------------------------------------------------------

int plans(const char* file) {
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  CudnnDevice device(text.str());
  int declined = 0;
  std::vector<Case> cases = check_cases();
  for (const Case& c : timed_cases()) cases.push_back(c);
  for (const Case& c : cases) {
    CudnnAttention attention(device, c.tuning);
    const AttentionPlan* all[] = {&attention.forward_plan(c.shape, true), &attention.forward_plan(c.shape, false),
                                  &attention.backward_plan(c.shape)};
    fmt::print("{}:", c.label);
    for (const AttentionPlan* plan : all) {
      fmt::print(" [{} {:.1f} MB]", plan->engine(), static_cast<double>(plan->workspace_bytes()) / 1e6);
      if (plan->declined() != nullptr) ++declined;
    }
    fmt::print("\n");
  }
  fmt::print("cuDNN {}: {} cases, {} plans declined\n", cudnn().version, cases.size(), declined);
  return declined == 0 ? 0 : 1;
}

// Runs tasks from `first` on. An illegal access ends a process's use of the device, so each stretch runs in a process
// of its own; what it got to is written to `progress`.
int run_tasks(const std::vector<Check>& tasks, std::size_t first, int progress) {
  CudnnDevice device;
  int failed = 0;
  for (std::size_t i = first; i < tasks.size(); ++i) {
    const auto next = static_cast<std::uint32_t>(i + 1);
    (void)!write(progress, &next, sizeof next);
    Outcome outcome;
    try {
      outcome = tasks[i].run(device);
    } catch (const std::exception& error) {
      outcome = {false, fmt::format(" ERROR: {}", error.what())};
    }
    fmt::print("{} {}:{}\n", outcome.passed ? "ok  " : "FAIL", tasks[i].label, outcome.text);
    std::fflush(stdout);
    failed += outcome.passed ? 0 : 1;
    if (cudaDeviceSynchronize() != cudaSuccess) {
      std::_Exit(std::min(failed, 100));  // the device is lost to this process
    }
  }
  std::_Exit(std::min(failed, 100));
}

int run_all(const std::vector<Check>& tasks) {
  int failed = 0;
  std::uint32_t next = 0;
  while (next < tasks.size()) {
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0) return 1;
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      try {
        run_tasks(tasks, next, pipe_ends[1]);
      } catch (const std::exception& error) {
        fmt::print("FAIL {}\n", error.what());
        std::fflush(stdout);
      }
      std::_Exit(101);
    }
    close(pipe_ends[1]);
    const std::uint32_t before = next;
    for (std::uint32_t reached = 0; read(pipe_ends[0], &reached, sizeof reached) == sizeof reached;) next = reached;
    close(pipe_ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    failed += WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    if (WIFSIGNALED(status))
      fmt::print("FAIL {}: signal {}\n", tasks[next == 0 ? 0 : next - 1].label, WTERMSIG(status));
    if (next == before) break;  // it never got to a task
  }
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  if (cudnn_absent() != nullptr) {
    fmt::print("skipped: {}\n", cudnn_absent());
    return 77;
  }
  try {
    if (what == "plans" && argc > 2) return plans(argv[2]);
    fmt::print("cuDNN {}\n", cudnn().version);
    int failed = 0;
    if (what == "all" || what == "check") {
      failed = run_all(checks());
      fmt::print("{} checks failed of {}\n", failed, checks().size());
    }
    if (what == "all" || what == "time") {
      std::vector<Check> tasks;
      for (const Case& c : timed_cases()) {
        tasks.push_back({c.label, [c](CudnnDevice& device) { return time_case(device, c); }});
      }
      run_all(tasks);
    }
    return failed == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print("FAIL {}\n", error.what());
    return 1;
  }
}
