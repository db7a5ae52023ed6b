// How many products and sums a second VPDPBUSD makes on registers alone: what bounds a prompt.
//
//     g++ -O2 -march=native -pthread bench/peak.cc -o /tmp/peak && /tmp/peak [threads, 2]

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#ifndef __AVX512VNNI__
#error "this processor lacks AVX-512 VNNI"
#endif

namespace {

constexpr long kTurns = 20'000'000;
constexpr double kOperations = 16 * 128.0;  // of a turn: 64 products and sums each

// Sixteen sums that do not wait for each other.
void Multiply() {
  for (long turn = 0; turn < kTurns; ++turn)
    __asm__ volatile(
        "vpdpbusd %%zmm16, %%zmm17, %%zmm0\n vpdpbusd %%zmm16, %%zmm17, %%zmm1\n"
        "vpdpbusd %%zmm16, %%zmm17, %%zmm2\n vpdpbusd %%zmm16, %%zmm17, %%zmm3\n"
        "vpdpbusd %%zmm16, %%zmm17, %%zmm4\n vpdpbusd %%zmm16, %%zmm17, %%zmm5\n"
        "vpdpbusd %%zmm16, %%zmm17, %%zmm6\n vpdpbusd %%zmm16, %%zmm17, %%zmm7\n"
        "vpdpbusd %%zmm16, %%zmm17, %%zmm8\n vpdpbusd %%zmm16, %%zmm17, %%zmm9\n"
        "vpdpbusd %%zmm16, %%zmm17, %%zmm10\n vpdpbusd %%zmm16, %%zmm17, %%zmm11\n"
        "vpdpbusd %%zmm16, %%zmm17, %%zmm12\n vpdpbusd %%zmm16, %%zmm17, %%zmm13\n"
        "vpdpbusd %%zmm16, %%zmm17, %%zmm14\n vpdpbusd %%zmm16, %%zmm17, %%zmm15\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
              "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

}  // namespace

int main(int count, char **arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 2;
  for (int run = 0; run < 5; ++run) {
    const auto began = std::chrono::steady_clock::now();
    std::vector<std::thread> running;
    for (int i = 0; i < threads; ++i) running.emplace_back(Multiply);
    for (std::thread &each : running) each.join();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - began;
    const double operations = threads * kTurns * kOperations;
    std::printf("%d threads: %.3f TOP/s\n", threads, operations / taken.count() / 1e12);
  }
}
