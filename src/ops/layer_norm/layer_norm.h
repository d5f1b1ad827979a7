#pragma once

#include "ops/kernel_table.h"

namespace wick {

/// total = x + residual (undefined residual: x), rounded to the dtype; y = (total - mean) * rstd * weight + bias
/// (undefined: none); stats [2, rows] f32 = mean and rstd = 1 / sqrt(var + eps). total and stats are saved for
/// backward; undefined ones are not wanted, and without a residual there is no total. All matrices [rows, n] with dense
/// columns.
using LayerNormForward = Declined(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                                  float eps, const Tensor& total, const Tensor& y, const Tensor& stats);
/// dx where defined; dparams [2, n] f32, where defined, = dweight and dbias.
using LayerNormBackward = Declined(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& stats,
                                   const Tensor& dx, const Tensor& dparams);

/// The layer norm of words[ids[i]] + positions[places[i]], for inference; ids and places i32, dense. On a device they
/// are not trusted: a row out of range is NaN.
using EmbeddingNormForward = Declined(const Tensor& words, const Tensor& ids, const Tensor& positions,
                                      const Tensor& places, const Tensor& weight, const Tensor& bias, float eps,
                                      const Tensor& y);

extern Kernels<LayerNormForward> layer_norm_forward;
/// None for the CPU, where gathering rows is little beside all else.
extern Kernels<EmbeddingNormForward> embedding_norm_forward;
extern Kernels<LayerNormBackward> layer_norm_backward;

LayerNormForward layer_norm_forward_cpu;
LayerNormBackward layer_norm_backward_cpu;

}  // namespace wick
