//! Traces: what the exporters write, read back by readers of their own.

#![expect(clippy::unwrap_used, reason = "a test fails by it, helpers included")]

mod capture;
mod follow;
mod formats;
mod kineto;
mod make;
mod order;
mod perfetto;
mod protobuf;
