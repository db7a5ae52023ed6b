// What we use of ONNX Runtime's C interface, so that no header of it is needed.
//
// The interface is a table of function pointers that only grows at its end: a place, once given, is
// kept for good (onnxruntime_c_api.h, "the C API"; the places were counted there). The layout of a
// custom operator is that of OrtCustomOp in the same file, as of version 18 (ONNX Runtime 1.18).

#pragma once

#include <cstddef>
#include <cstdint>

namespace tinyllama_ros {

constexpr uint32_t kApiVersion = 18;

struct Context;
struct Domain;
struct KernelInfo;
struct SessionOptions;
struct Status;
struct TensorInfo;
struct Value;

enum ElementType { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6 };

class Api {
 public:
  Status *Fail(const char *message) const {
    constexpr int kFailed = 1;
    return Call<Status *(int, const char *)>(0)(kFailed, message);
  }
  Status *NewDomain(const char *name, Domain **domain) const {
    return Call<Status *(const char *, Domain **)>(26)(name, domain);
  }
  Status *Add(Domain *domain, const struct CustomOp *op) const {
    return Call<Status *(Domain *, const CustomOp *)>(27)(domain, op);
  }
  Status *Add(SessionOptions *options, Domain *domain) const {
    return Call<Status *(SessionOptions *, Domain *)>(28)(options, domain);
  }
  Status *Data(const Value *value, void **data) const {
    return Call<Status *(const Value *, void **)>(51)(value, data);
  }
  Status *Rank(const TensorInfo *info, size_t *rank) const {
    return Call<Status *(const TensorInfo *, size_t *)>(61)(info, rank);
  }
  Status *Shape(const TensorInfo *info, int64_t *shape, size_t rank) const {
    return Call<Status *(const TensorInfo *, int64_t *, size_t)>(62)(info, shape, rank);
  }
  Status *Info(const Value *value, TensorInfo **info) const {
    return Call<Status *(const Value *, TensorInfo **)>(65)(value, info);
  }
  Status *Attribute(const KernelInfo *info, const char *name, float *value) const {
    return Call<Status *(const KernelInfo *, const char *, float *)>(85)(info, name, value);
  }
  Status *Attribute(const KernelInfo *info, const char *name, int64_t *value) const {
    return Call<Status *(const KernelInfo *, const char *, int64_t *)>(86)(info, name, value);
  }
  Status *Input(const Context *context, size_t index, const Value **value) const {
    return Call<Status *(const Context *, size_t, const Value **)>(90)(context, index, value);
  }
  Status *Output(Context *context, size_t index, const int64_t *shape, size_t rank,
                 Value **value) const {
    return Call<Status *(Context *, size_t, const int64_t *, size_t, Value **)>(91)(
        context, index, shape, rank, value);
  }
  void Release(TensorInfo *info) const { Call<void(TensorInfo *)>(99)(info); }
  Status *Constant(const KernelInfo *info, size_t index, int *is_constant,
                   const Value **value) const {
    return Call<Status *(const KernelInfo *, size_t, int *, const Value **)>(249)(
        info, index, is_constant, value);
  }
  // Runs task(data, 0..count-1) on the session's threads, the caller's among them.
  Status *ParallelFor(const Context *context, void (*task)(void *, size_t), size_t count,
                      void *data) const {
    return Call<Status *(const Context *, void (*)(void *, size_t), size_t, size_t, void *)>(274)(
        context, task, count, 0, data);
  }

 private:
  template <typename Function>
  Function *Call(size_t place) const {
    return reinterpret_cast<Function *>(reinterpret_cast<void *const *>(this)[place]);
  }
};

struct ApiBase {
  const Api *(*get)(uint32_t version);
  const char *(*version)();
};

// Functions that may be null are left so by the ones that fill this in.
struct CustomOp {
  uint32_t version;
  void *(*create_v1)(const CustomOp *, const Api *, const KernelInfo *);
  const char *(*name)(const CustomOp *);
  const char *(*provider)(const CustomOp *);
  int (*input_type)(const CustomOp *, size_t);
  size_t (*input_count)(const CustomOp *);
  int (*output_type)(const CustomOp *, size_t);
  size_t (*output_count)(const CustomOp *);
  void (*compute_v1)(void *, Context *);
  void (*destroy)(void *);
  int (*input_characteristic)(const CustomOp *, size_t);
  int (*output_characteristic)(const CustomOp *, size_t);
  int (*input_memory)(const CustomOp *, size_t);
  int (*variadic_input_arity)(const CustomOp *);
  int (*variadic_input_homogeneity)(const CustomOp *);
  int (*variadic_output_arity)(const CustomOp *);
  int (*variadic_output_homogeneity)(const CustomOp *);
  Status *(*create)(const CustomOp *, const Api *, const KernelInfo *, void **);
  Status *(*compute)(void *, Context *);
  Status *(*infer_shape)(const CustomOp *, void *);
  int (*first_version)(const CustomOp *);
  int (*last_version)(const CustomOp *);
  size_t (*may_inplace)(int **, int **);
  void (*release_may_inplace)(int *, int *);
  size_t (*alias_map)(int **, int **);
  void (*release_alias_map)(int *, int *);
};

}  // namespace tinyllama_ros
