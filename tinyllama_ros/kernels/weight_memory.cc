#include "weight_memory.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#include <sys/mman.h>
#include <unistd.h>

namespace tinyllama_ros {
namespace {

// Advises Linux on the pages that lie wholly in some memory.
void Advise(const void *memory, size_t bytes, size_t page, int advice) {
  const uintptr_t start = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (start + page - 1) / page * page, end = (start + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void *>(begin), end - begin, advice);
}

// Some large pages, which are given out from the front to the back.
class Block {
 public:
  explicit Block(size_t bytes) : size_((bytes + kPage - 1) / kPage * kPage) {
    memory_.reset(static_cast<uint8_t *>(std::aligned_alloc(kPage, size_)));
    if (!memory_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    Advise(memory_.get(), size_, kPage, MADV_HUGEPAGE);  // Linux may give them only then
#endif
  }

  size_t Left() const { return size_ - used_; }

  uint8_t *Take(size_t bytes) {
    uint8_t *memory = memory_.get() + used_;
    used_ += (bytes + kLine - 1) / kLine * kLine;
    return memory;
  }

 private:
  static constexpr size_t kPage = 2 << 20, kLine = 64;
  struct Free {
    void operator()(uint8_t *memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
  size_t size_, used_ = 0;
};

}  // namespace

std::shared_ptr<uint8_t> AllocateWeight(size_t bytes) {
  constexpr size_t kBlock = 128 << 20;  // of addresses; a page takes memory when it is used
  static std::mutex mutex;              // several threads may make sessions
  static std::weak_ptr<Block> newest;   // a block is freed with its last weight
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Block> block = newest.lock();
  if (!block || block->Left() < bytes)
    newest = block = std::make_shared<Block>(std::max(bytes, kBlock));
  return {block, block->Take(bytes)};
}

void ReleasePages(const void *memory, size_t bytes) {
#ifdef MADV_PAGEOUT
  Advise(memory, bytes, sysconf(_SC_PAGESIZE), MADV_PAGEOUT);
#else
  static_cast<void>(memory);
  static_cast<void>(bytes);
#endif
}

}  // namespace tinyllama_ros
