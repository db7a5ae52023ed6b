// Stands in for the toolkit's libregister.so, and tells what plugins have registered with it.

#include "register/register.h"

#include <cstring>

namespace ge {

class Operator {};

AscendString::AscendString(const char *text) : text_(text, text + std::strlen(text) + 1) {}
const char *AscendString::GetString() const { return text_.data(); }

}  // namespace ge

namespace {

std::string &Written() {
  static std::string written;
  return written;
}

}  // namespace

namespace domi {

OpRegistrationData::OpRegistrationData(const char *om_optype) : ge_type_{om_optype} {}
OpRegistrationData::~OpRegistrationData() {}

OpRegistrationData &OpRegistrationData::FrameworkType(const domi::FrameworkType &fmk_type) {
  framework_ = fmk_type;
  return *this;
}

OpRegistrationData &OpRegistrationData::OriginOpType(
    const std::vector<ge::AscendString> &ori_op_type_list) {
  origins_ = ori_op_type_list;
  return *this;
}

OpRegistrationData &OpRegistrationData::ParseParamsByOperatorFn(
    const ParseParamByOpFunc &parse_param_by_op_fn) {
  parse_ = parse_param_by_op_fn;
  return *this;
}

OpRegistrationData &OpRegistrationData::ImplyType(const domi::ImplyType &imply_type) {
  imply_type_ = imply_type;
  return *this;
}

OpReceiver::OpReceiver(OpRegistrationData &data) {
  for (const ge::AscendString &origin : data.origins_) {
    ge::Operator onnx, ascend;
    Written() += std::string(origin.GetString()) + ' ' + data.ge_type_.front().GetString() +
                 " framework " + std::to_string(data.framework_) + " imply type " +
                 std::to_string(static_cast<unsigned>(data.imply_type_)) + " parse status " +
                 std::to_string(data.parse_(onnx, ascend)) + '\n';
  }
}

}  // namespace domi

// One line for each operator: its ONNX name, the toolkit's, and what came with them.
extern "C" const char *registrations() { return Written().c_str(); }
