// A stand-in of the CANN toolkit's header of this name: as much of it as an ONNX plugin needs,
// with every overload that a call could fall to. register.cc writes down what is registered.

#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

namespace ge {

class Operator;

class AscendString {
 public:
  AscendString(const char *text);
  const char *GetString() const;

 private:
  std::vector<char> text_;
};

}  // namespace ge

namespace domi {

using Status = uint32_t;
constexpr Status SUCCESS = 0;

enum FrameworkType { CAFFE = 0, TENSORFLOW = 3, ONNX = 5 };
enum class ImplyType : unsigned int { BUILDIN = 0, TVM = 1 };

using ParseParamByOpFunc = std::function<Status(const ge::Operator &, ge::Operator &)>;

class OpRegistrationData {
 public:
  __attribute__((deprecated)) OpRegistrationData(const std::string &om_optype);
  OpRegistrationData(const char *om_optype);
  ~OpRegistrationData();
  OpRegistrationData &FrameworkType(const domi::FrameworkType &fmk_type);
  __attribute__((deprecated)) OpRegistrationData &OriginOpType(
      const std::initializer_list<std::string> &ori_optype_list);
  OpRegistrationData &OriginOpType(const std::vector<ge::AscendString> &ori_op_type_list);
  __attribute__((deprecated)) OpRegistrationData &OriginOpType(const std::string &ori_optype);
  OpRegistrationData &OriginOpType(const char *ori_op_type);
  OpRegistrationData &ParseParamsByOperatorFn(const ParseParamByOpFunc &parse_param_by_op_fn);
  OpRegistrationData &ImplyType(const domi::ImplyType &imply_type);

 private:
  friend class OpReceiver;
  std::vector<ge::AscendString> ge_type_;
  std::vector<ge::AscendString> origins_;
  domi::FrameworkType framework_ = CAFFE;
  domi::ImplyType imply_type_ = domi::ImplyType::BUILDIN;
  ParseParamByOpFunc parse_;
};

class OpReceiver {
 public:
  OpReceiver(OpRegistrationData &reg_data);
};

}  // namespace domi

#define REGISTER_CUSTOM_OP(name) REGISTER_CUSTOM_OP_UNIQ_HELPER(__COUNTER__, name)
#define REGISTER_CUSTOM_OP_UNIQ_HELPER(ctr, name) REGISTER_CUSTOM_OP_UNIQ(ctr, name)
#define REGISTER_CUSTOM_OP_UNIQ(ctr, name) \
  static OpReceiver register_op##ctr __attribute__((unused)) = OpRegistrationData(name)
