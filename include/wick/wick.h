#pragma once

/// The whole of the library.

#include "wick/adapter.h"
#include "wick/autograd.h"
#include "wick/data.h"
#include "wick/device.h"
#include "wick/dtype.h"
#include "wick/embedding.h"
#include "wick/error.h"
#include "wick/fuse.h"
#include "wick/generate.h"
#include "wick/lora.h"
#include "wick/model.h"
#include "wick/ops.h"
#include "wick/profile.h"
#include "wick/safetensors.h"
#include "wick/schedule.h"
#include "wick/shape.h"
#include "wick/tensor.h"
#include "wick/tokenizer.h"
#include "wick/train.h"
#include "wick/version.h"
