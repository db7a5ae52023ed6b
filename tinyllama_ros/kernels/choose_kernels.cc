// Which kernels run on this processor.

#include "kernels.h"

const tinyllama_ros::Kernels *tinyllama_ros::ChooseKernels() {
  if (const Kernels *kernels = Avx512Kernels()) return kernels;
  if (const Kernels *kernels = AvxVnniKernels()) return kernels;
  return Avx2Kernels();
}
