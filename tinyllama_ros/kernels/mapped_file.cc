// Keeps a mapped file that is cut short from ending the process.
//
// Whoever reads a page of a mapping that lies beyond the end of its file gets the signal SIGBUS.
// For guarded files, its handler puts zeros where the file has ended, so that the reader goes on;
// the program then finds that the file has changed (engine/mapped_file.py).

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace tinyllama_ros {
namespace {

// Addresses, and the file that is mapped there; inode 0 is memory of no file.
struct Mapping {
  uint64_t begin, end, device, inode;
};

// Reads /proc/self/maps by system calls alone, as a signal handler must. A line of it is
// begin-end permissions offset major:minor inode path
class Maps {
 public:
  Maps() : file_(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)) {}
  ~Maps() { close(file_); }

  bool Find(uint64_t address, Mapping *mapping) {
    for (Next(); last_ >= 0; Next()) {
      mapping->begin = Number(16);
      Next();
      mapping->end = Number(16);
      for (Next(); last_ != ' ' && last_ >= 0;) Next();
      Next();
      Number(16);
      Next();
      mapping->device = Number(16) << 32;
      Next();
      mapping->device |= Number(16);
      Next();
      mapping->inode = Number(10);
      if (mapping->begin <= address && address < mapping->end) return true;
      while (last_ != '\n' && last_ >= 0) Next();
    }
    return false;
  }

 private:
  void Next() {
    if (at_ == size_) {
      at_ = 0;
      size_ = read(file_, buffer_, sizeof buffer_);
      if (size_ <= 0) size_ = 0;
    }
    last_ = size_ ? static_cast<unsigned char>(buffer_[at_++]) : -1;
  }

  // Reads a number that begins at the last character, and one character beyond it.
  uint64_t Number(int base) {
    uint64_t number = 0;
    for (;; Next()) {
      const int digit = last_ >= '0' && last_ <= '9'   ? last_ - '0'
                        : last_ >= 'a' && last_ <= 'f' ? last_ - 'a' + 10
                                                       : base;
      if (digit >= base) return number;
      number = number * base + digit;
    }
  }

  const int file_;
  char buffer_[1024];
  ssize_t size_ = 0, at_ = 0;
  int last_ = 0;
};

// The files that were guarded last, which are more than a process maps at once.
struct GuardedFile {
  std::atomic<uint64_t> device, inode;
};
GuardedFile g_guarded[32];
struct sigaction g_previous;

bool IsGuarded(const Mapping &mapping) {
  for (const GuardedFile &file : g_guarded)
    if (file.inode == mapping.inode && file.device == mapping.device) return true;
  return false;
}

void OnBusError(int, siginfo_t *info, void *) {
  const int error = errno;
  const uint64_t page = sysconf(_SC_PAGESIZE);
  const uint64_t address = reinterpret_cast<uint64_t>(info->si_addr) / page * page;
  Mapping mapping;
  const bool is_known = info->si_code == BUS_ADRERR && Maps().Find(address, &mapping);
  if (is_known && mapping.inode && IsGuarded(mapping)) {
    // What lies behind the page in the mapping lies beyond the end of the file, too
    mmap(reinterpret_cast<void *>(address), mapping.end - address, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  } else if (!is_known || mapping.inode) {  // else another thread was faster
    sigaction(SIGBUS, &g_previous, nullptr);  // which gets the signal when the read is repeated
  }
  errno = error;
}

}  // namespace
}  // namespace tinyllama_ros

// Guards an open file, wherever it is mapped in this process.
extern "C" __attribute__((visibility("default"))) void GuardMappedFile(int file) {
  using namespace tinyllama_ros;
  static std::mutex mutex;
  static size_t count = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  // Some file systems report another device, or another inode, than the list of mappings
  void *probe = mmap(nullptr, 1, PROT_READ, MAP_PRIVATE, file, 0);
  Mapping mapping;
  if (probe == MAP_FAILED) return;
  const bool is_known = Maps().Find(reinterpret_cast<uint64_t>(probe), &mapping);
  munmap(probe, 1);
  if (!is_known || IsGuarded(mapping)) return;
  if (!count) {
    struct sigaction action = {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &g_previous);
  }
  GuardedFile &guarded = g_guarded[count++ % (sizeof g_guarded / sizeof *g_guarded)];
  guarded.device = mapping.device;
  guarded.inode = mapping.inode;
}
