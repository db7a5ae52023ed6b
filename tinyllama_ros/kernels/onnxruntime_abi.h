// What we use of ONNX Runtime's C interface, so that no header of it is needed to compile this.
//
// The interface is a table of function pointers, OrtApi, that only grows at its end: the place of a
// function never changes. Names, places and types are those of onnxruntime_c_api.h as of version
// 18 (ONNX Runtime 1.18); test/kernels/test_onnxruntime_abi.py compares them with the header.

#pragma once

#include <cstddef>
#include <cstdint>

namespace tinyllama_ros {

constexpr uint32_t kApiVersion = 18;

struct Context;         // OrtKernelContext
struct Domain;          // OrtCustomOpDomain
struct KernelInfo;      // OrtKernelInfo
struct SessionOptions;  // OrtSessionOptions
struct Status;          // OrtStatus
struct TensorInfo;      // OrtTensorTypeAndShapeInfo
struct Value;           // OrtValue
struct CustomOp;        // OrtCustomOp

enum ElementType { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6 };  // ONNXTensorElementDataType

// Functions of OrtApi: the place of each in the table, and its type.
namespace api {

template <size_t place, typename FunctionType>
struct Entry {
  static constexpr size_t kPlace = place;
  using Function = FunctionType;
};

using CreateStatus = Entry<0, Status *(int, const char *)>;
using CreateCustomOpDomain = Entry<26, Status *(const char *, Domain **)>;
using CustomOpDomain_Add = Entry<27, Status *(Domain *, const CustomOp *)>;
using AddCustomOpDomain = Entry<28, Status *(SessionOptions *, Domain *)>;
using GetTensorMutableData = Entry<51, Status *(Value *, void **)>;
using GetDimensionsCount = Entry<61, Status *(const TensorInfo *, size_t *)>;
using GetDimensions = Entry<62, Status *(const TensorInfo *, int64_t *, size_t)>;
using GetTensorTypeAndShape = Entry<65, Status *(const Value *, TensorInfo **)>;
using KernelInfoGetAttribute_float = Entry<85, Status *(const KernelInfo *, const char *, float *)>;
using KernelInfoGetAttribute_int64 =
    Entry<86, Status *(const KernelInfo *, const char *, int64_t *)>;
using KernelContext_GetInput = Entry<90, Status *(const Context *, size_t, const Value **)>;
using KernelContext_GetOutput =
    Entry<91, Status *(Context *, size_t, const int64_t *, size_t, Value **)>;
using ReleaseTensorTypeAndShapeInfo = Entry<99, void(TensorInfo *)>;
using KernelInfoGetConstantInput_tensor =
    Entry<249, Status *(const KernelInfo *, size_t, int *, const Value **)>;
using KernelContext_ParallelFor =
    Entry<274, Status *(const Context *, void (*)(void *, size_t), size_t, size_t, void *)>;

}  // namespace api

class Api {
  // Calls a function of the table.
  template <typename Entry, typename... Arguments>
  auto Call(Arguments... arguments) const {
    void *const function = reinterpret_cast<void *const *>(this)[Entry::kPlace];
    return reinterpret_cast<typename Entry::Function *>(function)(arguments...);
  }

 public:
  Status *Fail(const char *message) const {
    constexpr int kFailed = 1;  // ORT_FAIL
    return Call<api::CreateStatus>(kFailed, message);
  }
  Status *NewDomain(const char *name, Domain **domain) const {
    return Call<api::CreateCustomOpDomain>(name, domain);
  }
  Status *Add(Domain *domain, const CustomOp *op) const {
    return Call<api::CustomOpDomain_Add>(domain, op);
  }
  Status *Add(SessionOptions *options, Domain *domain) const {
    return Call<api::AddCustomOpDomain>(options, domain);
  }
  Status *Data(const Value *value, void **data) const {
    return Call<api::GetTensorMutableData>(const_cast<Value *>(value), data);
  }
  Status *Rank(const TensorInfo *info, size_t *rank) const {
    return Call<api::GetDimensionsCount>(info, rank);
  }
  Status *Shape(const TensorInfo *info, int64_t *shape, size_t rank) const {
    return Call<api::GetDimensions>(info, shape, rank);
  }
  Status *Info(const Value *value, TensorInfo **info) const {
    return Call<api::GetTensorTypeAndShape>(value, info);
  }
  Status *Attribute(const KernelInfo *info, const char *name, float *value) const {
    return Call<api::KernelInfoGetAttribute_float>(info, name, value);
  }
  Status *Attribute(const KernelInfo *info, const char *name, int64_t *value) const {
    return Call<api::KernelInfoGetAttribute_int64>(info, name, value);
  }
  Status *Input(const Context *context, size_t index, const Value **value) const {
    return Call<api::KernelContext_GetInput>(context, index, value);
  }
  Status *Output(Context *context, size_t index, const int64_t *shape, size_t rank,
                 Value **value) const {
    return Call<api::KernelContext_GetOutput>(context, index, shape, rank, value);
  }
  void Release(TensorInfo *info) const { Call<api::ReleaseTensorTypeAndShapeInfo>(info); }
  Status *Constant(const KernelInfo *info, size_t index, int *is_constant,
                   const Value **value) const {
    return Call<api::KernelInfoGetConstantInput_tensor>(info, index, is_constant, value);
  }
  // Runs task(data, 0..count-1) on the session's threads, the caller's among them.
  Status *ParallelFor(const Context *context, void (*task)(void *, size_t), size_t count,
                      void *data) const {
    return Call<api::KernelContext_ParallelFor>(context, task, count, 0, data);
  }
};

// OrtApiBase
struct ApiBase {
  const Api *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)();
};

// OrtCustomOp: how ONNX Runtime makes and runs an operator. Functions that may be null stay so.
struct CustomOp {
  uint32_t version;
  void *(*CreateKernel)(const CustomOp *, const Api *, const KernelInfo *);
  const char *(*GetName)(const CustomOp *);
  const char *(*GetExecutionProviderType)(const CustomOp *);
  int (*GetInputType)(const CustomOp *, size_t);
  size_t (*GetInputTypeCount)(const CustomOp *);
  int (*GetOutputType)(const CustomOp *, size_t);
  size_t (*GetOutputTypeCount)(const CustomOp *);
  void (*KernelCompute)(void *, Context *);
  void (*KernelDestroy)(void *);
  int (*GetInputCharacteristic)(const CustomOp *, size_t);
  int (*GetOutputCharacteristic)(const CustomOp *, size_t);
  int (*GetInputMemoryType)(const CustomOp *, size_t);
  int (*GetVariadicInputMinArity)(const CustomOp *);
  int (*GetVariadicInputHomogeneity)(const CustomOp *);
  int (*GetVariadicOutputMinArity)(const CustomOp *);
  int (*GetVariadicOutputHomogeneity)(const CustomOp *);
  Status *(*CreateKernelV2)(const CustomOp *, const Api *, const KernelInfo *, void **);
  Status *(*KernelComputeV2)(void *, Context *);
  Status *(*InferOutputShapeFn)(const CustomOp *, void *);
  int (*GetStartVersion)(const CustomOp *);
  int (*GetEndVersion)(const CustomOp *);
  size_t (*GetMayInplace)(int **, int **);
  void (*ReleaseMayInplace)(int *, int *);
  size_t (*GetAliasMap)(int **, int **);
  void (*ReleaseAliasMap)(int *, int *);
};

}  // namespace tinyllama_ros
