//! backend-npu
