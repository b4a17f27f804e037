/* tests/cuda-emu/kernels.cc -- backends/cuda/kernels.cu, compiled as C++ over emu.h. */
#include "tests/cuda-emu/emu.h"

#include "backends/cuda/kernels.cu"
