//! A summary as text for people, CSV for scripts, a workbook for spreadsheets and the operator table
//! that servers write.
//!
//! One description of the tables serves text and CSV. Times are in microseconds. Kernels, API
//! calls and copies have the columns of `nsys stats` (`cuda_gpu_kern_sum`, `cuda_api_sum`,
//! `cuda_gpu_mem_time_sum`, `cuda_gpu_mem_size_sum`), operators those of PyTorch's
//! `key_averages().table()`.

mod csv;
mod grid;
mod ops;
mod text;
mod xlsx;

pub use csv::{CsvFile, csv_files, write_csv};
pub use ops::{ops_csv, ops_text};
pub use text::{TextOptions, report, text};
pub use xlsx::write_xlsx;
