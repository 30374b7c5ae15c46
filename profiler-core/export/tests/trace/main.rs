//! Traces: what the exporters write, read back by readers of their own.

mod capture;
mod follow;
mod formats;
mod kineto;
mod make;
mod perfetto;
mod protobuf;
