"""Numbers of the Ascend interfaces: return codes, kinds, data types. Source: facts of CANN 8."""

import numpy as np

SUCCESS = 0
FAILURE = 500000

INVALID_PARAM = 100000
UNINITIALIZE = 100001
REPEAT_INITIALIZE = 100002
INVALID_FILE = 100003
DESERIALIZE_MODEL = 100012
PARSE_MODEL = 100013
MODEL_SIZE_INVALID = 100015
MODEL_MISSING_ATTR = 100016
INPUT_NOT_MATCH = 100017
OUTPUT_NOT_MATCH = 100018
MODEL_NOT_DYNAMIC = 100019
REPEAT_FINALIZE = 100037

RT_INVALID_PARAM = 107000
RT_INVALID_DEVICE = 107001
RT_CONTEXT_NULL = 107002
RT_STREAM_CONTEXT = 107003
RT_MODEL_CONTEXT = 107004
RT_INVALID_HANDLE = 107017
RT_MEMORY_ALLOCATION = 207001
RT_FEATURE_NOT_SUPPORT = 207000
RT_STREAM_RESOURCE = 207008
RT_REPORT_TIMEOUT = 507012
RT_STREAM_SYNC_TIMEOUT = 507046

GE_PARAM_INVALID = 145000
GE_MODEL_PATH_INVALID = 145002
GE_MODEL_ID_INVALID = 145003
GE_MODEL_DATA_SIZE_INVALID = 145006
GE_DYNAMIC_INPUT_ADDR = 145011
GE_DYNAMIC_INPUT_LENGTH = 145012
GE_DYNAMIC_BATCH_SIZE = 145013
GE_DEVICE_MEMORY = 245002
GE_LOAD_MODEL = 545001
GE_LOAD_WEIGHTS = 545003

MODEL_EXECUTE = 507011
LOSES_CONTEXT = frozenset({507011, 507017, 507018, 507034, 507035, 507036,
                           507042, 507043, 507044, 507045})
"""After these the context of the failing work is of no use."""
LOSES_DEVICE = frozenset({507000, 507001, 507010, 507014, 507015, 507016, 507053, 507054, 507899,
                          507901})
"""After these only a reset of the device helps."""

HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, DEFAULT = range(5)
ACL_DEVICE, ACL_HOST = 0, 1
FORMATS = {'NCHW': 0, 'ND': 2}

DATA_TYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 2: np.dtype(np.int8),
              3: np.dtype(np.int32), 4: np.dtype(np.uint8), 6: np.dtype(np.int16),
              7: np.dtype(np.uint16), 8: np.dtype(np.uint32), 9: np.dtype(np.int64),
              10: np.dtype(np.uint64), 11: np.dtype(np.float64), 12: np.dtype(np.bool_),
              16: np.dtype(np.complex64), 17: np.dtype(np.complex128)}
"""numpy's type for each aclDataType that it has."""
DATA_TYPE_OF = {dtype: number for number, dtype in DATA_TYPES.items()}

NUMPY_TYPES = {0: np.bool_, 1: np.int8, 2: np.uint8, 3: np.int16, 4: np.uint16, 5: np.int32,
               6: np.uint32, 7: np.int64, 8: np.uint64, 9: np.int64, 10: np.uint64,
               11: np.float32, 12: np.float64, 14: np.complex64, 15: np.complex128,
               23: np.float16}
"""numpy's type for each NPY type number, as ptr_to_numpy takes it."""
MAX_DIMS = 128
MAX_NAME = 128
