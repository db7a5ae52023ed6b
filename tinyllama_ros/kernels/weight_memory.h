// Memory for packed weights.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tinyllama_ros {

// Returns memory in large pages, beside the weight before it: the weights of a small model would
// not fill a large page each, and from small pages decoding takes a tenth longer.
std::shared_ptr<uint8_t> AllocateWeight(size_t bytes);

// Tells Linux that the pages of a file which hold this will not be read again: once a weight is
// packed, its copy in the file need not stay in memory.
void ReleasePages(const void *memory, size_t bytes);

}  // namespace tinyllama_ros
